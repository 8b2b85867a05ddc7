"""The differ's answer: an immutable `Delta` that says what to patch and carries all it takes.

A Delta is self-contained. Its `pieces` are the ranges of the patched object that go into the patch
module (functions, new data, strings, entries of special sections), each with its bytes and its
relocations. A relocation points at another piece, or at a symbol of the running kernel that later
layers prove and resolve.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

SCHEMA = 1


class PieceKind(Enum):
    """What a piece is; the value is the word used in reports."""

    FUNCTION = "function"
    DATA = "data"
    CONSTANT = "constant"
    TABLE = "table"


@dataclass(frozen=True)
class PieceRef:
    """A relocation target inside the patch: the piece with that index."""

    piece: int


@dataclass(frozen=True)
class KernelRef:
    """A relocation target in the running kernel.

    `orig_symbol` is the index of the correlated symbol in the original object (where run-pre
    matching learned its address), or None for a symbol that only the patched object refers to.
    `defined` says that this unit itself defines the symbol; `is_global` that other units see it.
    A hand-written patch says itself which one it means: `position` (0: unique) in `object`.
    """

    name: str
    orig_symbol: int | None
    defined: bool
    is_global: bool
    is_weak: bool = False
    object: str = ""
    position: int | None = None


@dataclass(frozen=True)
class PieceReloc:
    """One relocation of a piece: `offset` and `addend` relative to piece and target start."""

    offset: int
    type: int
    target: PieceRef | KernelRef
    addend: int


@dataclass(frozen=True)
class PieceSymbol:
    """A symbol that a piece defines. Only symbols new to the kernel may be global."""

    name: str
    offset: int
    size: int
    type: int
    is_global: bool


@dataclass(frozen=True)
class Piece:
    """A range of the patched object that goes into the patch module.

    `prefix` are the bytes of padding that belong right before it.
    """

    kind: PieceKind
    name: str
    section: str
    section_type: int
    flags: int
    align: int
    entsize: int
    data: bytes
    size: int
    symbols: tuple[PieceSymbol, ...]
    relocs: tuple[PieceReloc, ...]
    prefix: bytes = b""


@dataclass(frozen=True)
class FunctionChange:
    """A function to be patched (`orig_symbol` set) or one that is new."""

    name: str
    reason: str
    size_old: int
    size_new: int
    piece: int
    orig_symbol: int | None


# The code of the finding that no function of an object has a fentry.
# What the object tells; whether a function can be redirected, the shipped kernel is asked.
NO_FENTRY = "no-fentry"
NO_FENTRY_INFORMATION = "no-fentry-information"


@dataclass(frozen=True)
class Finding:
    """A refusal or a warning: a stable code, the symbol it is about, and what an author can do.

    `engine` names the engine that could apply the patch in spite of it. `accepted` tells whether
    the author accepts it in the patch's header (None where that was not asked).
    """

    code: str
    symbol: str
    message: str
    engine: str = ""
    accepted: bool | None = None

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object; `engine` and `accepted` where they are known."""
        facts: dict[str, Any] = {
            "code": self.code,
            "symbol": self.symbol,
            "message": self.message,
        }
        if self.engine:
            facts["engine"] = self.engine
        if self.accepted is not None:
            facts["accepted"] = self.accepted
        return facts


class CallbackKind(Enum):
    """When the kernel calls a callback of a patched object (struct klp_callbacks)."""

    PRE_PATCH = "pre_patch"
    POST_PATCH = "post_patch"
    PRE_UNPATCH = "pre_unpatch"
    POST_UNPATCH = "post_unpatch"


@dataclass(frozen=True)
class Callback:
    """A new function, by its piece, that the kernel calls when the object is (un)patched."""

    kind: CallbackKind
    name: str
    piece: int


@dataclass(frozen=True, order=True)
class SystemState:
    """A state of the system that the patch changes (struct klp_state)."""

    id: int
    version: int


@dataclass(frozen=True)
class TableEntries:
    """How many entries of a special section go along."""

    section: str
    entries: int


@dataclass(frozen=True)
class Delta:
    """Everything that differs between two objects of one translation unit, and what to do.

    `changed` functions are redirected; `carried` ones cannot be, and are reached through their
    callers, which are among the changed.
    """

    changed: tuple[FunctionChange, ...]
    new: tuple[FunctionChange, ...]
    removed: tuple[str, ...]
    new_data: tuple[str, ...]
    special: tuple[TableEntries, ...]
    refused: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    pieces: tuple[Piece, ...]
    carried: tuple[FunctionChange, ...] = ()
    callbacks: tuple[Callback, ...] = ()
    states: tuple[SystemState, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to patch and nothing to refuse."""
        something = self.changed or self.new or self.new_data or self.callbacks or self.states
        return not (something or self.refused)

    def to_json(self) -> dict[str, Any]:
        """The public JSON form (schema 1)."""
        return {
            "schema": SCHEMA,
            "changed": [_function_json(f) for f in self.changed],
            "carried": [_function_json(f) for f in self.carried],
            "new": [_function_json(f) for f in self.new],
            "removed": list(self.removed),
            "new_data": list(self.new_data),
            "callbacks": [{"kind": c.kind.value, "function": c.name} for c in self.callbacks],
            "states": [{"id": s.id, "version": s.version} for s in self.states],
            "special": [{"section": t.section, "entries": t.entries} for t in self.special],
            "refused": [f.to_json() for f in self.refused],
            "warnings": [f.to_json() for f in self.warnings],
        }


def _function_json(change: FunctionChange) -> dict[str, Any]:
    return {
        "name": change.name,
        "reason": change.reason,
        "size_old": change.size_old,
        "size_new": change.size_new,
    }
