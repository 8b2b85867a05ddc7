"""A stretch of code with what is in memory there, and rulings about the places in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .code import I64, U8, U64

Flags = npt.NDArray[np.bool_]
CALL, JMP, JMP8, RET, INT3, LOCK, DS = 0xE8, 0xE9, 0xEB, 0xC3, 0xCC, 0xF0, 0x3E
NONE: I64 = np.empty(0, np.int64)


@dataclass(frozen=True)
class Region:
    """Code at a running address: the bytes that were shipped and the bytes that are there."""

    address: int
    shipped: U8
    found: U8

    @cached_property
    def differs(self) -> Flags:
        """Which bytes are not the shipped ones."""
        return np.asarray(self.shipped != self.found)

    def inside(self, places: U64, size: int) -> Flags:
        """Which of the places lie in the region with `size` bytes behind them."""
        start = np.uint64(self.address)
        last = self.address + len(self.shipped) - size
        if last < self.address:
            return np.zeros(len(places), np.bool_)
        return np.asarray((places >= start) & (places <= np.uint64(last)))

    def offsets(self, places: U64) -> I64:
        """Offsets of places that lie inside."""
        return np.asarray((places - np.uint64(self.address)).astype(np.int64))

    def altered(self, offsets: I64, sizes: I64) -> Flags:
        """Which of the spans hold a byte that differs."""
        first, last = (np.searchsorted(self._differing, o) for o in (offsets, offsets + sizes))
        return np.asarray(last > first)

    @cached_property
    def _differing(self) -> I64:
        return np.nonzero(self.differs)[0].astype(np.int64)


@dataclass(frozen=True)
class Wrong:
    """A site whose bytes are none of the legitimate ones, and what they would be."""

    address: int
    size: int
    reason: str


@dataclass(frozen=True)
class Ruling:
    """What is known of all sites of one kind in a region.

    `sites` are there, `altered` of them are not as shipped. The bytes of the spans
    `starts`, `sizes` (offsets) are legitimate. `wrong` are sites with other bytes, `undecided`
    such whose bytes cannot be judged.
    """

    kind: str
    sites: int
    altered: int
    starts: I64
    sizes: I64
    wrong: tuple[Wrong, ...] = ()
    undecided: tuple[Wrong, ...] = ()


def windows(data: U8, offsets: I64, size: int) -> U8:
    """`size` bytes at each offset, as rows."""
    return np.asarray(data[offsets[:, None] + np.arange(size)])


def targets(rows: U8, places: U64, at: int = 1) -> U64:
    """Where the 32-bit distances at byte `at` of the rows lead; a row begins at its place."""
    distances = np.ascontiguousarray(rows[:, at : at + 4]).view("<i4").ravel().astype(np.int64)
    return np.asarray(places + np.uint64(at + 4) + distances.astype(np.uint64), np.uint64)


def equal(rows: U8, pattern: Sequence[int]) -> Flags:
    """Which rows begin with the bytes of a pattern."""
    return np.asarray((rows[:, : len(pattern)] == np.array(pattern, np.uint8)).all(axis=1))


def spread(starts: I64, sizes: I64) -> I64:
    """Every offset of the spans, one after another."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.repeat(starts - (ends - sizes), sizes) + np.arange(total))
