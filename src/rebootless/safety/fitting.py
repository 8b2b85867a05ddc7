"""Where the new members of a struct could stand so that nothing else moves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..patch.structs import Placement
from ..types.btf import Btf
from ..types.shape import BYTE, Field, Shapes
from .typechange import Effect
from .typediff import compare_types, definitions

# Signatures (types/shape.py) of numbers, enums, pointers, atomic counters, and arrays of such.
PLAIN = re.compile(
    r"""(?:\[\d+\])*
    (?: [us]\d+$ | bool\d+$ | (?:signed\ )?char$ | enum\ | \*
      | typedef\ atomic(?:64|_long)?_t$ )""",
    re.VERBOSE,
)


def placements(old: Btf, new: Btf) -> tuple[Placement, ...]:
    """For each struct whose layout only new members change: the old members to put them after.

    A struct is left out if a member that stays becomes another type, if there is no room in the
    bytes that no member uses, or if a new member is not of a plain type. In a kernel that clears
    what it allocates, existing objects have zero there: a number, flag or pointer of that value
    says that nothing was set yet, but a list or a reference count of it would be broken.
    Pure. Raises ElfError for damaged input.
    """
    a, b = Shapes(old), Shapes(new)
    ours, theirs = definitions(old, functions=False), definitions(new, functions=False)
    found: list[Placement] = []
    for change in compare_types(old, new).types:
        key = (change.word, change.name)
        numbers = ours.get(key, []), theirs.get(key, [])
        single = len(numbers[0]) == len(numbers[1]) == 1
        if change.word == "struct" and change.effect is Effect.CHANGED and single:
            fields = a.fields(numbers[0][0]), b.fields(numbers[1][0])
            found += _fitted(change.name, *fields, change.free) or ()
    return tuple(found)


def _fitted(
    struct: str,
    old: Sequence[Field],
    new: Sequence[Field],
    free: Sequence[tuple[int, int]],
) -> list[Placement] | None:
    """Each new member's place: the largest first, each in the smallest gap that takes it."""
    before, after = {f.name: f for f in old}, {f.name: f for f in new}
    if any(_kind(f) != _kind(before[f.name]) for f in new if f.name in before):
        return None
    gaps = {start: [start, end] for start, end in free}
    last = {start: _before(old, start) for start in gaps}
    found = []
    for field in _biggest_first(f for name, f in after.items() if name not in before):
        if "." in field.name or not field.size or PLAIN.match(field.signature) is None:
            return None
        gap = _gap(gaps, last, -(-field.size // BYTE))
        if gap is None:
            return None
        found.append(Placement(struct, field.name, last[gap]))
        last[gap] = field.name
    return found


def _kind(f: Field) -> tuple[int, str, bool]:
    return f.size, f.signature, f.is_bits


def _biggest_first(fields: Iterator[Field]) -> list[Field]:
    return sorted(fields, key=lambda f: -f.size)


def _gap(gaps: dict[int, list[int]], last: dict[int, str], size: int) -> int | None:
    """Takes `size` bytes, aligned as a plain type of that size may be; the key of the gap."""
    align = next(n for n in (8, 4, 2, 1) if size % n == 0)
    fits = []
    for key, (start, end) in gaps.items():
        place = -(-start // align) * align
        if last[key] and place + size <= end:
            fits.append((end - start, key, place))
    if not fits:
        return None
    _, key, place = min(fits)
    gaps[key][0] = place + size
    return key


def _before(fields: Sequence[Field], start: int) -> str:
    """The member that ends where a gap begins; "" if that is inside of one that has a name.

    What follows the last member of an inner struct may be its own padding.
    """
    ends = [f.name for f in fields if -(-(f.offset + f.size) // BYTE) == start and f.size]
    return ends[-1] if ends and "." not in ends[-1] else ""
