"""What a patch does to a type, as facts.

    CHANGED   objects, or values in them, are not where or what they were
    ADDED     a member in bytes that no other member uses, or that share theirs with one (a union)
    RENAMED   a member has another name; the bytes are the same
    CONSTANT  an enumerator that no object holds by its type changed, as a #define might

A member whose name says that it is padding counts as unused bytes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ..types.btf import Kind

WORDS = {
    Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum", Kind.ENUM64: "enum",
    Kind.TYPEDEF: "typedef", Kind.FUNC: "function",
}  # fmt: skip
Key = tuple[str, str]  # "struct", its name


class Effect(enum.IntEnum):
    """What a change does, the worst last."""

    NONE = 0
    RENAMED = 1
    CONSTANT = 2
    ADDED = 3
    CHANGED = 4


class Mark(enum.StrEnum):
    """What became of a member."""

    SAME = " "
    MOVED = ">"
    OTHER = "~"
    GONE = "-"
    NEW = "+"


@dataclass(frozen=True)
class Cell:
    """A member as it is shown: its place ("8", "8:3" for a bitfield; "" for an enumerator)."""

    place: str
    size: str
    text: str


@dataclass(frozen=True)
class Row:
    """A member before and after."""

    mark: Mark
    old: Cell | None
    new: Cell | None


@dataclass(frozen=True)
class TypeChange:
    """A type that is not what it was; sizes in bytes.

    `also` are types that change only because they contain it. `free` are the bytes (from, to) of
    the original that no member uses.
    """

    word: str
    name: str
    effect: Effect
    old_size: int
    new_size: int
    rows: tuple[Row, ...]
    free: tuple[tuple[int, int], ...] = ()
    also: tuple[str, ...] = ()
    contains: frozenset[Key] = field(default=frozenset(), repr=False)
    by_parts_only: bool = field(default=False, repr=False)

    @property
    def title(self) -> str:
        """ "struct inode"."""
        return f"{self.word} {self.name}"


@dataclass(frozen=True)
class PrototypeChange:
    """A function whose parameters or result changed, as C declares it."""

    name: str
    old: str
    new: str


@dataclass(frozen=True)
class TypeChanges:
    """Everything that differs, in the order of names."""

    types: tuple[TypeChange, ...] = ()
    prototypes: tuple[PrototypeChange, ...] = ()
