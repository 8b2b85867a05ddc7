"""Layer 2: the types that an object file or a kernel describes, read from BTF.

btf       bytes to `Btf`: the records of one type section, as they are
twins     which types of two sections are the same, quickly
shape     what of a type matters to code: members at offsets, sizes, signatures
declare   a type as C writes it, for messages
"""
