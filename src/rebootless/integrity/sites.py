"""Places with few legitimate values, judged all at once: return sites, lock prefixes, landing
pads, static branches, static calls."""

from __future__ import annotations

import numpy as np

from .code import I64, U64, Names
from .live import Live
from .region import (
    CALL,
    DS,
    INT3,
    JMP,
    JMP8,
    LOCK,
    NONE,
    RET,
    Flags,
    Region,
    Ruling,
    Wrong,
    equal,
    targets,
    windows,
)
from .tables import Tables

NOP2 = (0x66, 0x90)
NOP4 = (0x0F, 0x1F, 0x40)
NOP5 = (0x0F, 0x1F, 0x44, 0x00, 0x00)
OTHER_NOP5 = (0x3E, 0x8D, 0x74, 0x26, 0x00)  # which linkers and kernels before 5.13 used as well
POISON = (0x66, 0x0F, 0x1F, 0x00)  # what a sealed landing pad becomes (6.1)
TRAMPOLINE, KEY = "__SCT__", "__SCK__"  # what the names of a static call's symbols begin with
NAKED_RETURN = (RET, INT3, INT3, INT3, INT3)


def rulings(region: Region, tables: Tables, live: Live) -> list[Ruling]:
    """Judges every site of these kinds in a region."""
    return [
        locks(region, tables.places(".smp_locks")),
        seals(region, tables.places(".ibt_endbr_seal")),
        returns(region, tables, live.return_thunks),
        labels(region, tables, live),
        static_calls(region, tables, live),
        trampolines(region, tables.code.names, live),
    ]


def locks(region: Region, places: U64) -> Ruling:
    """A lock prefix, or in its place a prefix without effect on a machine of one processor.

    The kernel changes all of a section or none.
    """
    places = places[region.inside(places, 1)]
    offsets = region.offsets(places)
    found = region.found[offsets]
    ones = np.ones(len(offsets), np.int64)
    locked, plain = found == LOCK, found == DS
    fine = locked if locked.sum() >= plain.sum() else plain
    # Where another prefix stands before it, the table names that one, and nothing is changed.
    fine = fine | (~region.altered(offsets, ones) & ~locked)
    return _ruling("lock-prefix", region, places, ones, fine, "unlike the other lock prefixes")


def seals(region: Region, places: U64) -> Ruling:
    """An endbr64 that nothing jumps to, or the no-operation that takes its place."""
    places = places[region.inside(places, 4)]
    rows = windows(region.found, region.offsets(places), 4)
    shipped = (rows == windows(region.shipped, region.offsets(places), 4)).all(axis=1)
    fine = shipped | equal(rows, POISON) | equal(rows, NOP4)
    fours = np.full(len(places), 4, np.int64)
    return _ruling("landing-pad", region, places, fours, fine, "neither endbr64 nor a no-operation")


def returns(region: Region, tables: Tables, thunks: frozenset[int]) -> Ruling:
    """A return: through a return thunk, or naked with breakpoints behind it.

    Trampolines of static calls without a target return as well; they are judged on their own.
    """
    places = tables.places(".return_sites")
    places = places[region.inside(places, 5)]
    by_name = tables.code.names.by_name
    trampolines = [a for name, a in by_name.items() if name.startswith(TRAMPOLINE)]
    places = places[~np.isin(places, np.array(trampolines, np.uint64))]
    offsets = region.offsets(places)
    rows = windows(region.found, offsets, 5)
    known = np.array(sorted(thunks), np.uint64)
    fine = equal(rows, NAKED_RETURN)
    fine |= (rows[:, 0] == JMP) & np.isin(targets(rows, places), known)
    sizes = np.where(region.shipped[offsets] == RET, 1, 5).astype(np.int64)
    fine |= (sizes == 1) & (rows[:, 0] == RET)
    reason = "neither a return nor a jump to a return thunk"
    return _ruling("return", region, places, sizes, fine, reason)


def labels(region: Region, tables: Tables, live: Live) -> Ruling:
    """A static branch: what its key says, a jump to its target or a no-operation.

    Of a key that cannot be read either will do.
    """
    table = tables.labels
    chosen = region.inside(table.places, 5)
    places, leads_to = table.places[chosen], table.targets[chosen]
    offsets = region.offsets(places)
    rows = windows(region.found, offsets, 5)
    shipped = windows(region.shipped, offsets, 5)
    short = (shipped[:, 0] == JMP8) | equal(shipped, NOP2)
    near = places + np.uint64(2) + rows[:, 1].view(np.int8).astype(np.int64).astype(np.uint64)
    jumps = np.where(
        short,
        (rows[:, 0] == JMP8) & (near == leads_to),
        (rows[:, 0] == JMP) & (targets(rows, places) == leads_to),
    )
    nops = np.where(short, equal(rows, NOP2), equal(rows, NOP5) | equal(rows, OTHER_NOP5))
    states = [live.words.get(key) for key in table.keys[chosen].tolist()]
    known = np.array([state is not None for state in states], np.bool_)
    enabled = np.array([(state or 0) & 0xFFFFFFFF != 0 for state in states], np.bool_)
    wants_jump = enabled ^ (table.branches[chosen] != 0)
    fine = np.where(known, np.where(wants_jump, jumps, nops), jumps | nops)
    sizes = np.where(short, 2, 5).astype(np.int64)
    reasons = np.where(
        jumps | nops,
        "a static branch that does not agree with its key",
        "a static branch: neither a jump to its target nor a no-operation",
    )
    return _ruling("static-branch", region, places, sizes, fine, reasons)


def static_calls(region: Region, tables: Tables, live: Live) -> Ruling:
    """A static call: a call of what its key holds, or what the kernel writes instead of it."""
    table = tables.static_calls
    chosen = region.inside(table.places, 6)
    places, tails = table.places[chosen], table.tails[chosen] != 0
    rows = windows(region.found, region.offsets(places), 6)
    keys = [live.static_keys.get(key, key) for key in table.keys[chosen].tolist()]
    held = [live.words.get(key) for key in keys]
    function = np.array([value or 0 for value in held], np.uint64)
    known = np.array([value is not None for value in held], np.bool_)
    thunks = np.array(sorted(live.return_thunks), np.uint64)
    to = targets(rows, places)
    conditional = (rows[:, 0] == 0x0F) & (rows[:, 1] & 0xF0 == 0x80)
    calls = (rows[:, 0] == CALL) & (to == function)
    instead = np.zeros(len(rows), np.bool_)
    for address, code in live.instead.items():
        instead |= equal(rows, tuple(code)) & (function == np.uint64(address))
    nothing = function == 0
    nops = equal(rows, NOP5) & nothing
    jumps = (rows[:, 0] == JMP) & (to == function)
    ends = nothing & (equal(rows, NAKED_RETURN) | ((rows[:, 0] == JMP) & np.isin(to, thunks)))
    far = targets(rows, places, 2)
    jcc = conditional & ((far == function) | (nothing & np.isin(far, thunks)))
    fine = np.where(tails, jumps | ends | jcc, calls | instead | nops)
    fine |= ~known & _as_shipped(region, places, 5)
    sizes = np.where(conditional, 6, 5).astype(np.int64)
    return _ruling("static-call", region, places, sizes, fine, "not a call of what its key holds")


def trampolines(region: Region, names: Names, live: Live) -> Ruling:
    """The trampoline of a static call: a jump to what its key holds, or a return."""
    found = {a: n for n, a in names.by_name.items() if n.startswith(TRAMPOLINE)}
    places = np.array(sorted(found), np.uint64)
    places = places[region.inside(places, 5)]
    rows = windows(region.found, region.offsets(places), 5)
    keys = [names.by_name.get(KEY + found[p].removeprefix(TRAMPOLINE), 0) for p in places.tolist()]
    held = [live.words.get(key) for key in keys]
    function = np.array([value or 0 for value in held], np.uint64)
    known = np.array([value is not None for value in held], np.bool_)
    thunks = np.array(sorted(live.return_thunks), np.uint64)
    to = targets(rows, places)
    ends = equal(rows, NAKED_RETURN) | ((rows[:, 0] == JMP) & np.isin(to, thunks))
    fine = ((rows[:, 0] == JMP) & (to == function)) | ((function == 0) & ends)
    fine |= ~known & _as_shipped(region, places, 5)
    fives = np.full(len(places), 5, np.int64)
    reason = "a static call's trampoline: not a jump to what its key holds"
    return _ruling("static-call-trampoline", region, places, fives, fine, reason)


def _as_shipped(region: Region, places: U64, size: int) -> Flags:
    offsets = region.offsets(places)
    return ~region.altered(offsets, np.full(len(offsets), size, np.int64))


def _ruling(
    kind: str,
    region: Region,
    places: U64,
    sizes: I64,
    fine: Flags,
    reason: str | np.ndarray[tuple[int], np.dtype[np.str_]],
) -> Ruling:
    """The ruling for sites of which `fine` have legitimate bytes."""
    if not len(places):
        return Ruling(kind, 0, 0, NONE, NONE)
    offsets = region.offsets(places)
    altered = region.altered(offsets, sizes)
    bad = np.nonzero(~fine)[0].tolist()
    wrong = tuple(
        Wrong(int(places[i]), int(sizes[i]), reason if isinstance(reason, str) else str(reason[i]))
        for i in bad
    )
    return Ruling(kind, len(places), int(altered.sum()), offsets[fine], sizes[fine], wrong)
