"""A loaded module's code as the kernel's loader left it: the shipped file, relocated again."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..base.errors import ElfError
from ..elf.constants import RESERVED_BASE, SHN_ABS, SHN_UNDEF, Binding, Reloc, SymbolType
from ..elf.model import ElfFile, Section
from ..kernel.modules import ModuleImage
from .code import NO_PLACES, U8, U64, Code, Names, Placed

FAR = 1 << 28  # where sections are put that are not in memory any more: out of the way, in reach
WIDE, NARROW = "<u8", "<u4"
FIELDS = {
    Reloc.R64: (WIDE, False),
    Reloc.PC64: (WIDE, True),
    Reloc.R32: (NARROW, False),
    Reloc.R32S: (NARROW, False),
    Reloc.PC32: (NARROW, True),
    Reloc.PLT32: (NARROW, True),
}
READ = (".altinstr", ".parainstructions", ".retpoline_sites", ".return_sites", ".smp_locks",
        ".ibt_endbr_seal", "__jump_table", ".static_call_sites", "__mcount_loc",
        "runtime_")  # fmt: skip


def load(
    image: ModuleImage,
    sections: Mapping[str, int],
    symbols: Mapping[str, int],
    resolve: Callable[[str], int | None],
) -> Code:
    """Places a module's sections and fills in the addresses in them; pure.

    `sections` are the running addresses of its sections and `symbols` of its symbols, both as the
    kernel shows them; `resolve` knows the addresses of what other objects export. Fields that refer
    to what is in none of them are `blind` in the code. Raises ElfError for relocations that the
    kernel would not take either.
    """
    elf = image.elf
    places, known = _places(elf, sections, symbols)
    values, unknown = _values(elf, places, known, resolve)
    placed, blind = [], []
    for section in elf.sections:
        stays = section.is_exec and section.name in sections and not _is_init(section)
        if section.is_alloc and (stays or section.name.startswith(READ)):
            data = relocated(elf, section, places[section.index], values)
            placed.append(Placed(section.name, places[section.index], data, stays))
            relocs = elf.relocations(section)
            fields = relocs.offset[np.isin(relocs.symbol, unknown)]
            blind.append(fields + np.uint64(places[section.index]))
    names = _names(elf, places)
    return Code(image.name, tuple(placed), names, np.concatenate(blind) if blind else NO_PLACES)


def relocated(elf: ElfFile, section: Section, address: int, values: U64) -> U8:
    """A section's bytes with the relocations applied that are for it."""
    data = np.frombuffer(section.data, np.uint8).copy()
    relocs = elf.relocations(section)
    targets = values[relocs.symbol] + relocs.addend.astype(np.uint64)
    places = np.uint64(address) + relocs.offset
    for number in np.unique(relocs.type).tolist():
        if number == Reloc.NONE:
            continue
        if number not in FIELDS:
            raise ElfError(f"{elf.name}: the relocations of {section.label} have the type {number}")
        kind, relative = FIELDS[Reloc(number)]
        chosen = relocs.type == number
        result = targets[chosen] - places[chosen] if relative else targets[chosen]
        width = int(kind[-1])
        fields = np.ascontiguousarray(result).view(np.uint8).reshape(-1, 8)[:, :width]
        data[relocs.offset[chosen].astype(np.int64)[:, None] + np.arange(width)] = fields
    return data


def _is_init(section: Section) -> bool:
    return section.name.startswith(".init")


def _places(
    elf: ElfFile, sections: Mapping[str, int], symbols: Mapping[str, int]
) -> tuple[dict[int, int], frozenset[int]]:
    """The running address of each section that takes memory, by index; which of them are known.

    The kernel does not list sections that are empty or per CPU; symbols in them may tell.
    """
    places, known = {}, set()
    free = (min(sections.values(), default=0) + FAR) & ~0xFFF
    for section in elf.sections:
        if not section.is_alloc:
            continue
        address = sections.get(section.name)
        if address is None:
            address = _base(elf, section, symbols)
        if address is not None:
            known.add(section.index)
        else:
            address = free
            free += (section.size + 0xFFF) & ~0xFFF
        places[section.index] = address
    return places, frozenset(known)


def _base(elf: ElfFile, section: Section, symbols: Mapping[str, int]) -> int | None:
    """Where a section is, by a symbol in it whose name the module has once."""
    for index in elf.symbols_in_section.get(section.index, ()):
        symbol = elf.symbols[int(index)]
        if symbol.name in symbols and len(elf.symbols.by_name.get(symbol.name, ())) == 1:
            return symbols[symbol.name] - symbol.value
    return None


def _values(
    elf: ElfFile,
    places: Mapping[int, int],
    known: frozenset[int],
    resolve: Callable[[str], int | None],
) -> tuple[U64, list[int]]:
    """The running value of every symbol, and the indices of those whose value is not known."""
    table = elf.symbols
    values = table.value.copy()
    unknown = []
    for index in range(1, len(table)):
        owner = int(table.shndx[index])
        if owner == SHN_UNDEF:
            address = resolve(table.names[index])
            if address is None and table.binding[index] != Binding.WEAK:
                unknown.append(index)
            values[index] = address or 0
        elif owner in places:
            values[index] += np.uint64(places[owner])
            if owner not in known:
                unknown.append(index)
        elif owner >= RESERVED_BASE and owner != SHN_ABS:
            unknown.append(index)
    return values, unknown


def _names(elf: ElfFile, places: Mapping[int, int]) -> Names:
    found = []
    for index, name in enumerate(elf.symbols.names):
        owner = int(elf.symbols.shndx[index])
        kind = elf.symbols.type[index]
        if name and owner in places and kind not in (SymbolType.SECTION, SymbolType.FILE):
            found.append((places[owner] + int(elf.symbols.value[index]), name))
    found.sort(key=lambda pair: pair[0])
    return Names(np.array([a for a, _ in found], np.uint64), tuple(n for _, n in found))
