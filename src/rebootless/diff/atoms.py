"""What an object file consists of once it is normalised: atoms, and references between them.

An atom is a function, a data object, a string or constant of a mergeable pool, or a snippet of
symbol-less code (alternative replacements). Every relocation is rewritten as (atom, addend), so
section symbols and pool offsets, which shift with any edit, are gone before anything is compared.

The addend keeps the relocation's own convention (a PC-relative field of an instruction still has
its -4), now relative to the start of the atom.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..elf.constants import SectionType
from ..elf.model import ElfFile, Section
from .names import cold_parent, is_btf_id, is_passive_section
from .tables import TABLES, entry_shape

I64 = npt.NDArray[np.int64]
NO_ATOM = -1
_NOBITS = int(SectionType.NOBITS)


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
    """A range [start, end) of a section. `symbols` are the indices of the symbols at its start.

    `prefix` is how many bytes of padding the compiler put before a function on purpose (kernels
    with call padding patch them).
    """

    index: int
    kind: Kind
    name: str
    section: int
    start: int
    end: int
    symbols: tuple[int, ...]
    prefix: int = 0

    @property
    def size(self) -> int:
        """The atom's size in bytes."""
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


NOTHING = np.empty(0, np.int64)
NO_REFS = Refs(NOTHING, NOTHING, NOTHING, NOTHING, NOTHING)


@dataclass(frozen=True)
class Unit:
    """One object file, normalised."""

    elf: ElfFile
    atoms: tuple[Atom, ...]
    refs: dict[int, Refs] = field(repr=False)
    ignored_sections: frozenset[str] = frozenset()  # those that the patch says to leave alone

    @cached_property
    def tables(self) -> tuple[Entries, ...]:
        """The entries of every special section that has any, in file order."""
        found = (table_entries(self, s) for s in self.elf.sections if s.name in TABLES)
        return tuple(entries for entries in found if len(entries))

    def section(self, atom: Atom) -> Section:
        """The section that an atom lies in."""
        return self.elf.sections[atom.section]

    def is_passive(self, atom: Atom) -> bool:
        """Whether the atom only matters at boot, at load, or to tools (see names.py)."""
        name = self.section(atom).name
        return name in self.ignored_sections or is_passive_section(name)

    def data(self, atom: Atom) -> bytes:
        """The atom's bytes (zeros for .bss)."""
        section = self.section(atom)
        if section.type == _NOBITS:
            return bytes(atom.size)
        return bytes(section.data[atom.start : atom.end])

    def btf_ids(self, atom: Atom) -> tuple[str, ...]:
        """What the entries of a list of BTF ids name: its bytes come to be at the kernel's link."""
        table = self.elf.symbols
        return tuple(
            table.names[i].rstrip("0123456789")
            for i in self.elf.symbols_in_section.get(atom.section, NOTHING).tolist()
            if atom.start <= int(table.value[i]) < atom.end and is_btf_id(table.names[i])
        )

    def refs_of(self, atom: Atom) -> Refs:
        """The relocations of one atom, offsets still relative to the section."""
        refs = self.refs.get(atom.section)
        if refs is None:
            return NO_REFS
        s = refs.of(atom)
        return Refs(refs.offset[s], refs.type[s], refs.atom[s], refs.symbol[s], refs.addend[s])


@dataclass(frozen=True)
class Entries:
    """The entries of a special section, all of one shape.

    Entry n begins at n * `size`, is of the atom `owner[n]`, at `place[n]` in it, and has the
    `relocs` relocations of `refs` that `relocs_of` tells.
    """

    section: Section
    size: int
    relocs: int
    owner: I64
    place: I64
    refs: Refs

    def __len__(self) -> int:
        return len(self.owner)

    def relocs_of(self, entry: int) -> range:
        """The positions in `refs` of an entry's relocations."""
        return range(entry * self.relocs, (entry + 1) * self.relocs)

    def data(self, entry: int) -> bytes:
        """An entry's bytes; the padding that the last may lack is added."""
        start = entry * self.size
        return bytes(self.section.data[start : start + self.size]).ljust(self.size, b"\0")


def is_inside(atom: Atom, addend: int) -> bool:
    """Whether an address is one within a function, and not the function's own."""
    return atom.kind is Kind.FUNCTION and (addend > 0 or cold_parent(atom.name) is not None)


def table_entries(unit: Unit, section: Section) -> Entries:
    """The entries of a special section. Raises ElfError if they cannot be told apart."""
    refs = unit.refs.get(section.index, NO_REFS)
    size, count = entry_shape(unit.elf, section, TABLES[section.name])
    if size == 0:
        return Entries(section, 0, 0, NOTHING, NOTHING, NO_REFS)
    return Entries(section, size, count, refs.atom[::count], refs.addend[::count], refs)
