"""What may take hold of a function while the kernel runs: ftrace, kprobes, live patches."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator

import numpy as np

from .code import U64, Names
from .live import PAGE, Live, Redirected
from .region import (
    CALL,
    INT3,
    JMP,
    NONE,
    Region,
    Ruling,
    Wrong,
    equal,
    targets,
    windows,
)
from .sites import NOP5, OTHER_NOP5

ENDBR = b"\xf3\x0f\x1e\xfa"
# Branches inside ftrace's own trampolines that it points at whatever is to be called.
FTRACE_BRANCHES = ("ftrace_call", "ftrace_regs_call", "ftrace_graph_call")
FILLED = {"hypercall_page": PAGE}  # by the hypervisor, on Xen


def fentries(region: Region, places: U64, names: Names, live: Live) -> Ruling:
    """A function's fentry: a no-operation, or a call of ftrace for a function that it knows of."""
    places = places[region.inside(places, 5)]
    offsets = region.offsets(places)
    rows = windows(region.found, offsets, 5)
    fine = equal(rows, NOP5) | equal(rows, OTHER_NOP5)
    to = targets(rows, places)
    calls = rows[:, 0] == CALL
    direct = np.array(sorted(live.ftrace | live.direct), np.uint64)
    by_ftrace = calls & np.isin(to, direct)
    wrong = []
    for number in np.nonzero(~fine)[0].tolist():
        place = int(places[number])
        name = names.covering(place)[0]
        listed = live.hooked is None or name in live.hooked
        if by_ftrace[number] and listed:
            fine[number] = True
        elif calls[number] and live.hooked is not None and listed and _module_at(to[number], live):
            fine[number] = True  # a direct call, which ftrace lets modules make
        else:
            reason = "a call that ftrace does not list" if calls[number] else "no call of ftrace"
            wrong.append(Wrong(place, 5, reason))
    fives = np.full(len(places), 5, np.int64)
    altered = int(region.altered(offsets, fives).sum())
    return Ruling("fentry", len(places), altered, offsets[fine], fives[fine], tuple(wrong))


def branches(region: Region, names: Names) -> Ruling:
    """The branches in ftrace's trampolines: to some function's beginning, or a no-operation."""
    found = [names.by_name[n] for n in FTRACE_BRANCHES if n in names.by_name]
    places = np.array(sorted(found), np.uint64)
    places = places[region.inside(places, 5)]
    offsets = region.offsets(places)
    rows = windows(region.found, offsets, 5)
    to = targets(rows, places)
    known = np.array([int(t) in names.starts for t in to], np.bool_)
    fine = equal(rows, NOP5) | (((rows[:, 0] == CALL) | (rows[:, 0] == JMP)) & known)
    fives = np.full(len(places), 5, np.int64)
    altered = int(region.altered(offsets, fives).sum())
    wrong = tuple(Wrong(int(p), 5, "leads to no function") for p in places[~fine])
    return Ruling("ftrace-trampoline", len(places), altered, offsets[fine], fives[fine], wrong)


def probes(region: Region, still: np.ndarray[tuple[int], np.dtype[np.bool_]], live: Live) -> Ruling:
    """Breakpoints of kprobes and the jumps that take their place, where the kernel lists them.

    `still` are the bytes without a reason up to now. Without the list a lone breakpoint, or a jump
    to where kprobes keep their code, is not decided.
    """
    starts, sizes, undecided = [], [], []
    offset = 0
    places = np.nonzero(still)[0]
    while (index := int(np.searchsorted(places, offset))) < len(places):
        at = int(places[index])
        offset = at + 1
        address = region.address + at
        size = _probe_size(region, at, live)
        if size == 0:
            continue
        probe = None if live.probes is None else live.probes.get(address)
        if live.probes is None:
            undecided.append(Wrong(address, size, "a breakpoint; the list of kprobes is not there"))
        elif probe is None or probe.by_ftrace or probe.disabled:
            continue
        starts.append(at)
        sizes.append(size)
        offset = at + size
    ends = np.array(sizes, np.int64)
    spans = (np.array(starts, np.int64), ends) if starts else (NONE, NONE)
    return Ruling("kprobe", len(starts), len(starts), *spans, undecided=tuple(undecided))


def _probe_size(region: Region, at: int, live: Live) -> int:
    """The bytes that a kprobe takes at an offset, 0 if there is none."""
    if region.found[at] == INT3:
        return 1
    code = region.found[at : at + 5].tobytes()
    if code[:1] == bytes([JMP]) and len(code) == 5:
        to = _leads_to(code, region.address + at)
        if any(page <= to < page + PAGE for page in live.probe_pages):
            return 5
    return 0


def redirections(
    region: Region, live: Live, object_name: str
) -> tuple[Ruling, tuple[tuple[Redirected, int], ...]]:
    """The functions that live patches redirect: a call of ftrace, or a jump to the patch's module.

    Gives the ruling, and each function that is redirected with what its entry leads to. A
    function without redirection is wrong.
    """
    starts, wrong, found = [], [], []
    mine = [r for r in live.redirected if r.function.object == object_name]
    mine = [r for r in mine if region.address <= r.address < region.address + len(region.found)]
    for redirected in mine:
        for address, target in _entry_branches(region, redirected.address):
            if target in live.ftrace or _module_at(target, live) in redirected.patches:
                found.append((redirected, target))
                starts.append(address - region.address)
                break
        else:
            names = ", ".join(redirected.patches)
            reason = f"{names} redirects {redirected.function}, but its entry leads nowhere else"
            wrong.append(Wrong(redirected.address, 16, reason))
    fives = np.full(len(starts), 5, np.int64)
    ruling = Ruling(
        "live-patch", len(mine), len(starts), np.array(starts, np.int64), fives, tuple(wrong)
    )
    return ruling, tuple(found)


def _entry_branches(region: Region, address: int) -> Iterator[tuple[int, int]]:
    """(place, target) of the branches where a redirection may be.

    That is at the entry, behind a landing pad, or behind the fentry as well.
    """
    at = address - region.address
    code = region.found[at : at + 16].tobytes()
    padded = 4 if region.shipped[at : at + 4].tobytes() == ENDBR else 0
    for offset in (0, padded, padded + 5):
        if code[offset : offset + 1] in (bytes([CALL]), bytes([JMP])):
            yield address + offset, _leads_to(code[offset:], address + offset)


def _leads_to(code: bytes, address: int) -> int:
    return address + 5 + int.from_bytes(code[1:5], "little", signed=True)


def _module_at(address: int, live: Live) -> str:
    """The module that an address is in, or ""."""
    index = bisect.bisect_right(live.modules, (int(address), 1 << 64, "")) - 1
    _, end, name = live.modules[index] if index >= 0 else (0, 0, "")
    return name if int(address) < end else ""


def filled(region: Region, names: Names) -> Ruling:
    """Code that a hypervisor fills in, where it has: not decided."""
    undecided = []
    places = [(names.by_name[n], size) for n, size in FILLED.items() if n in names.by_name]
    for address, size in places:
        at = address - region.address
        if 0 <= at <= len(region.found) - size and region.differs[at : at + size].any():
            undecided.append(Wrong(address, size, "filled in by the hypervisor"))
    return undecided_ruling("hypercall", len(places), undecided, region)


def blind(region: Region, places: U64) -> Ruling:
    """Fields that refer to what the kernel does not tell the address of: not decided."""
    places = places[region.inside(places, 4)]
    fours = np.full(len(places), 4, np.int64)
    differing = places[region.altered(region.offsets(places), fours)]
    listed = [Wrong(int(p), 4, "refers to what the kernel does not tell") for p in differing]
    return undecided_ruling("reference", len(places), listed, region)


def undecided_ruling(kind: str, sites: int, undecided: Iterable[Wrong], region: Region) -> Ruling:
    """A ruling that lets sites pass without a judgement."""
    listed = tuple(undecided)
    starts = np.array([w.address - region.address for w in listed], np.int64)
    sizes = np.array([w.size for w in listed], np.int64)
    return Ruling(kind, sites, len(listed), starts, sizes, undecided=listed)
