"""In which order a function takes its locks, and how many it may still hold when it ends."""

from __future__ import annotations

from iced_x86 import Mnemonic, OpKind, Register, RegisterExt

from .code import LOOK_BACK, SIGNED, Body
from .pairing import LOCKS, Kind, Side, side_of

_KINDS = tuple(kind for kind in LOCKS if kind.ordered)
_MOST_HELD = 4  # loops that take and never release would count on for ever
_MOST_STEPS = 200_000  # more than any function needs: the sets of held locks only grow


def nesting(body: Body) -> frozenset[tuple[str, str]]:
    """Every (held, taken) that some path through the function may have, by the locks' names."""
    events = _events(body)
    if not events:
        return frozenset()
    found: set[tuple[str, str]] = set()
    held: dict[int, frozenset[str]] = {0: frozenset()}
    waiting = [0]
    for _ in range(_MOST_STEPS):
        if not waiting:
            break
        n = waiting.pop()
        state = held[n]
        if n in events:
            side, lock = events[n]
            if side is Side.TAKE:
                found.update((other, lock) for other in state if other != lock)
                state |= {lock}
            else:
                state -= {lock}
        for way in body.steps[n].leads:
            merged = held.get(way, frozenset()) | state
            if way not in held or merged != held[way]:
                held[way] = merged
                waiting.append(way)
    return frozenset(found)


def endings(body: Body, kind: Kind) -> frozenset[int]:
    """How many locks of a kind more than at its start a function may hold when it ends.

    By calls alone, and by all ways through the code: two conditions that are one are not seen.
    """
    change = {
        n: 1 if side is Side.TAKE else -1
        for n, step in enumerate(body.steps)
        if step.calls and (side := side_of(kind, step.calls))
    }
    found: set[int] = set()
    seen = {(0, 0)} if body.steps else set()
    waiting = list(seen)
    while waiting:
        n, count = waiting.pop()
        count += change.get(n, 0)
        step = body.steps[n]
        if step.leaves:
            found.add(count)
        if abs(count) < _MOST_HELD:
            ways = {(way, count) for way in step.leads} - seen
            seen |= ways
            waiting += ways
    return frozenset(found)


def _events(body: Body) -> dict[int, tuple[Side, str]]:
    found = {}
    for n, step in enumerate(body.steps):
        for kind in _KINDS if step.calls else ():
            if side := side_of(kind, step.calls):
                found[n] = (side, f"{kind.name} {_identity(body, n)}".rstrip())
                break
    return found


def _identity(body: Body, at: int) -> str:
    """What tells the lock passed to a call from others: its symbol, or its place in an object."""
    register = int(Register.RDI)
    for n in range(at - 1, max(at - LOOK_BACK, -1), -1):
        step = body.steps[n]
        raw = step.raw
        if raw.op_count != 2 or raw.op0_kind != OpKind.REGISTER:
            continue
        if RegisterExt.full_register(raw.op0_register) != register:
            continue
        if step.target is not None:
            offset = f"+{step.target.offset:#x}" if step.target.offset else ""
            return f"'{step.target.name}{offset}'"
        if raw.mnemonic == Mnemonic.LEA:
            return f"at +{raw.memory_displacement & 0xFFFFFFFF:#x}"
        if raw.mnemonic == Mnemonic.ADD and raw.op1_kind in SIGNED:
            return f"at +{raw.immediate(1) & 0xFFFFFFFF:#x}"
        if raw.mnemonic != Mnemonic.MOV or raw.op1_kind != OpKind.REGISTER:
            return ""
        register = RegisterExt.full_register(raw.op1_register)
    return ""
