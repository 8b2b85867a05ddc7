"""The shipped code of a module: a .ko file, which is not linked yet.

Its sections are laid out one after another in an address range of our own, and each undefined
symbol gets a slot of its own far away. See shipped.py for what a place is.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..base.errors import NotFoundError, RefusedError
from ..elf.constants import SHN_UNDEF, Binding, Reloc, SymbolType
from ..elf.model import ElfFile, Section
from ..kernel.modules import ModuleImage
from .shipped import I64, U32, U64, Bool, JumpTable, Named, best_name, field_targets, folded

MODULE_BASE = 1 << 40
EXTERNAL_BASE = 1 << 48
EXTERNAL_SLOT = 1 << 32


@dataclass(frozen=True)
class ShippedModule:
    """A module's .ko file, whose sections and undefined symbols get places of our own."""

    module: ModuleImage

    @property
    def name(self) -> str:
        return self.module.name

    @property
    def elf(self) -> ElfFile:
        """The module's file."""
        return self.module.elf

    @cached_property
    def _bases(self) -> dict[int, int]:
        """Section index -> its first place; a gap keeps the end of one from the next."""
        bases: dict[int, int] = {}
        at = MODULE_BASE
        for section in self.elf.sections:
            if section.is_alloc:
                align = max(section.align, 1)
                at = (at + align - 1) // align * align
                bases[section.index] = at
                at += section.size + 4096
        return bases

    def base_of(self, section: int) -> int | None:
        """The first place of a section; None for one that takes no memory."""
        return self._bases.get(section)

    @cached_property
    def _layout(self) -> tuple[list[int], list[Section]]:
        return list(self._bases.values()), [self.elf.sections[i] for i in self._bases]

    @cached_property
    def places(self) -> U64:
        """The place of every symbol of the module's symbol table."""
        table = self.elf.symbols
        places = table.value.copy()
        for section, base in self._bases.items():
            places[table.shndx == section] += np.uint64(base)
        undefined = np.nonzero(table.shndx == SHN_UNDEF)[0]
        places[undefined] = EXTERNAL_BASE + undefined.astype(np.uint64) * EXTERNAL_SLOT
        return places

    @cached_property
    def _by_place(self) -> dict[int, list[int]]:
        """Named symbols (not of sections or files) by place, in symbol table order."""
        table = self.elf.symbols
        known = (table.type != SymbolType.SECTION) & (table.type != SymbolType.FILE)
        placed = (table.shndx == SHN_UNDEF) | np.isin(table.shndx, list(self._bases))
        found: dict[int, list[int]] = {}
        for index in np.nonzero(known & placed)[0].tolist():
            if table.names[index]:
                found.setdefault(int(self.places[index]), []).append(index)
        return found

    @cached_property
    def _sorted_places(self) -> list[int]:
        return sorted(self._by_place)

    @cached_property
    def _by_name(self) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
        """Places by name, and by folded name."""
        exact: dict[str, list[int]] = {}
        loose: dict[str, list[int]] = {}
        for place in self._sorted_places:
            for index in self._by_place[place]:
                name = self.elf.symbols.names[index]
                exact.setdefault(name, []).append(place)
                loose.setdefault(folded(name), []).append(place)
        return exact, loose

    def candidates(self, name: str) -> tuple[int, ...]:
        return tuple(self._by_name[0].get(name, ()))

    def folded_candidates(self, name: str) -> tuple[int, ...]:
        return tuple(self._by_name[1].get(folded(name), ()))

    def is_weak(self, name: str) -> bool:
        binding = self.elf.symbols.binding
        return any(binding[i] == Binding.WEAK for i in self.module.namesakes(name))

    def names_at(self, place: int) -> tuple[str, ...]:
        names = self.elf.symbols.names
        return tuple(names[i] for i in self._by_place.get(place, ()))

    def name_at(self, place: int, prefer: str = "") -> Named | None:
        position = bisect.bisect_right(self._sorted_places, place) - 1
        if position < 0:
            return None
        start = self._sorted_places[position]
        if start < EXTERNAL_BASE and self._section_at(start) is not self._section_at(place):
            return None
        indices = self._by_place[start]
        name = best_name(tuple(self.elf.symbols.names[i] for i in indices), prefer)
        index = next(i for i in indices if self.elf.symbols.names[i] == name)
        external = start >= EXTERNAL_BASE
        sympos: int | None = None
        if not external:
            try:
                sympos = self.module.sympos(name, index)
            except (RefusedError, NotFoundError):
                sympos = None
        return Named(name, sympos, place - start, external)

    def _section_at(self, place: int) -> Section | None:
        starts, sections = self._layout
        position = bisect.bisect_right(starts, place) - 1
        if position < 0 or place > starts[position] + sections[position].size:
            return None
        return sections[position]

    def content(self, place: int, size: int) -> memoryview | None:
        data = self.available(place, size)
        return data if len(data) == size else None

    def available(self, place: int, limit: int) -> memoryview:
        section = self._section_at(place)
        if section is None:
            return memoryview(b"")
        start = place - self._bases[section.index]
        return section.data[start : start + limit]

    def targets(self, place: int, offsets: I64, types: U32) -> tuple[U64, Bool]:
        section = self._section_at(place)
        if section is None or not len(offsets):
            return np.zeros(len(offsets), np.uint64), np.zeros(len(offsets), np.bool_)
        start = place - self._bases[section.index]
        relocations = self.elf.relocations(section)
        wanted = offsets.astype(np.uint64) + np.uint64(start)
        at = np.searchsorted(relocations.offset, wanted)
        at_safe = np.minimum(at, max(len(relocations) - 1, 0))
        has = np.zeros(len(offsets), np.bool_)
        same = has
        values = np.zeros(len(offsets), np.uint64)
        if len(relocations):
            has = (at < len(relocations)) & (relocations.offset[at_safe] == wanted)
            addends = relocations.addend[at_safe].astype(np.uint64)
            values = self.places[relocations.symbol[at_safe]] + addends
            same = _kind(relocations.type[at_safe]) == _kind(types)
        # The assembler resolves a call within one section itself and leaves no relocation.
        code = self.available(place, int(offsets.max()) + 4)
        inside = ~has & np.isin(types, (Reloc.PC32, Reloc.PLT32))
        inside &= (offsets >= 0) & (offsets + 4 <= len(code))
        if inside.any():
            values[inside] = field_targets(place, code, offsets[inside], types[inside])
        return values, (has & same) | inside

    def stray_relocation(self, place: int, size: int, offsets: I64) -> int | None:
        section = self._section_at(place)
        if section is None:
            return None
        start = place - self._bases[section.index]
        relocations = self.elf.relocations(section)
        there = relocations.offset[relocations.within(start, start + size)].astype(np.int64) - start
        strays = there[~np.isin(there, offsets)]
        return int(strays[0]) if len(strays) else None

    @cached_property
    def _jumps(self) -> JumpTable:
        found: dict[int, tuple[int, int]] = {}
        for section in self.elf.sections_named("__jump_table"):
            relocations = self.elf.relocations(section)
            places = self.places[relocations.symbol] + relocations.addend.astype(np.uint64)
            at = dict(zip(relocations.offset.tolist(), places.tolist(), strict=True))
            for start in range(0, section.size - 15, 16):
                if {start, start + 4, start + 8} <= at.keys():
                    found[at[start]] = at[start + 4], at[start + 8]
        return JumpTable(found)

    def jump_labels(self, place: int, size: int) -> tuple[int, ...]:
        return self._jumps.within(place, size)

    def jump_entry(self, place: int) -> tuple[int, int] | None:
        return self._jumps.entries.get(place)

    def section_name(self, place: int) -> str:
        section = self._section_at(place)
        return section.name if section else ""

    def table(self, section: str) -> tuple[int, int] | None:
        found = self.elf.section_by_name.get(section)
        return (self._bases[found.index], found.size) if found else (0, 0)


def _kind(types: U32) -> U32:
    """Relocation types with PLT32 counted as PC32: they compute the same in the kernel."""
    return np.where(types == Reloc.PLT32, np.uint32(Reloc.PC32), types)
