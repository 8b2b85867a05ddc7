"""Whether the special sections say of the shipped code what they say of ours.

Run-pre matching compares code. What the kernel does at a place in it is in tables: which exception
is handled how, what a trap means, which alternative goes where, who a static call's key is. Equal
code with other entries is another function; its patch would be made from the wrong original.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..diff.delta import Finding
from ..diff.tables import TABLES, entry_shape
from ..elf.constants import RELOC_WIDTH, SHN_UNDEF
from ..elf.model import ElfFile, Section
from ..match.result import FunctionMatch, Status, UnitMatch
from ..match.shipped import Shipped
from .verdict import Verdict

COMPARED = ("__ex_table", "__bug_table", ".altinstructions", ".parainstructions",
            ".static_call_sites")  # fmt: skip
_SAME_LAYOUT = re.compile(r"jump-label sites|fentry call")  # what a match explains without shifts
_LINE = 2  # bytes of a line number, right after the file's name


@dataclass(frozen=True)
class _Shape:
    """An entry: its size, its relocations' (offset, type), and which of its bytes are compared."""

    size: int
    fields: tuple[tuple[int, int], ...]
    mask: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Shipped:
    """A shipped table: where each entry's fields lead to, and its bytes; ascending by place."""

    places: npt.NDArray[np.uint64]
    targets: npt.NDArray[np.uint64]
    data: npt.NDArray[np.uint8]


class TableCheck:
    """Compares units with one shipped kernel or module."""

    def __init__(self, shipped: Shipped) -> None:
        self.shipped = shipped
        self._tables: dict[tuple[str, int, tuple[tuple[int, int], ...]], _Shipped] = {}

    def verify(self, orig: ElfFile, match: UnitMatch, names: Set[str]) -> Verdict:
        """Refuses functions of `names` (and their cold parts) whose entries differ."""
        functions = [f for f in match.functions if _is_checked(f, names)]
        if not functions:
            return Verdict()
        found: dict[Finding, None] = {}
        for section in (s for s in orig.sections if s.name in COMPARED and s.size):
            for function in self._differing(orig, section, match, functions):
                message = (
                    f"the entries of '{function.name}' in section '{section.name}' are not those "
                    f"that {self.shipped.name} ships: the build is not the kernel's own"
                )
                found[Finding("table-mismatch", function.name, message)] = None
        return Verdict(refused=tuple(found))

    def _differing(
        self, orig: ElfFile, section: Section, match: UnitMatch, functions: list[FunctionMatch]
    ) -> Iterator[FunctionMatch]:
        shape = _shape(orig, section)
        there = self._table(section.name, shape)
        if there is None:
            return
        ours = _Ours(orig, section, shape, match, self.shipped)
        for function in functions:
            start, size = function.address or 0, function.size
            first, last = np.searchsorted(there.places, np.array([start, start + size], np.uint64))
            theirs = slice(int(first), int(last))
            mine = ours.of(function)
            if len(mine) != last - first:
                yield function
                continue
            targets, data = ours.targets(mine), ours.data[mine]
            same = (targets == there.targets[theirs]) | (targets == 0)
            differ = (data != there.data[theirs])[:, shape.mask]
            if not same.all() or differ.any():
                yield function

    def _table(self, name: str, shape: _Shape) -> _Shipped | None:
        key = (name, shape.size, shape.fields)
        if key not in self._tables:
            extent = self.shipped.table(name)
            if extent is None:
                return None
            self._tables[key] = self._read(*extent, shape)
        return self._tables[key]

    def _read(self, start: int, size: int, shape: _Shape) -> _Shipped:
        count = -(-size // shape.size)
        raw = bytes(self.shipped.available(start, size)).ljust(count * shape.size, b"\0")
        steps = np.arange(count, dtype=np.int64) * shape.size
        columns = []
        for offset, kind in shape.fields:
            kinds = np.full(count, kind, np.uint32)
            columns.append(self.shipped.targets(start, steps + offset, kinds)[0])
        targets = np.stack(columns, axis=1)
        order = np.argsort(targets[:, 0], kind="stable")
        data = np.frombuffer(raw, np.uint8)[: count * shape.size].reshape(count, shape.size)
        return _Shipped(targets[order, 0], targets[order], data[order])


def _is_checked(function: FunctionMatch, names: Set[str]) -> bool:
    return (
        (function.name in names or function.name.partition(".cold")[0] in names)
        and function.status is Status.MATCHED
        and all(_SAME_LAYOUT.search(text) for text in function.explained)
    )


def _shape(elf: ElfFile, section: Section) -> _Shape:
    table = TABLES[section.name]
    size, count = entry_shape(elf, section, table)
    relocs = elf.relocations(section)
    fields = tuple(zip(relocs.offset[:count].tolist(), relocs.type[:count].tolist(), strict=True))
    mask = np.ones(size, np.bool_)
    for offset, kind in fields:
        mask[offset : offset + RELOC_WIDTH[kind]] = False
    if table.names_source and count > 1:
        line = fields[-1][0] + RELOC_WIDTH[fields[-1][1]]
        mask[line : line + _LINE] = False
    return _Shape(size, fields, mask)


class _Ours:
    """The entries of a table of the object."""

    def __init__(
        self, elf: ElfFile, section: Section, shape: _Shape, match: UnitMatch, shipped: Shipped
    ) -> None:
        relocs, table = elf.relocations(section), elf.symbols
        rows = (-1, len(shape.fields))
        self._symbol = relocs.symbol.astype(np.int64).reshape(rows)
        self._addend = relocs.addend.reshape(rows)
        self._section = table.shndx[self._symbol].astype(np.int64)
        self._offset = table.value[self._symbol].astype(np.int64) + self._addend
        count = len(self._symbol)
        raw = bytes(section.data).ljust(count * shape.size, b"\0")
        self.data = np.frombuffer(raw, np.uint8)[: count * shape.size].reshape(count, shape.size)
        self._elf, self._match, self._shipped = elf, match, shipped

    def of(self, function: FunctionMatch) -> npt.NDArray[np.int64]:
        """The entries of a function, by place."""
        start = int(self._elf.symbols.value[function.symbol])
        places = self._offset[:, 0]
        inside = self._section[:, 0] == int(self._elf.symbols.shndx[function.symbol])
        mine = np.nonzero(inside & (places >= start) & (places < start + function.size))[0]
        return mine[np.argsort(places[mine], kind="stable")]

    def targets(self, entries: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Where the fields of entries lead to in the shipped file; 0 if that is not known."""
        found = np.zeros((len(entries), self._symbol.shape[1]), np.uint64)
        for n, entry in enumerate(entries.tolist()):
            for k in range(found.shape[1]):
                place = self._place(int(self._symbol[entry, k]))
                if place is not None:
                    found[n, k] = (place + int(self._addend[entry, k])) % (1 << 64)
        return found

    def _place(self, symbol: int) -> int | None:
        """Where a symbol is: proven, or the only one of its name if the unit lacks it itself."""
        proven = self._match.proven.get(symbol)
        if proven is not None:
            return proven.place
        table = self._elf.symbols
        if int(table.shndx[symbol]) != SHN_UNDEF:
            return None
        named = self._shipped.candidates(table.names[symbol])
        return named[0] if len(named) == 1 else None
