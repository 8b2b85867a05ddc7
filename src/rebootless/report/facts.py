"""What there is to tell of a patch, function by function. The JSON form is kept in bundles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

SCHEMA = 1
OLD, NEW = 0, 1  # the sides of a comparison


@dataclass(frozen=True)
class Frame:
    """A place in the source: `file` relative to the tree, `line` 0 when it is not known."""

    function: str
    file: str
    line: int

    def to_json(self) -> list[Any]:
        """Compact: [function, file, line]."""
        return [self.function, self.file, self.line]


# The source of an instruction: the innermost inlined function first, the function itself last.
Chain = tuple[Frame, ...]


@dataclass(frozen=True)
class Instruction:
    """One instruction: `offset` and `target` (of a jump within the function) from its start.

    `text` is for people; `key` is equal for instructions that do the same, with what the compiler
    numbers anew (clones, static locals) and what moves (local jumps) left out.
    """

    offset: int
    text: str
    key: str
    target: int | None = None


class Mark(StrEnum):
    """How a row of the comparison differs."""

    SAME = "="
    CHANGED = "~"
    REMOVED = "-"
    ADDED = "+"
    SKIPPED = "."


@dataclass(frozen=True)
class Row:
    """Instructions side by side; `skipped` equal rows were left out of a very long function."""

    mark: Mark
    old: Instruction | None
    new: Instruction | None
    skipped: int = 0


@dataclass(frozen=True)
class Listing:
    """The disassembly of one part of a function: itself, or its cold part."""

    name: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class FirstDifference:
    """Where the compiled code first differs. Offsets are in bytes, None where there is no code.

    `text_old` and `text_new` are the instructions, `chain` where they come from: of the new
    code, or of the old where code was only removed.
    """

    listing: str
    offset_old: int | None
    offset_new: int | None
    text_old: str
    text_new: str
    chain: Chain = ()

    def to_json(self) -> dict[str, Any]:
        """The difference as JSON values."""
        return {
            "part": self.listing,
            "offset_old": self.offset_old,
            "offset_new": self.offset_new,
            "old": self.text_old,
            "new": self.text_new,
            "chain": [frame.to_json() for frame in self.chain],
        }


@dataclass(frozen=True)
class Reference:
    """Something that the new code refers to, `count` times.

    `kind` is function, data, string, code or symbol; `how` says how it is reached: patch (comes
    along), exported, private (a livepatch symbol), or, when only objects are known, unit and
    elsewhere.
    `in_unit` if the unit itself defines it, `is_new` if the original function did not refer to it.
    """

    name: str
    kind: str
    how: str
    count: int
    is_called: bool
    in_unit: bool
    is_new: bool


@dataclass(frozen=True)
class Caller:
    """A function that refers to this one: `how` is call or pointer; `unit` is "" for this unit."""

    name: str
    how: str
    unit: str = ""


@dataclass(frozen=True)
class FunctionFacts:
    """One changed, carried or new function. Sizes are in bytes.

    `relocs_old` and `relocs_new` count relocations by kind (PC32, PLT32, 64...); `gone` names
    what only the original refers to; `chains` holds the source of each instruction of `listings`
    by part, side (OLD, NEW) and offset; of equal ones, the original's.
    """

    name: str
    kind: str
    reason: str
    size_old: int
    size_new: int
    first: FirstDifference | None
    relocs_old: tuple[tuple[str, int], ...]
    relocs_new: tuple[tuple[str, int], ...]
    references: tuple[Reference, ...]
    gone: tuple[str, ...]
    callers: tuple[Caller, ...]
    special: tuple[tuple[str, int], ...]
    listings: tuple[Listing, ...]
    chains: Mapping[tuple[str, int, int], Chain] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values; `chains` by number, since most instructions share theirs."""
        table = _ChainTable(self.chains)
        return {
            "name": self.name,
            "kind": self.kind,
            "reason": self.reason,
            "size_old": self.size_old,
            "size_new": self.size_new,
            "first": self.first.to_json() if self.first else None,
            "relocations_old": dict(self.relocs_old),
            "relocations_new": dict(self.relocs_new),
            "references": [vars(r) for r in self.references],
            "gone": list(self.gone),
            "callers": [vars(c) for c in self.callers],
            "special": dict(self.special),
            "listings": [
                {"name": part.name, "rows": [table.row(part.name, row) for row in part.rows]}
                for part in self.listings
            ],
            "chains": table.chains,
        }


class _ChainTable:
    """Numbers the chains in the order of their first use."""

    def __init__(self, chains: Mapping[tuple[str, int, int], Chain]) -> None:
        self._of = chains
        self._numbers: dict[Chain, int] = {}
        self.chains: list[list[list[Any]]] = []

    def _number(self, part: str, side: int, offset: int) -> int:
        chain = self._of.get((part, side, offset), ())
        if not chain:
            return -1
        if chain not in self._numbers:
            self._numbers[chain] = len(self._numbers)
            self.chains.append([frame.to_json() for frame in chain])
        return self._numbers[chain]

    def row(self, part: str, row: Row) -> list[Any]:
        """[mark, old offset, old text, old chain, new offset, new text, new chain].

        Of a one-sided row the other side is left out. An equal row is [mark, old offset, new
        offset, text, chain], then the old text if it names another number or jump target.
        """
        old, new = row.old, row.new
        if row.mark is Mark.SKIPPED:
            return [row.mark.value, row.skipped]
        if old and new and row.mark is Mark.SAME:
            chain = self._number(part, OLD, old.offset)
            equal = [row.mark.value, old.offset, new.offset, new.text, chain]
            return equal if old.text == new.text else [*equal, old.text]
        cells: list[Any] = [row.mark.value]
        for side, one in ((OLD, old), (NEW, new)):
            if one:
                cells += [one.offset, one.text, self._number(part, side, one.offset)]
        return cells


@dataclass(frozen=True)
class UnitFacts:
    """One translation unit. `has_lines` tells whether the objects knew their source lines."""

    source: str
    object: str
    functions: tuple[FunctionFacts, ...]
    new_data: tuple[str, ...]
    removed: tuple[str, ...]
    special: tuple[tuple[str, int], ...]
    has_lines: bool

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON values."""
        return {
            "source": self.source,
            "object": self.object,
            "functions": [f.to_json() for f in self.functions],
            "new_data": list(self.new_data),
            "removed": list(self.removed),
            "special": dict(self.special),
            "has_lines": self.has_lines,
        }


def to_json(units: tuple[UnitFacts, ...]) -> dict[str, Any]:
    """The document that a bundle keeps as explain.json."""
    return {"schema": SCHEMA, "units": [u.to_json() for u in units]}
