"""An object file as *atoms*: the smallest ranges that are compared and included as one.

An atom is a function, a data object, a string or constant of a mergeable pool, or a snippet of
symbol-less code (alternative replacements). Every relocation is rewritten as (atom, addend), so
section symbols and pool offsets, which shift with any edit, are gone before anything is compared.

The addend keeps the relocation's own convention (a PC-relative field of an instruction still has
its -4), now relative to the start of the atom.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from ..elf.constants import (
    PC_RELATIVE,
    RESERVED_BASE,
    SHN_UNDEF,
    SectionFlag,
    SectionType,
    SymbolType,
)
from ..elf.insn import instruction_ends
from ..elf.model import ElfFile, Section
from .names import is_ignored_section
from .tables import COMPANIONS, SNIPPET_SECTIONS, TABLES, entry_size

I64 = npt.NDArray[np.int64]
NO_ATOM = -1
_PC_TYPES = np.array([int(t) for t in PC_RELATIVE], dtype=np.uint32)


class Kind(Enum):
    """What an atom is."""

    FUNCTION = "function"
    DATA = "data"
    RODATA = "rodata"
    STRING = "string"
    CONSTANT = "constant"
    SNIPPET = "snippet"
    TABLE = "table"


POOLED = frozenset({Kind.STRING, Kind.CONSTANT})


@dataclass(frozen=True)
class Atom:
    """A range [start, end) of a section. `symbols` are the indices of the symbols in it."""

    index: int
    kind: Kind
    name: str
    section: int
    start: int
    end: int
    symbols: tuple[int, ...]

    @property
    def size(self) -> int:
        """The atom's size in bytes, padding included."""
        return self.end - self.start


@dataclass(frozen=True)
class Refs:
    """The relocations of one section as parallel arrays, sorted by `offset` (in the section).

    `atom` is NO_ATOM for a symbol defined elsewhere; `symbol` is then its index.
    """

    offset: I64
    type: I64
    atom: I64
    symbol: I64
    addend: I64

    def of(self, atom: Atom) -> slice:
        """The relocations that lie in an atom of this section."""
        first, last = np.searchsorted(self.offset, [atom.start, atom.end])
        return slice(int(first), int(last))


_NOTHING = np.empty(0, np.int64)
NO_REFS = Refs(_NOTHING, _NOTHING, _NOTHING, _NOTHING, _NOTHING)


@dataclass(frozen=True)
class Unit:
    """One object file, normalised."""

    elf: ElfFile
    atoms: tuple[Atom, ...]
    refs: dict[int, Refs] = field(repr=False)

    def section(self, atom: Atom) -> Section:
        """The section that an atom lies in."""
        return self.elf.sections[atom.section]

    def data(self, atom: Atom) -> bytes:
        """The atom's bytes (zeros for .bss)."""
        section = self.section(atom)
        if section.type == SectionType.NOBITS:
            return bytes(atom.size)
        return bytes(section.data[atom.start : atom.end])

    def refs_of(self, atom: Atom) -> Refs:
        """The relocations of one atom, offsets still relative to the section."""
        refs = self.refs.get(atom.section)
        if refs is None:
            return NO_REFS
        s = refs.of(atom)
        return Refs(refs.offset[s], refs.type[s], refs.atom[s], refs.symbol[s], refs.addend[s])


def normalize(elf: ElfFile) -> Unit:
    """Cuts a relocatable object into atoms and rewrites its relocations onto them."""
    builder = _Builder(elf)
    for section in elf.sections:
        if _is_relevant(section):
            builder.add_section(section)
    refs = {
        section.index: builder.references(section)
        for section in elf.sections
        if _is_relevant(section) and len(elf.relocations(section))
    }
    return Unit(elf, tuple(builder.atoms), refs)


def _is_relevant(section: Section) -> bool:
    return (
        section.is_alloc
        and section.type in (SectionType.PROGBITS, SectionType.NOBITS)
        and section.name not in COMPANIONS
        and not is_ignored_section(section.name)
    ) or section.name.startswith((".init.text", ".exit.text", ".init.data", ".init.rodata"))


class _Builder:
    """Collects atoms; those of pools and snippets come to be when something points at them."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self.atoms: list[Atom] = []
        self.of_symbol = np.full(len(elf.symbols), NO_ATOM, np.int64)
        self._starts: dict[int, list[int]] = {}
        self._indices: dict[int, list[int]] = {}
        self._pooled: dict[tuple[int, int], int] = {}

    def _new(
        self,
        kind: Kind,
        name: str,
        section: Section,
        start: int,
        end: int,
        symbols: tuple[int, ...] = (),
    ) -> int:
        index = len(self.atoms)
        self.atoms.append(Atom(index, kind, name, section.index, start, end, symbols))
        for symbol in symbols:
            self.of_symbol[symbol] = index
        return index

    def add_section(self, section: Section) -> None:
        if section.name in TABLES:
            self._one_atom(section, Kind.TABLE)
        elif section.name in SNIPPET_SECTIONS:
            self._cut_snippets(section)
        elif not (section.is_string_pool or section.is_constant_pool):
            self._cut_at_symbols(section)

    def _one_atom(self, section: Section, kind: Kind) -> None:
        self._place(section, [self._new(kind, section.name, section, 0, section.size)])

    def _place(self, section: Section, indices: list[int]) -> None:
        self._indices[section.index] = indices
        self._starts[section.index] = [self.atoms[i].start for i in indices]

    def _cut_at_symbols(self, section: Section) -> None:
        if section.is_exec:
            kind, wanted = Kind.FUNCTION, {int(SymbolType.FUNC)}
        else:
            kind = Kind.DATA if section.is_write else Kind.RODATA
            wanted = {int(SymbolType.OBJECT), int(SymbolType.NOTYPE), int(SymbolType.TLS)}
        table = self.elf.symbols
        inside = self.elf.symbols_in_section.get(section.index, _NOTHING)
        heads = [int(i) for i in inside if int(table.type[i]) in wanted]
        heads = heads or [int(i) for i in inside]
        if not heads:
            if section.size:
                self._one_atom(section, kind)
            return
        by_start: dict[int, list[int]] = {}
        for i in heads:
            by_start.setdefault(int(table.value[i]), []).append(i)
        starts = sorted(by_start)
        ends = [*starts[1:], max(section.size, starts[-1])]
        indices = []
        if starts[0] > 0:
            indices.append(self._new(kind, section.name, section, 0, starts[0]))
        for start, end in zip(starts, ends, strict=True):
            symbols = self._primary_first(by_start[start])
            indices.append(self._new(kind, table.names[symbols[0]], section, start, end, symbols))
        self._place(section, indices)
        for i in inside:  # labels within an atom
            if self.of_symbol[i] == NO_ATOM:
                self.of_symbol[i] = self._covering(section.index, int(table.value[i]))

    def _primary_first(self, symbols: list[int]) -> tuple[int, ...]:
        """Aliases at one address: global before local, then the file's order."""
        return tuple(sorted(symbols, key=lambda i: (self.elf.symbols.binding[i] != 1, i)))

    def _cut_snippets(self, section: Section) -> None:
        """Cuts symbol-less code where anything in the object points into it."""
        symbol = next(
            (
                s
                for s in range(len(self.elf.symbols))
                if self.elf.symbols.shndx[s] == section.index
                and self.elf.symbols.type[s] == SymbolType.SECTION
            ),
            None,
        )
        starts = {0}
        if symbol is not None:
            for other in self.elf.sections:
                if not other.is_alloc:
                    continue
                relocs = self.elf.relocations(other)
                hits = np.nonzero(relocs.symbol == symbol)[0]
                adjust = 4 if other.is_exec else 0
                starts.update(int(relocs.addend[h]) + adjust for h in hits)
        cuts = sorted(s for s in starts if 0 <= s < section.size)
        ends = [*cuts[1:], section.size]
        self._place(
            section,
            [
                self._new(Kind.SNIPPET, section.name, section, start, end)
                for start, end in zip(cuts, ends, strict=True)
            ],
        )

    def _covering(self, section: int, offset: int) -> int:
        starts = self._starts.get(section)
        if not starts:
            return NO_ATOM
        at = max(bisect.bisect_right(starts, offset) - 1, 0)
        return self._indices[section][at]

    def _pool_atom(self, section: Section, offset: int) -> int:
        known = self._pooled.get((section.index, offset))
        if known is not None:
            return known
        if section.is_string_pool:
            width = max(section.entsize, 1)
            end = _string_end(section.data, offset, width)
            index = self._new(Kind.STRING, "", section, offset, end)
        else:
            start = offset - offset % section.entsize
            index = self._new(
                Kind.CONSTANT, "", section, start, min(start + section.entsize, section.size)
            )
        self._pooled[(section.index, offset)] = index
        return index

    def references(self, section: Section) -> Refs:
        relocs = self.elf.relocations(section)
        table = self.elf.symbols
        symbol = relocs.symbol.astype(np.int64)
        addend = relocs.addend.copy()
        atom = self.of_symbol[symbol].copy()
        shndx = table.shndx[symbol]
        starts = np.array([a.start for a in self.atoms], np.int64)
        named = atom != NO_ATOM
        values = table.value[symbol].astype(np.int64)
        addend[named] += values[named] - starts[atom[named]]
        anonymous = (~named) & (shndx != SHN_UNDEF) & (shndx < RESERVED_BASE)
        for i in self._with_ends(section, np.nonzero(anonymous)[0]):
            position, trailing = i
            target = self.elf.sections[int(shndx[position])]
            value = int(values[position])
            true_offset = value + int(addend[position]) + trailing
            if target.is_string_pool or target.is_constant_pool:
                inside = 0 <= true_offset < target.size
                found = self._pool_atom(target, true_offset) if inside else NO_ATOM
            else:
                found = self._covering(target.index, true_offset)
            if found != NO_ATOM:
                atom[position] = found
                addend[position] += value - self.atoms[found].start
        return Refs(
            relocs.offset.astype(np.int64), relocs.type.astype(np.int64), atom, symbol, addend
        )

    def _with_ends(self, section: Section, positions: I64) -> list[tuple[int, int]]:
        """For relocations at `positions`: how far the PC that the CPU adds is past the field.

        Only PC-relative fields in code have one, and only where the target section holds more
        than one atom does it matter; there the instruction is decoded, since an immediate
        operand may follow the field.
        """
        relocs = self.elf.relocations(section)
        result: list[tuple[int, int]] = []
        decode: dict[int, list[int]] = {}
        shndx = self.elf.symbols.shndx
        for p in positions.tolist():
            if not section.is_exec or relocs.type[p] not in _PC_TYPES:
                result.append((p, 0))
                continue
            target = int(shndx[relocs.symbol[p]])
            if len(self._indices.get(target, ())) == 1:
                result.append((p, 4))
            else:
                owner = self._covering(section.index, int(relocs.offset[p]))
                decode.setdefault(owner, []).append(p)
        for owner, group in decode.items():
            start = self.atoms[owner].start if owner != NO_ATOM else 0
            end = self.atoms[owner].end if owner != NO_ATOM else section.size
            fields = [int(relocs.offset[p]) - start for p in group]
            ends = instruction_ends(bytes(section.data[start:end]), fields)
            for p, at, stop in zip(group, fields, ends, strict=True):
                result.append((p, int(stop) - at))
        return result


def _string_end(data: memoryview, offset: int, width: int) -> int:
    """The end, NUL included, of the string of `width`-byte characters at `offset`."""
    blob = bytes(data[offset:])
    zero = bytes(width)
    at = blob.find(zero)
    while at >= 0 and at % width:
        at = blob.find(zero, at + 1)
    return offset + at + width if at >= 0 else len(data)


def table_entries(unit: Unit, section: Section) -> tuple[int, I64, I64, Refs]:
    """The entries of a special section, by the code they belong to.

    Returns (entry size, atom index per entry, offset within that atom per entry, the refs).
    """
    table = TABLES[section.name]
    size = entry_size(unit.elf, section, table)
    refs = unit.refs.get(section.index, NO_REFS)
    if size == 0:
        return 0, _NOTHING, _NOTHING, refs
    first = refs.offset % size == 0
    return size, refs.atom[first], refs.addend[first], refs


def is_mergeable(section: Section) -> bool:
    """Whether the linker may merge the section's content."""
    return bool(section.flags & SectionFlag.MERGE)
