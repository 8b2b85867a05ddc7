"""What people read: numbers in sentences, lists cut short, texts of others made harmless."""

from __future__ import annotations

import re
from collections.abc import Sequence

SHOWN = 4
# All but tabs and the ends of lines.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n|\Z)")


def counted(number: int, word: str) -> str:
    """ "1 unit", "2 units"."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def visible(text: str) -> str:
    """A text with control characters spelled out: a patch's title must not steer the terminal."""
    return text if text.isprintable() else _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def duration(seconds: float) -> str:
    """A length of time that is not known exactly, in words: 'about 25 min'."""
    if seconds < 50:
        return f"about {max(10, round(seconds / 10) * 10)} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 100 else f"about {seconds / 3600:.1f} h"
