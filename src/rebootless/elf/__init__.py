"""Layer 1: ELF64 x86-64 files between bytes and values; relocatable objects on numpy arrays."""
