"""ELF numbers that the project uses, as enums (gABI; x86-64 psABI; linux/elf.h for livepatch)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

import numpy as np

MAGIC = b"\x7fELF"
EM_X86_64 = 62
EHDR_SIZE = 64
SHDR_SIZE = 64
SYM_SIZE = 24
RELA_SIZE = 24


class FileType(IntEnum):
    """e_type."""

    REL = 1
    EXEC = 2
    DYN = 3


class SectionType(IntEnum):
    """sh_type, those that occur in kernel objects."""

    NULL = 0
    PROGBITS = 1
    SYMTAB = 2
    STRTAB = 3
    RELA = 4
    NOTE = 7
    NOBITS = 8
    INIT_ARRAY = 14
    GROUP = 17
    SYMTAB_SHNDX = 18


class SectionFlag(IntFlag):
    """sh_flags."""

    WRITE = 0x1
    ALLOC = 0x2
    EXECINSTR = 0x4
    MERGE = 0x10
    STRINGS = 0x20
    INFO_LINK = 0x40
    LINK_ORDER = 0x80
    GROUP = 0x200
    TLS = 0x400
    RELA_LIVEPATCH = 0x00100000


class SectionIndex(IntEnum):
    """Special values of st_shndx."""

    UNDEF = 0
    LORESERVE = 0xFF00
    LIVEPATCH = 0xFF20
    ABS = 0xFFF1
    COMMON = 0xFFF2
    XINDEX = 0xFFFF


# In the model every section index is 32 bits wide and a real one may exceed 0xff00 (objects with
# more than 65,280 sections), so the reserved values move out of the way: value | RESERVED_BASE.
RESERVED_BASE = 0xFFFF0000
SHN_UNDEF = 0
SHN_ABS = RESERVED_BASE | SectionIndex.ABS
SHN_COMMON = RESERVED_BASE | SectionIndex.COMMON
SHN_LIVEPATCH = RESERVED_BASE | SectionIndex.LIVEPATCH


class Binding(IntEnum):
    """ELF64_ST_BIND."""

    LOCAL = 0
    GLOBAL = 1
    WEAK = 2


class SymbolType(IntEnum):
    """ELF64_ST_TYPE."""

    NOTYPE = 0
    OBJECT = 1
    FUNC = 2
    SECTION = 3
    FILE = 4
    COMMON = 5
    TLS = 6


class Reloc(IntEnum):
    """x86-64 relocation types."""

    NONE = 0
    R64 = 1
    PC32 = 2
    PLT32 = 4
    GOTPCREL = 9
    R32 = 10
    R32S = 11
    PC64 = 24


RELOC_WIDTH = {
    Reloc.NONE: 0,
    Reloc.R64: 8,
    Reloc.PC32: 4,
    Reloc.PLT32: 4,
    Reloc.GOTPCREL: 4,
    Reloc.R32: 4,
    Reloc.R32S: 4,
    Reloc.PC64: 8,
}
PC_RELATIVE = frozenset({Reloc.PC32, Reloc.PLT32, Reloc.PC64})
PADDING_NAME = "__pfx_"  # objtool names the padding before a function so (since Linux 6.2)

SHDR_DTYPE = np.dtype(
    [
        ("name", "<u4"),
        ("type", "<u4"),
        ("flags", "<u8"),
        ("addr", "<u8"),
        ("offset", "<u8"),
        ("size", "<u8"),
        ("link", "<u4"),
        ("info", "<u4"),
        ("align", "<u8"),
        ("entsize", "<u8"),
    ]
)
SYM_DTYPE = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("shndx", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)
RELA_DTYPE = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
