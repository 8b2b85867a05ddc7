"""Warnings about what a function does otherwise than before: locks, references, errors, pointers.

All of it can be right; an author should have thought of it. During the transition some tasks run
the old function while others run the new one, so the two must get along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..diff.atoms import Kind
from ..diff.delta import Finding
from ..diff.names import fold, is_export_section, source_name
from .code import Body, CodeUnit
from .errnos import error_values, named
from .lockorder import endings, nesting
from .pairing import (
    LOCKS,
    Side,
    Tally,
    lock_calls,
    lock_counts,
    put_stems,
    reference_counts,
    tallies,
)
from .verdict import Verdict

_SHOWN = 3
_SILENT_DATA = (
    ".data..ro_after_init",
    ".data.rel.ro",
    ".init.",
    ".exit.",
    "__ksymtab",
    "___ksymtab",
    "_ftrace",
    "__tracepoint",
)


def compare(old: CodeUnit, new: CodeUnit, changed: Mapping[str, str]) -> Verdict:
    """Warnings for the changed functions: name in the original object -> in the patched one."""
    stems = put_stems(old, new)
    found: list[Finding] = []
    for before, after in changed.items():
        one, other = old.body(before), new.body(after)
        if one is None or other is None:
            continue
        name = source_name(before)
        found += _counts(name, old, new, one, other, stems)
        found += _order(name, one, other)
        found += _errors(name, old, new, one, other)
    found += _addresses(old, changed)
    return Verdict(warnings=tuple(dict.fromkeys(found)))


def _counts(
    name: str, old: CodeUnit, new: CodeUnit, one: Body, other: Body, stems: frozenset[str]
) -> list[Finding]:
    before, after = tallies(old, new, one, other, lock_counts)
    plain = before == lock_calls(one) and after == lock_calls(other)
    locks = _changes(before, after, lambda kind: _balance(kind, one, other) if plain else "")

    def references(code: CodeUnit, body: Body) -> Tally:
        return reference_counts(code, body, stems)

    counted = _changes(*tallies(old, new, one, other, references))
    found = []
    if locks:
        found.append(
            Finding(
                "lock-count-changed",
                name,
                f"'{name}' takes and releases locks at other places than before: "
                f"{'; '.join(locks)}. See that each path releases what it takes, and that tasks "
                "that still run the old code get along with it",
            )
        )
    if counted:
        found.append(
            Finding(
                "reference-count-changed",
                name,
                f"'{name}' gets and puts references at other places than before: "
                f"{'; '.join(counted)}. See that each path puts what it gets, also for objects "
                "that the old code got before the patch",
            )
        )
    return found


def _balance(kind: str, one: Body, other: Body) -> str:
    """What the ways through both functions say of a kind of lock, "" if nothing."""
    known = next((k for k in LOCKS if k.name == kind), None)
    if known is None:
        return ""
    before, after = endings(one, known), endings(other, known)
    if before == after:
        return " (each way through it ends with as many held as before)"
    more = ", ".join(f"{n:+d}" for n in sorted(after - before))
    return f" (a way through it now ends with {more} of them)" if more else ""


def _changes(old: Tally, new: Tally, remark: Callable[[str], str] = lambda _: "") -> list[str]:
    """One text for each kind whose counts differ, with what `remark` says of the kind."""
    kinds = sorted({kind for kind, side in old | new if old[kind, side] != new[kind, side]})
    return [
        f"{kind}: "
        + ", ".join(
            f"{side.value} {old[kind, side]} -> {new[kind, side]}"
            if old[kind, side] != new[kind, side]
            else f"{side.value} {new[kind, side]}"
            for side in Side
        )
        + remark(kind)
        for kind in kinds
    ]


def _order(name: str, one: Body, other: Body) -> list[Finding]:
    before, after = nesting(one), nesting(other)
    return [
        Finding(
            "lock-order-changed",
            name,
            f"'{name}' takes the {taken} before the {held}, and took them the other way round: "
            "tasks in the old and tasks in the new code can wait for each other for ever while "
            "the transition lasts; patch every function that takes both",
        )
        for held, taken in sorted(before - after)
        if (taken, held) in after and (taken, held) not in before
    ]


def _errors(name: str, old: CodeUnit, new: CodeUnit, one: Body, other: Body) -> list[Finding]:
    before, after = _error_values(old, new, one, other)
    if before == after:
        return []
    parts = []
    if after - before:
        parts.append(f"new is {named(after - before)}")
    if before - after:
        parts.append(f"gone is {named(before - after)}")
    return [
        Finding(
            "error-values-changed",
            name,
            f"'{name}' has other error values than before: {', '.join(parts)}. See that its "
            "callers, in the kernel and in user space, take them",
        )
    ]


def _error_values(
    old: CodeUnit, new: CodeUnit, one: Body, other: Body
) -> tuple[frozenset[int], frozenset[int]]:
    """Those of both functions; with callees by the same rule as in pairing.tallies()."""
    before, after = error_values(one), error_values(other)
    for extra, known in _callees_errors(old, new, one, other):
        if not known or len((before | extra) ^ after) < len(before ^ after):
            before |= extra
    for extra, known in _callees_errors(new, old, other, one):
        if not known or len(before ^ (after | extra)) < len(before ^ after):
            after |= extra
    return before, after


def _callees_errors(
    code: CodeUnit, other_code: CodeUnit, body: Body, other: Body
) -> Iterator[tuple[frozenset[int], bool]]:
    for name in dict.fromkeys(map(fold, body.calls)):
        callee = code.callee(name) if name not in map(fold, other.calls) else None
        if callee is not None and callee.name != body.name:
            yield error_values(callee), name in other_code.folded


def _addresses(code: CodeUnit, changed: Mapping[str, str]) -> Iterator[Finding]:
    """One warning for each variable that holds addresses of changed functions."""
    for variable, functions in _holders(code).items():
        held = [source_name(name) for name in functions if name in changed]
        if held:
            shown = ", ".join(f"'{name}'" for name in held[:_SHOWN])
            more = f" and {len(held) - _SHOWN} more" if len(held) > _SHOWN else ""
            yield Finding(
                "address-in-data",
                variable,
                f"the variable '{variable}' is made with the address of {shown}{more}: calls "
                "through it reach the new code, but code that stores or compares the pointer "
                "still sees the old function",
            )


def _holders(code: CodeUnit) -> dict[str, list[str]]:
    """The unit's variables that can be written to -> the functions whose address they hold.

    A constant table of operations is beside the point: only calls go through it.
    """
    unit = code.unit
    by_atom = {atom.index: name for name, atom in code.functions.items()}
    found: dict[str, dict[str, None]] = {}
    for atom in unit.atoms:
        if atom.kind is not Kind.DATA or not atom.symbols or unit.is_passive(atom):
            continue
        section = unit.section(atom).name
        if is_export_section(section) or section.startswith(_SILENT_DATA):
            continue
        refs = unit.refs_of(atom)
        for target, addend in zip(refs.atom.tolist(), refs.addend.tolist(), strict=True):
            if target in by_atom and addend == 0:
                found.setdefault(source_name(atom.name), {})[by_atom[target]] = None
    return {variable: list(functions) for variable, functions in found.items()}
