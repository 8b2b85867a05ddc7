"""Two instruction sequences side by side: which correspond, which differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from .facts import Instruction, Mark, Row

MANY = 600  # from here on difflib leaves what is frequent out of its search: it is quadratic
LONG = 600  # rows; of longer functions only what is around a change is kept
AROUND = 40  # equal rows kept on either side of a change in such a function


def align(old: Sequence[Instruction], new: Sequence[Instruction]) -> tuple[Row, ...]:
    """The rows of a comparison: equal instructions side by side, the others marked."""
    pairs = list(_pairs([i.key for i in old], [i.key for i in new]))
    partner = {old[a].offset: new[b].offset for a, b, same in pairs if same}
    rows = []
    for a, b, same in pairs:
        left = old[a] if a >= 0 else None
        right = new[b] if b >= 0 else None
        if left is None:
            mark = Mark.ADDED
        elif right is None:
            mark = Mark.REMOVED
        elif same and _same_target(left, right, partner):
            mark = Mark.SAME
        else:
            mark = Mark.CHANGED
        rows.append(Row(mark, left, right))
    return tuple(rows)


def _same_target(old: Instruction, new: Instruction, partner: dict[int, int]) -> bool:
    """Whether two jumps go to instructions that correspond, or into the same changed stretch."""
    if old.target is None or new.target is None:
        return old.target is new.target
    return partner.get(old.target, new.target) == new.target


def _pairs(old: list[str], new: list[str]) -> Iterator[tuple[int, int, bool]]:
    """(old index, new index, equal keys) for each row; -1 where one side has nothing."""
    limit = min(len(old), len(new))
    head = 0
    while head < limit and old[head] == new[head]:
        head += 1
    tail = 0
    while tail < limit - head and old[-1 - tail] == new[-1 - tail]:
        tail += 1
    yield from ((i, i, True) for i in range(head))
    middle_old, middle_new = old[head : len(old) - tail], new[head : len(new) - tail]
    many = len(middle_old) + len(middle_new) > MANY
    matcher = SequenceMatcher(None, middle_old, middle_new, autojunk=many)
    for what, a, a_end, b, b_end in matcher.get_opcodes():
        for n in range(max(a_end - a, b_end - b)):
            left = head + a + n if a + n < a_end else -1
            right = head + b + n if b + n < b_end else -1
            yield left, right, what == "equal"
    shift = len(new) - len(old)
    yield from ((i, i + shift, True) for i in range(len(old) - tail, len(old)))


def shortened(rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows of a very long function: the neighbourhoods of its changes, and how far between."""
    if len(rows) <= LONG:
        return rows
    changed = [n for n, row in enumerate(rows) if row.mark is not Mark.SAME]
    keep = bytearray(len(rows))
    for n in changed:
        first, last = max(0, n - AROUND), min(len(rows), n + AROUND + 1)
        keep[first:last] = b"\1" * (last - first)
    found: list[Row] = []
    kept = 0
    for n, row in enumerate(rows):
        if keep[n] and kept < LONG:
            found.append(row)
            kept += 1
        elif found and found[-1].mark is Mark.SKIPPED:
            found[-1] = Row(Mark.SKIPPED, None, None, found[-1].skipped + 1)
        else:
            found.append(Row(Mark.SKIPPED, None, None, 1))
    return tuple(found)
