"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, word: str) -> str:
    """ "1 unit", "2 units"."""
    return f"{number} {word}{'' if number == 1 else 's'}"
