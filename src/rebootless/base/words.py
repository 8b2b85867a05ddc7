"""Numbers in sentences."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 4


def counted(number: int, word: str) -> str:
    """ "1 unit", "2 units"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
