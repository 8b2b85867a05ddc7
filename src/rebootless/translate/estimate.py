"""How long the rest takes: by what was done of the same run, weighed by the size of what is left.

Most of a small unit's time goes into the headers that every unit reads, so a unit weighs its own
bytes and a constant. What matters is the time that has gone by, whatever else the machine does
and however many work: the estimate follows what is, and says nothing before there is enough to go
by.
"""

from __future__ import annotations

from collections.abc import Iterable

HEADERS = 100_000  # bytes of source that cost what the headers of an average unit do
ENOUGH = 3  # items that are done before anything is said


def weight(sizes: Iterable[int]) -> int:
    """What a candidate weighs, by the sizes of its units' sources in bytes."""
    return sum(HEADERS + size for size in sizes) or HEADERS


class Estimate:
    """Follows a run; times are in seconds since it began."""

    def __init__(self, total: int) -> None:
        self.left = total
        self.done = 0
        self.items = 0

    def finished(self, weight: int) -> None:
        """One item is done."""
        self.done += weight
        self.left = max(0, self.left - weight)
        self.items += 1

    def remaining(self, elapsed: float) -> float | None:
        """The seconds that the rest will take; None while too little is done to tell."""
        if self.items < ENOUGH or not self.done:
            return None
        return elapsed * self.left / self.done
