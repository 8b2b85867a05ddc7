"""A changed type as text: the original on the left, the patched one on the right.

    >       8    8  struct list_head *next      16    8  struct list_head *next

The mark tells what became of a member: ` ` the same, `>` moved, `~` of another type or name, `-`
gone, `+` new. Of a long type only the neighbourhood of what differs is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from ..base.words import counted
from .typechange import Cell, Mark, Row, TypeChange

WIDTH = 40  # of a member's declaration
NEAR = 2  # rows around one that differs
MAX_ROWS = 40
PLAIN = (Mark.SAME, Mark.MOVED)


def side_by_side(change: TypeChange, indent: str = "      ") -> str:
    """The lines of both layouts, cut to what matters."""
    sized = any(c is not None and c.size for r in change.rows for c in (r.old, r.new))
    left, right = "original", "patched"
    if sized:
        left, right = (
            f"{side}, {counted(size, 'byte')}"
            for side, size in ((left, change.old_size), (right, change.new_size))
        )
    lines = [f"  {left:<{_width(sized)}}  {right}", *_lines(change.rows, sized)]
    return "\n".join(f"{indent}{line}".rstrip() for line in lines)


def _lines(rows: Sequence[Row], sized: bool) -> Iterator[str]:
    shown = _shown(rows)
    for number, (is_shown, group) in enumerate(
        (k, list(g)) for k, g in groupby(range(len(rows)), lambda i: i in shown)
    ):
        if is_shown:
            yield from (_line(rows[i], sized) for i in group)
        else:
            yield _skipped([rows[i] for i in group], number)


def _shown(rows: Sequence[Row]) -> set[int]:
    """The rows near a difference; of those that only moved, the first ones after it."""
    loud = [i for i, row in enumerate(rows) if row.mark not in PLAIN]
    moved = [i for i, row in enumerate(rows) if row.mark is Mark.MOVED]
    centres = (loud or moved[:1])[:MAX_ROWS]
    near = {i + d for i in centres for d in range(-NEAR, NEAR + 1)}
    if len(rows) - len(near & set(range(len(rows)))) == 1:  # a line that says "1 more" is no gain
        return set(range(len(rows)))
    return near


def _skipped(rows: Sequence[Row], number: int) -> str:
    count = f"{len(rows)} more" if number else f"{len(rows)}"
    word = "member" if len(rows) == 1 else "members"
    marks = {row.mark for row in rows}
    if marks == {Mark.MOVED}:
        return f"> ... {count} {word}, moved"
    if marks == {Mark.SAME}:
        return f"  ... {count} {word}, the same"
    return f"  ... {count} {word}"


def _line(row: Row, sized: bool) -> str:
    left = _cell(row.old, sized)
    return f"{row.mark} {left:<{_width(sized)}}  {_cell(row.new, sized)}"


def _width(sized: bool) -> int:
    return WIDTH + (13 if sized else 0)


def _cell(cell: Cell | None, sized: bool) -> str:
    if cell is None:
        return ""
    text = cell.text if len(cell.text) <= WIDTH else cell.text[: WIDTH - 3] + "..."
    return f"{cell.place:>6} {cell.size:>4}  {text}" if sized else text
