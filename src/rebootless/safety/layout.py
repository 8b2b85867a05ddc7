"""Whether code that is not patched can live with the types that the patched code knows.

Objects of the running kernel have the layout that they were made with, and everything that is not
patched reads and writes them by it. So a type that changes in size, offsets, kinds of members or
values is refused, in both layouts side by side. There is no telling from types alone that all
objects of one live on the stacks of patched functions; an author who knows it gives the changed
type a new name (a type that only the patch has is no change, and the compiler finds the code that
would mix both), or accepts the finding.

A member in bytes that were free keeps all else in its place: it is told as a warning, since what
existing objects hold there is whatever was there.
"""

from __future__ import annotations

from ..diff.delta import Finding
from .sidebyside import side_by_side
from .typechange import Effect, Mark, TypeChange, TypeChanges
from .verdict import Verdict

NAMED_ALSO = 6
MAX_FREE = 4
GUIDE = "docs/patch-author-guide.md"


def type_findings(changes: TypeChanges) -> Verdict:
    """What the changes of types come to; pure. Prototypes are for prototypes.py."""
    verdict = Verdict()
    for change in changes.types:
        verdict += _verdict(change)
    return verdict


def _verdict(change: TypeChange) -> Verdict:
    if change.effect is Effect.CHANGED:
        return Verdict(refused=(_changed(change),))
    if change.effect is Effect.ADDED:
        return Verdict(warnings=(_added(change),))
    if change.effect is Effect.RENAMED:
        return Verdict(warnings=(_renamed(change),))
    return Verdict(warnings=(_constant(change),))


def _changed(change: TypeChange) -> Finding:
    if change.word in ("enum", "enumerator"):
        return Finding(
            "enum-changed",
            change.name,
            f"{change.title} changes values that existing objects may hold, and that code which is "
            f"not patched compares with:\n{side_by_side(change)}\n"
            "      Give the new meaning a new value after the last one",
        )
    if change.word == "typedef" and len(change.rows) == 1 and not change.free:
        what = "becomes another type"
    else:
        what = "changes its layout"
    return Finding(
        "layout-changed",
        change.name,
        f"{change.title} {what}: existing objects, and the code that is not patched, keep to the "
        f"old one\n{side_by_side(change)}\n{_also(change)}      {_way_out(change)}",
    )


def _also(change: TypeChange) -> str:
    if not change.also:
        return ""
    names = ", ".join(change.also[:NAMED_ALSO])
    more = len(change.also) - NAMED_ALSO
    return f"      With it change: {names}{f', and {more} more' if more > 0 else ''}\n"


def _way_out(change: TypeChange) -> str:
    ways = f"Keep new data in a shadow variable ({GUIDE})"
    new = [r.new.size for r in change.rows if r.mark is Mark.NEW and r.new and r.new.size.isdigit()]
    needed = min(map(int, new), default=0)
    places = [f"{start}..{end - 1}" for start, end in change.free if end - start >= needed > 0]
    if places:
        ways += f", or in bytes that are free ({', '.join(places[:MAX_FREE])})"
    return f"{ways}; if only patched functions use the type, give the changed one a new name"


def _added(change: TypeChange) -> Finding:
    new = [row.new.text for row in change.rows if row.mark is Mark.NEW and row.new is not None]
    what = f"gains '{new[0]}'" if len(new) == 1 else "gains members"
    return Finding(
        "layout-hole-used",
        change.name,
        f"{change.title} {what} in bytes that it had already: nothing moves, but existing objects "
        f"hold whatever was there\n{side_by_side(change)}\n"
        "      Make sure that the patched code can tell such a value, or set it before it is read",
    )


def _renamed(change: TypeChange) -> Finding:
    what = "renames or loses values" if change.word == "enum" else "renames members"
    return Finding(
        "layout-renamed",
        change.name,
        f"{change.title} {what}: fine if what is meant stays the same, since code that is not "
        f"patched goes on with the old meaning\n{side_by_side(change)}",
    )


def _constant(change: TypeChange) -> Finding:
    row = change.rows[0]
    assert row.old is not None and row.new is not None
    return Finding(
        "constant-changed",
        change.name,
        f"the constant {row.old.text} becomes {row.new.text}: code that is not patched, and values "
        "that it has stored, keep the old one",
    )
