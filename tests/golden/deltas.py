"""What tests ask a Delta."""

from __future__ import annotations

from rebootless.diff import Delta
from rebootless.diff.delta import KernelRef, Piece, PieceRef


def changed(delta: Delta) -> set[str]:
    """The functions to patch."""
    return {f.name for f in delta.changed}


def new(delta: Delta) -> set[str]:
    """The functions that are new."""
    return {f.name for f in delta.new}


def codes(delta: Delta) -> list[tuple[str, str]]:
    """The refusals, by code and symbol."""
    return [(f.code, f.symbol) for f in delta.refused]


def warned(delta: Delta) -> list[tuple[str, str]]:
    """The warnings, by code and symbol."""
    return [(f.code, f.symbol) for f in delta.warnings]


def piece(delta: Delta, name: str) -> Piece:
    """The one piece of that name."""
    found = [p for p in delta.pieces if p.name == name]
    assert len(found) == 1, f"{name}: {[p.name for p in delta.pieces]}"
    return found[0]


def target(delta: Delta, found: Piece, offset: int) -> tuple[str, str]:
    """Where the relocation at `offset` points: ("own" or "kernel", the name)."""
    (reloc,) = (r for r in found.relocs if r.offset == offset)
    if isinstance(reloc.target, PieceRef):
        return "own", delta.pieces[reloc.target.piece].name
    return "kernel", reloc.target.name


def kernel_refs(found: Piece) -> set[str]:
    """What of the running kernel a piece refers to."""
    return {r.target.name for r in found.relocs if isinstance(r.target, KernelRef)}


def own_refs(delta: Delta, found: Piece) -> set[str]:
    """Which pieces of the patch a piece refers to."""
    return {
        delta.pieces[r.target.piece].name for r in found.relocs if isinstance(r.target, PieceRef)
    }
