"""Values to bytes: builds relocatable ELF objects, and rewrites existing ones.

An object under construction is a list of `OutSection`s and `OutSymbol`s that refer to each other
directly; numbers come to be only in `serialize`, which also orders local symbols first, makes the
string tables, and uses SHT_SYMTAB_SHNDX when there are more than 65,280 sections.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from ..base.errors import ElfError
from .constants import (
    EHDR_SIZE,
    EM_X86_64,
    MAGIC,
    RELA_DTYPE,
    RELA_SIZE,
    RESERVED_BASE,
    SHDR_DTYPE,
    SHDR_SIZE,
    SHN_UNDEF,
    SYM_DTYPE,
    SYM_SIZE,
    Binding,
    FileType,
    SectionFlag,
    SectionIndex,
    SectionType,
    SymbolType,
)
from .model import ElfFile


class OutReloc(NamedTuple):
    """A relocation to be written."""

    offset: int
    type: int
    symbol: OutSymbol
    addend: int


@dataclass(eq=False)
class OutSymbol:
    """A symbol to be written; `section` is an OutSection, or a special index as an int."""

    name: str
    value: int = 0
    size: int = 0
    binding: int = int(Binding.LOCAL)
    type: int = int(SymbolType.NOTYPE)
    section: OutSection | int = SHN_UNDEF
    other: int = 0


@dataclass(eq=False)
class OutSection:
    """A section to be written. `rela_name` and `rela_flags` describe its relocation section."""

    name: str
    type: int = int(SectionType.PROGBITS)
    flags: int = 0
    align: int = 1
    entsize: int = 0
    data: bytes = b""
    size: int | None = None
    link: OutSection | None = None
    relocs: list[OutReloc] = field(default_factory=list)
    extra_relas: list[OutRelaSection] = field(default_factory=list)


@dataclass(eq=False)
class OutRelaSection:
    """A further relocation section for the same target, e.g. `.klp.rela.vmlinux..text`."""

    name: str
    flags: int
    relocs: list[OutReloc] = field(default_factory=list)


@dataclass
class OutObject:
    """A relocatable object under construction.

    `by_index` finds the sections of an `editable` object by their original numbers.
    """

    sections: list[OutSection] = field(default_factory=list)
    symbols: list[OutSymbol] = field(default_factory=list)
    by_index: dict[int, OutSection] = field(default_factory=dict)


def editable(elf: ElfFile) -> OutObject:
    """An OutObject with the content of an existing relocatable object, ready to be changed."""
    kinds = (SectionType.NULL, SectionType.SYMTAB, SectionType.RELA, SectionType.SYMTAB_SHNDX)
    symbol_table = next((s for s in elf.sections if s.type == SectionType.SYMTAB), None)
    skipped = {symbol_table.link} if symbol_table else set()
    made: dict[int, OutSection] = {}
    for s in elf.sections:
        if s.type in kinds or s.index in skipped or s.name == ".shstrtab":
            continue
        made[s.index] = OutSection(
            s.name, s.type, s.flags, s.align, s.entsize, bytes(s.data), s.size
        )
    for s in elf.sections:
        if s.index in made and s.flags & SectionFlag.LINK_ORDER:
            made[s.index].link = made.get(s.link)
    symbols = [
        OutSymbol(
            s.name,
            s.value,
            s.size,
            s.binding,
            s.type,
            made.get(s.shndx, s.shndx),
            int(elf.symbols.other[s.index]),
        )
        for s in elf.symbols
    ]
    for index, section in made.items():
        relocs = elf.relocations(index)
        section.relocs = [
            OutReloc(int(o), int(t), symbols[int(s)], int(a))
            for o, t, s, a in zip(
                relocs.offset, relocs.type, relocs.symbol, relocs.addend, strict=True
            )
        ]
    return OutObject(list(made.values()), symbols[1:], made)


class _Strings:
    def __init__(self) -> None:
        self.blob = bytearray(b"\0")
        self._known: dict[str, int] = {"": 0}

    def add(self, text: str) -> int:
        at = self._known.get(text)
        if at is None:
            at = self._known[text] = len(self.blob)
            self.blob += text.encode() + b"\0"
        return at


class _Image:
    """The bytes of a file in the making: section contents one after the other, and headers."""

    def __init__(self) -> None:
        self.out = bytearray(EHDR_SIZE)
        self.headers: list[tuple[int, ...]] = [(0,) * 10]
        self._names = _Strings()

    def add(
        self,
        name: str,
        kind: int,
        data: bytes,
        *,
        flags: int = 0,
        size: int | None = None,
        link: int = 0,
        info: int = 0,
        align: int = 1,
        entsize: int = 0,
    ) -> None:
        """Appends a section; `size` is that of its data unless it has none in the file."""
        self.out.extend(bytes(-len(self.out) % max(align, 1)))
        at, length = len(self.out), len(data) if size is None else size
        name_at = self._names.add(name)
        self.headers.append((name_at, kind, flags, 0, at, length, link, info, align, entsize))
        self.out.extend(data)

    def add_names(self) -> None:
        """Appends the section of all sections' names, its own included."""
        self._names.add(".shstrtab")
        self.add(".shstrtab", SectionType.STRTAB, bytes(self._names.blob))


def serialize(obj: OutObject) -> bytes:
    """The bytes of a relocatable object. Deterministic: the same object gives the same bytes.

    Raises ElfError for a relocation to a symbol that is not among the object's, or whose numbers
    do not fit into their fields.
    """
    image, strings = _Image(), _Strings()
    number = {id(s): i for i, s in enumerate(obj.sections, 1)}
    symbols = sorted(obj.symbols, key=lambda s: s.binding != Binding.LOCAL)  # locals first, stable
    rela_count = sum(bool(s.relocs) + len(s.extra_relas) for s in obj.sections)
    symtab_index = 1 + len(obj.sections) + rela_count
    for s in obj.sections:
        image.add(
            s.name,
            s.type,
            s.data,
            flags=s.flags,
            size=s.size if s.type == SectionType.NOBITS else None,
            link=number[id(s.link)] if s.link is not None else 0,
            align=s.align,
            entsize=s.entsize,
        )
    _add_relocations(image, obj, symbols, symtab_index)
    table, wide = _symbol_entries(symbols, number, strings)
    image.add(
        ".symtab",
        SectionType.SYMTAB,
        table,
        link=symtab_index + 1 + bool(wide),
        info=1 + sum(s.binding == Binding.LOCAL for s in symbols),
        align=8,
        entsize=SYM_SIZE,
    )
    if wide:
        kind = SectionType.SYMTAB_SHNDX
        image.add(".symtab_shndx", kind, wide, link=symtab_index, align=4, entsize=4)
    image.add(".strtab", SectionType.STRTAB, bytes(strings.blob))
    image.add_names()
    return _finish(image.out, image.headers)


def _add_relocations(
    image: _Image, obj: OutObject, symbols: list[OutSymbol], symtab_index: int
) -> None:
    position = {id(s): i for i, s in enumerate(symbols, 1)}
    for target, s in enumerate(obj.sections, 1):
        relas = [OutRelaSection(".rela" + s.name, 0, s.relocs)] if s.relocs else []
        for rela in [*relas, *s.extra_relas]:
            image.add(
                rela.name,
                SectionType.RELA,
                _rela_bytes(rela.relocs, position),
                flags=rela.flags | SectionFlag.INFO_LINK,
                link=symtab_index,
                info=target,
                align=8,
                entsize=RELA_SIZE,
            )


def _symbol_entries(
    symbols: list[OutSymbol], number: dict[int, int], strings: _Strings
) -> tuple[bytes, bytes]:
    """The symbol table's bytes, and those of SHT_SYMTAB_SHNDX (empty when not needed)."""
    table = np.zeros(len(symbols) + 1, SYM_DTYPE)
    wide = np.zeros(len(symbols) + 1, "<u4")
    for i, s in enumerate(symbols, 1):
        if isinstance(s.section, OutSection):
            index = number[id(s.section)]
            if index >= SectionIndex.LORESERVE:
                wide[i], index = index, int(SectionIndex.XINDEX)
        else:
            index = s.section & 0xFFFF if s.section >= RESERVED_BASE else s.section
        name = "" if s.type == SymbolType.SECTION else s.name
        table[i] = (strings.add(name), s.binding << 4 | s.type, s.other, index, s.value, s.size)
    return table.tobytes(), wide.tobytes() if wide.any() else b""


def _rela_bytes(relocs: list[OutReloc], position: dict[int, int]) -> bytes:
    for r in relocs:
        if id(r.symbol) not in position and (r.symbol.name or r.symbol.section != SHN_UNDEF):
            raise ElfError(
                f"the relocation at offset {r.offset:#x} of its section is to '{r.symbol.name}', "
                "which is not in the symbol table"
            )
        if not (0 <= r.offset < 2**63 and -(2**63) <= r.addend < 2**63):  # numbers that C takes
            raise ElfError(
                f"the relocation at offset {r.offset:#x} of its section, to '{r.symbol.name}', "
                f"cannot be written with the addend {r.addend:#x}"
            )
    table = np.zeros(len(relocs), RELA_DTYPE)
    table["offset"] = [r.offset for r in relocs]
    table["info"] = [position.get(id(r.symbol), 0) << 32 | r.type for r in relocs]
    table["addend"] = [r.addend for r in relocs]
    return table.tobytes()


def _finish(out: bytearray, headers: list[tuple[int, ...]]) -> bytes:
    """Appends the section headers and fills in the ELF header."""
    out.extend(bytes(-len(out) % 8))
    shoff, count = len(out), len(headers)
    table = np.array(headers, dtype=SHDR_DTYPE)
    shstrndx = count - 1
    if count >= SectionIndex.LORESERVE:
        table[0]["size"] = count
        table[0]["link"] = shstrndx
    out.extend(table.tobytes())
    many = count >= SectionIndex.LORESERVE
    out[:EHDR_SIZE] = (
        MAGIC
        + bytes([2, 1, 1, 0])
        + bytes(8)
        + int(FileType.REL).to_bytes(2, "little")
        + EM_X86_64.to_bytes(2, "little")
        + (1).to_bytes(4, "little")
        + bytes(16)
        + shoff.to_bytes(8, "little")
        + bytes(4)
        + EHDR_SIZE.to_bytes(2, "little")
        + bytes(4)
        + SHDR_SIZE.to_bytes(2, "little")
        + (0 if many else count).to_bytes(2, "little")
        + (int(SectionIndex.XINDEX) if many else shstrndx).to_bytes(2, "little")
    )
    return bytes(out)
