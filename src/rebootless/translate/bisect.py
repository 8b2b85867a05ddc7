"""Which of many parts make a whole fail: by halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .parts import halves

Works = Callable[[Sequence[str]], bool]


def culprits(keys: Sequence[str], works: Works) -> tuple[str, ...]:
    """The keys without which the rest works, in order; () if all work together.

    `works` is asked about a whole first, then about halves of it, each together with all that is
    known to work: so what only fails in company is found, too. One culprit among n is found in
    about 2 log2 n questions.
    """
    return tuple(_sought(tuple(keys), (), works))


def _sought(keys: tuple[str, ...], good: tuple[str, ...], works: Works) -> list[str]:
    """The culprits among `keys`, given that `good` works and is there as well."""
    if not keys or works((*good, *keys)):
        return []
    if len(keys) == 1:
        return list(keys)
    first, second = halves(keys)
    bad = _sought(first, good, works)
    kept = tuple(key for key in first if key not in bad)
    return bad + _sought(second, (*good, *kept), works)
