"""The object model: one immutable value per file, with symbols and relocations as numpy arrays.

An `ElfFile` never changes. Sections are small records over one memoryview; the symbol table is a
struct of arrays; the relocations of a section are a struct of arrays too, decoded when first asked
for. Indices are the file's own: section 0 and symbol 0 are the null entries.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .constants import (
    RELA_DTYPE,
    RESERVED_BASE,
    SHN_UNDEF,
    Binding,
    FileType,
    SectionFlag,
    SectionType,
    SymbolType,
)

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
# Plain numbers: an operation on an enum's value takes ten times as long.
_ALLOC, _EXEC, _WRITE = (
    int(flag) for flag in (SectionFlag.ALLOC, SectionFlag.EXECINSTR, SectionFlag.WRITE)
)
_GROUP = int(SectionFlag.GROUP)
_MERGE = int(SectionFlag.MERGE)
_POOL = int(SectionFlag.MERGE | SectionFlag.STRINGS)
_NOBITS = int(SectionType.NOBITS)

LONGEST_SHOWN = 100  # characters of a section's name in a message


@dataclass(frozen=True)
class Section:
    """One section header and its bytes (`data` is empty for NOBITS); `offset` is in the file."""

    index: int
    name: str
    type: int
    flags: int
    addr: int
    size: int
    link: int
    info: int
    align: int
    entsize: int
    data: memoryview = field(repr=False, compare=False)
    offset: int = 0

    @property
    def label(self) -> str:
        """The section in a message: its name, cut where a damaged one has no end, and place."""
        name = self.name if len(self.name) <= LONGEST_SHOWN else self.name[:LONGEST_SHOWN] + "..."
        return f"'{name}' at offset {self.offset:#x}"

    @property
    def is_alloc(self) -> bool:
        """Whether the section takes memory at run time."""
        return bool(self.flags & _ALLOC)

    @property
    def is_exec(self) -> bool:
        """Whether the section holds code."""
        return bool(self.flags & _EXEC)

    @property
    def is_write(self) -> bool:
        """Whether the section can be written at run time."""
        return bool(self.flags & _WRITE)

    @property
    def is_string_pool(self) -> bool:
        """Whether the section holds mergeable NUL-terminated strings."""
        return self.flags & _POOL == _POOL and self.type != _NOBITS

    @property
    def is_constant_pool(self) -> bool:
        """Whether the section holds mergeable constants of `entsize` bytes."""
        return self.flags & _POOL == _MERGE and self.type != _NOBITS and self.entsize > 0

    @property
    def is_grouped(self) -> bool:
        """Whether the section belongs to a section group."""
        return bool(self.flags & _GROUP)


@dataclass(frozen=True)
class Symbol:
    """One symbol, as a value; for loops over many use the arrays of `SymbolTable`."""

    index: int
    name: str
    value: int
    size: int
    binding: int
    type: int
    shndx: int

    @property
    def is_function(self) -> bool:
        """Whether the symbol is a function."""
        return self.type == SymbolType.FUNC

    @property
    def is_local(self) -> bool:
        """Whether the symbol is local to its unit."""
        return self.binding == Binding.LOCAL

    @property
    def is_undefined(self) -> bool:
        """Whether the symbol is defined elsewhere."""
        return self.shndx == SHN_UNDEF


@dataclass(frozen=True)
class SymbolTable:
    """Parallel arrays over all symbols; `shndx` is widened (see constants.RESERVED_BASE)."""

    names: tuple[str, ...]
    value: U64
    size: U64
    binding: U8
    type: U8
    other: U8
    shndx: U32

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Symbol:
        return Symbol(
            index,
            self.names[index],
            int(self.value[index]),
            int(self.size[index]),
            int(self.binding[index]),
            int(self.type[index]),
            int(self.shndx[index]),
        )

    def __iter__(self) -> Iterator[Symbol]:
        return (self[i] for i in range(len(self)))

    @cached_property
    def by_name(self) -> dict[str, tuple[int, ...]]:
        """Symbol indices by name, in table order, unnamed and section symbols left out."""
        found: dict[str, list[int]] = {}
        for index in np.nonzero(self.type != int(SymbolType.SECTION))[0].tolist():
            if name := self.names[index]:
                found.setdefault(name, []).append(index)
        return {name: tuple(indices) for name, indices in found.items()}


@dataclass(frozen=True)
class Relocations:
    """The relocations of one section, sorted by offset: parallel arrays of equal length."""

    offset: U64
    type: U32
    symbol: U32
    addend: I64

    def __len__(self) -> int:
        return len(self.offset)

    def within(self, start: int, end: int) -> slice:
        """The slice of relocations whose offset lies in [start, end)."""
        first, last = np.searchsorted(self.offset, np.array([start, end], dtype=np.uint64))
        return slice(int(first), int(last))


NO_RELOCATIONS = Relocations(
    np.empty(0, np.uint64), np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0, np.int64)
)


@dataclass(frozen=True)
class ElfFile:
    """An ELF64 little-endian x86-64 file: an object, a kernel module, or a vmlinux image."""

    name: str
    type: FileType
    sections: tuple[Section, ...]
    symbols: SymbolTable
    _reloc_sections: dict[int, int] = field(repr=False)  # section index -> index of its SHT_RELA
    data: memoryview = field(repr=False, compare=False)

    @cached_property
    def section_by_name(self) -> dict[str, Section]:
        """The first section of each name."""
        found: dict[str, Section] = {}
        for section in self.sections:
            found.setdefault(section.name, section)
        return found

    @cached_property
    def derived(self) -> dict[str, Any]:
        """What others have computed of this file and want to keep, each under a name of its own."""
        return {}

    def sections_named(self, name: str) -> tuple[Section, ...]:
        """All sections of that name, in file order."""
        return tuple(s for s in self.sections if s.name == name)

    def relocations(self, section: Section | int) -> Relocations:
        """The relocations that apply to a section (empty if there are none), sorted by offset."""
        index = section if isinstance(section, int) else section.index
        known = self._relocations_cache.get(index)
        return known if known is not None else self._decode_relocations(index)

    @cached_property
    def _relocations_cache(self) -> dict[int, Relocations]:
        return {}

    def _decode_relocations(self, index: int) -> Relocations:
        rela_index = self._reloc_sections.get(index)
        if rela_index is None:
            return NO_RELOCATIONS
        raw = np.frombuffer(self.sections[rela_index].data, dtype=RELA_DTYPE)
        order = np.argsort(raw["offset"], kind="stable")
        raw = raw[order]
        relocations = Relocations(
            raw["offset"].astype(np.uint64),
            (raw["info"] & 0xFFFFFFFF).astype(np.uint32),
            (raw["info"] >> np.uint64(32)).astype(np.uint32),
            raw["addend"].astype(np.int64),
        )
        self._relocations_cache[index] = relocations
        return relocations

    @cached_property
    def symbols_in_section(self) -> dict[int, npt.NDArray[np.int64]]:
        """Per section, the indices of its named symbols, sorted by value (section symbols left
        out)."""
        table = self.symbols
        shndx = table.shndx
        wanted = (
            (shndx != SHN_UNDEF)
            & (shndx < RESERVED_BASE)
            & (table.type != SymbolType.SECTION)
            & (table.type != SymbolType.FILE)
        )
        indices = np.nonzero(wanted)[0]
        order = np.lexsort((indices, table.value[indices], shndx[indices]))
        indices = indices[order]
        owners = shndx[indices]
        if not len(indices):
            return {}
        starts = np.nonzero(np.r_[True, owners[1:] != owners[:-1]])[0]
        ends = [*starts[1:], len(indices)]
        return {int(owners[s]): indices[s:e] for s, e in zip(starts, ends, strict=True)}

    def symbol_at(self, section: int, offset: int) -> Symbol | None:
        """The symbol that covers `offset` of a section: the last that starts at or before it.

        At a shared address a sized symbol wins over an empty one. An offset past the end of every
        symbol belongs to the last one (a reference to the end of an array).
        """
        indices = self.symbols_in_section.get(section)
        if indices is None or not len(indices):
            return None
        values = self.symbols.value[indices]
        last = bisect.bisect_right(values, offset) - 1
        if last < 0:
            return None
        candidates = [int(i) for i, v in zip(indices, values, strict=True) if v == values[last]]
        best = max(candidates, key=lambda i: (int(self.symbols.size[i]) > 0, -i))
        return self.symbols[best]
