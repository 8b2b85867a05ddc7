"""Inlined copies of a header's old code, as far as compiled code tells of them.

Inlined code is mixed with its surroundings, so its bytes cannot be searched for. What can be
searched for is what it calls: who calls a function that few others call, as the old inline function
does, may hold a copy of it. Where the header itself declares that function, a caller that was not
rebuilt has the code from elsewhere; where it does not, others call it on their own account, and
only code that cannot be rebuilt is suspected. An inline function that calls nothing, or only what
everybody calls, cannot be told from other code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..base.words import counted, few
from ..compile.reach import HeaderReach
from ..diff.delta import Finding
from ..extract.toplevel import Kind, split
from .verdict import Verdict

FEW = 100  # callers: what has more is no mark of one inline function
_NOISE = re.compile(
    r"/\*.*?\*/|//[^\n]*|^[ \t]*#(?:[^\n\\]|\\\n|\\.)*|"
    r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'',
    re.DOTALL | re.MULTILINE,
)
_CALL = re.compile(r"\b([A-Za-z_]\w*)\s*\(")
_NO_CALLS = frozenset({"if", "for", "while", "switch", "return", "sizeof", "do", "else"})


@dataclass(frozen=True)
class Inline:
    """An inline function that the patch changes, and what its old code calls, by name.

    `declared` are those that the same header declares.
    """

    name: str
    calls: tuple[str, ...]
    declared: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Searched:
    """What was found for one inline function.

    `target` is the function by whose callers copies are told, "" where there is none; `callers`
    are those that were not rebuilt, in words. `copies` are functions of the kernel by its name that
    no rebuilt unit has.
    """

    inline: str
    target: str = ""
    callers: tuple[str, ...] = ()
    copies: int = 0


def changed_inlines(text: str, lines: Iterable[int]) -> tuple[Inline, ...]:
    """The functions that a header (before the patch) defines at the changed `lines` (from 1)."""
    quiet = _NOISE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    changed = set(lines)
    items = split(quiet).items
    declared = {name for item in items if item.kind is Kind.DECLARATION for name in item.names}
    found: dict[str, dict[str, None]] = {}
    for item in items:
        if item.kind is not Kind.FUNCTION or not item.names:
            continue
        first = quiet.count("\n", 0, item.start) + 1
        last = quiet.count("\n", 0, item.end) + 1
        if changed.isdisjoint(range(first, last + 1)):
            continue
        begin, end = item.bodies[0]
        calls = (name for name in _CALL.findall(quiet, begin, end) if name not in _NO_CALLS)
        found.setdefault(item.names[0], {}).update(dict.fromkeys(calls))
    return tuple(
        Inline(name, tuple(calls), frozenset(declared & calls.keys()))
        for name, calls in found.items()
    )


def check_copies(
    reach: HeaderReach,
    changed_units: int,
    foreign: Iterable[str],
    searched: Sequence[Searched] = (),
) -> Verdict:
    """Warns where inlined copies of a changed header's code may remain.

    `changed_units` came out different; `foreign` are modules that the kernel's package does not
    ship, which may have been compiled with the old header; `searched` is what shipped code tells.
    """
    if not reach.headers:
        return Verdict()
    modules = sorted(foreign)
    left = []
    if reach.kept:
        left.append(f"{counted(len(reach.kept), 'file')} that cannot be patched: {few(reach.kept)}")
    if modules:
        left.append(f"{counted(len(modules), 'module')} of other origin: {few(modules)}")
    told = [_told(one) for one in searched if one.callers or one.copies or left]
    if left and not searched:
        told.append("What changes cannot be told from other code once it is inlined")
    if not told:
        return Verdict()
    message = (
        f"{few(reach.headers)} (units that include it and were rebuilt: {reach.rebuilt}; changed "
        f"by the patch: {changed_units}): copies of the old code may remain"
        + (f" in {' and in '.join(left)}" if left else " in code that was not rebuilt")
        + f". {'. '.join(told)}. See whether these use what the patch changes, and rebuild the "
        "modules"
    )
    return Verdict(warnings=(Finding("inline-copies", reach.headers[0], message),))


def _told(one: Searched) -> str:
    if one.copies:
        rest = f". {_told(replace(one, copies=0))}" if one.callers else ""
        return f"{counted(one.copies, 'function')} '{one.inline}' of vmlinux not rebuilt{rest}"
    if not one.target:
        return f"Copies of '{one.inline}' cannot be told from other code"
    if not one.callers:
        return f"No code that was not rebuilt calls '{one.target}', as the old '{one.inline}' does"
    return (
        f"Not rebuilt, and calling '{one.target}' as the old '{one.inline}' does: "
        f"{few(one.callers)}"
    )
