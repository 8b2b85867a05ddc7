"""A loaded module's code as the kernel's loader left it: the shipped file, relocated again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..base.errors import ElfError
from ..elf.constants import RESERVED_BASE, SHN_ABS, SHN_UNDEF, Binding, Reloc, SymbolType
from ..elf.model import ElfFile, Section
from ..kernel.modules import ModuleImage
from .code import U8, U64, Code, Names, Placed

PER_CPU = ".data..percpu"
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


@dataclass(frozen=True)
class Loaded:
    """A module's code in memory, and the symbols that nothing is known of, by name."""

    code: Code
    unknown: tuple[str, ...]


def load(
    image: ModuleImage,
    sections: Mapping[str, int],
    symbols: Mapping[str, int],
    resolve: Callable[[str], int | None],
) -> Loaded:
    """Places a module's sections and fills in the addresses in them; pure.

    `sections` are the running addresses of its sections and `symbols` of its symbols, both as the
    kernel shows them; `resolve` knows the addresses of what other objects export. Raises ElfError
    for relocations that the kernel would not take either.
    """
    elf = image.elf
    places = _places(elf, sections, symbols)
    values, unknown = _values(elf, places, resolve)
    placed = []
    for section in elf.sections:
        stays = section.is_exec and section.name in sections and not _is_init(section)
        if section.is_alloc and (stays or section.name.startswith(READ)):
            data = relocated(elf, section, places[section.index], values)
            placed.append(Placed(section.name, places[section.index], data, stays))
    used = _used(elf, [s for s in elf.sections if s.is_exec and not _is_init(s)])
    missing = tuple(sorted({name for index, name in unknown.items() if index in used}))
    return Loaded(Code(image.name, tuple(placed), _names(elf, places)), missing)


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
) -> dict[int, int]:
    """The running address of each section that takes memory, by index."""
    places = {}
    free = (min(sections.values(), default=0) + FAR) & ~0xFFF
    for section in elf.sections:
        if not section.is_alloc:
            continue
        if section.name in sections:
            places[section.index] = sections[section.name]
        elif section.name == PER_CPU and (base := _base(elf, section, symbols)) is not None:
            places[section.index] = base
        else:
            places[section.index] = free
            free += (section.size + 0xFFF) & ~0xFFF
    return places


def _base(elf: ElfFile, section: Section, symbols: Mapping[str, int]) -> int | None:
    """Where a section is that the kernel shows only by its symbols."""
    for index in elf.symbols_in_section.get(section.index, ()):
        symbol = elf.symbols[int(index)]
        if symbol.name in symbols and len(elf.symbols.by_name[symbol.name]) == 1:
            return symbols[symbol.name] - symbol.value
    return None


def _values(
    elf: ElfFile, places: Mapping[int, int], resolve: Callable[[str], int | None]
) -> tuple[U64, dict[int, str]]:
    """The running value of every symbol; the names of those that are not known, by index."""
    table = elf.symbols
    values = table.value.copy()
    unknown: dict[int, str] = {}
    for index in range(1, len(table)):
        owner = int(table.shndx[index])
        if owner == SHN_UNDEF:
            address = resolve(table.names[index])
            if address is None and table.binding[index] != Binding.WEAK:
                unknown[index] = table.names[index]
            values[index] = address or 0
        elif owner in places:
            values[index] += np.uint64(places[owner])
        elif owner >= RESERVED_BASE and owner != SHN_ABS:
            unknown[index] = table.names[index]
    return values, unknown


def _used(elf: ElfFile, sections: Sequence[Section]) -> frozenset[int]:
    """The symbols that sections refer to."""
    return frozenset(s for section in sections for s in elf.relocations(section).symbol.tolist())


def _names(elf: ElfFile, places: Mapping[int, int]) -> Names:
    found = []
    for index, name in enumerate(elf.symbols.names):
        owner = int(elf.symbols.shndx[index])
        kind = elf.symbols.type[index]
        if name and owner in places and kind not in (SymbolType.SECTION, SymbolType.FILE):
            found.append((places[owner] + int(elf.symbols.value[index]), name))
    found.sort(key=lambda pair: pair[0])
    return Names(np.array([a for a, _ in found], np.uint64), tuple(n for _, n in found))
