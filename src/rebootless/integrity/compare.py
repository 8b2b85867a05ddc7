"""Compares memory with shipped code: every byte that differs gets a reason, or is reported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from . import constants, holders, sites, variants
from .code import Code
from .live import Live, Redirected
from .region import Flags, Region, Ruling, Wrong, spread
from .show import LONGEST, instructions, whole
from .tables import Tables

JOINED = 8  # bytes that differ within this distance, in one function, are one difference
MOST_BYTES = 64  # of a difference that are shown


@dataclass(frozen=True)
class Difference:
    """Bytes of a function that are neither the shipped ones nor legitimate at a special site.

    `expected` and `found` are whole instructions of the shipped code, from `address` on; `size`
    is the whole length, of which at most MOST_BYTES are kept.
    """

    object: str
    function: str
    offset: int
    address: int
    size: int
    expected: bytes
    found: bytes
    reason: str
    expected_code: tuple[str, ...] = ()
    found_code: tuple[str, ...] = ()


@dataclass(frozen=True)
class Undecided:
    """A site that differs and cannot be judged."""

    object: str
    function: str
    offset: int
    address: int
    kind: str
    reason: str


@dataclass(frozen=True)
class Redirection:
    """A function that live patches redirect, and what its entry leads to."""

    object: str
    function: str
    address: int
    leads_to: int
    patches: tuple[str, ...]


@dataclass(frozen=True)
class Kind:
    """How many sites of a kind there are, are not as shipped, and could not be judged."""

    name: str
    sites: int
    altered: int
    undecided: int


@dataclass(frozen=True)
class Verdict:
    """What comparing one object found."""

    object: str
    size: int
    kinds: tuple[Kind, ...]
    differences: tuple[Difference, ...] = ()
    undecided: tuple[Undecided, ...] = ()
    redirected: tuple[Redirection, ...] = field(default=())


def compare(code: Code, tables: Tables, regions: Sequence[Region], live: Live) -> Verdict:
    """Judges all code of one object; pure."""
    judged = [judge(region, code, tables, live) for region in regions]
    rulings = [ruling for _, found, _ in judged for ruling in found]
    differences: list[Difference] = []
    for (still, found, _), region in zip(judged, regions, strict=True):
        differences += _differences(code, region, still, found)
    undecided = [
        Undecided(code.name, *_where(code, w.address), w.address, r.kind, w.reason)
        for r in rulings
        for w in r.undecided
    ]
    return Verdict(
        code.name,
        sum(len(region.shipped) for region in regions),
        _kinds(rulings),
        tuple(differences),
        tuple(undecided),
        tuple(
            Redirection(code.name, r.function.name, r.address, to, r.patches)
            for _, _, redirected in judged
            for r, to in redirected
        ),
    )


def judge(
    region: Region, code: Code, tables: Tables, live: Live
) -> tuple[Flags, list[Ruling], tuple[tuple[Redirected, int], ...]]:
    """The bytes of a region without a reason, the rulings, and the redirected functions."""
    redirected, leads = holders.redirections(region, live, code.name)
    varied = variants.ruling(region, tables, live)
    overlaid = _mask(region, varied)
    simple = [_without(r, overlaid) for r in sites.rulings(region, tables, live)]
    rulings = [
        *simple,
        varied,
        constants.ruling(region, tables, live),
        holders.fentries(region, tables.fentries, code.names, live),
        holders.branches(region, code.names),
        holders.filled(region, code.names),
        holders.blind(region, code.blind),
        redirected,
    ]
    still = region.differs.copy()
    for ruling in rulings:
        still[spread(ruling.starts, ruling.sizes)] = False
    probes = holders.probes(region, still, live)
    still[spread(probes.starts, probes.sizes)] = False
    if live.probes is not None:
        probed = _mask(region, probes)
        rulings = [_without(ruling, probed) for ruling in rulings]
    for wrong in (w for ruling in rulings for w in ruling.wrong):
        at = wrong.address - region.address
        still[at : at + wrong.size] = True
    return still, [*rulings, probes], leads


@dataclass(frozen=True)
class _Spans:
    """The bytes that a ruling accounts for."""

    address: int
    covered: Flags

    def any_of(self, wrong: Wrong) -> bool:
        at = wrong.address - self.address
        return bool(self.covered[at : at + wrong.size].any())


def _mask(region: Region, ruling: Ruling) -> _Spans:
    covered = np.zeros(len(region.shipped), np.bool_)
    covered[spread(ruling.starts, ruling.sizes)] = True
    return _Spans(region.address, covered)


def _without(ruling: Ruling, other: _Spans) -> Ruling:
    """A ruling without the sites that another one accounts for.

    A return in an alternative is gone when another variant is there; a kprobe may sit anywhere.
    """
    return replace(ruling, wrong=tuple(w for w in ruling.wrong if not other.any_of(w)))


def _differences(
    code: Code, region: Region, still: Flags, rulings: Iterable[Ruling]
) -> list[Difference]:
    """The bytes without a reason, those close together in one function as one difference."""
    reasons = {w.address: w.reason for r in rulings for w in r.wrong}
    places = np.nonzero(still)[0].tolist()
    spans: list[tuple[int, int, int]] = []  # function's start, first and last byte
    for at in places:
        start = code.names.covering(region.address + at)[1]
        if spans and spans[-1][0] == start and at - spans[-1][2] <= JOINED:
            spans[-1] = (start, spans[-1][1], at)
        else:
            spans.append((start, at, at))
    return [_difference(code, region, span, reasons) for span in spans]


def _difference(
    code: Code, region: Region, span: tuple[int, int, int], reasons: dict[int, str]
) -> Difference:
    start, first, last = span
    name = code.names.covering(region.address + first)[0]
    begin = max(start - region.address, 0)
    function = region.shipped[begin : min(last, begin + LONGEST) + 32].tobytes()
    from_, to = (begin + at for at in whole(function, first - begin, last - begin))
    shown = min(to, from_ + MOST_BYTES)
    expected = region.shipped[from_:shown].tobytes()
    found = region.found[from_:shown].tobytes()
    address = region.address + from_
    near = range(address, region.address + shown)
    reason = next((reasons[place] for place in near if place in reasons), "")
    return Difference(
        code.name,
        name,
        address - start if name else 0,
        address,
        to - from_,
        expected,
        found,
        reason or "not the shipped code",
        instructions(expected, address),
        instructions(found, address),
    )


def _where(code: Code, address: int) -> tuple[str, int]:
    name, start, _ = code.names.covering(address)
    return name, address - start


def _kinds(rulings: Iterable[Ruling]) -> tuple[Kind, ...]:
    """The counts by kind, of all regions together; kinds without a site are left out."""
    sums: dict[str, list[int]] = {}
    for ruling in rulings:
        counts = (ruling.sites, ruling.altered, len(ruling.undecided))
        sums[ruling.kind] = [
            a + b for a, b in zip(sums.get(ruling.kind, [0] * 3), counts, strict=True)
        ]
    return tuple(Kind(name, *counts) for name, counts in sums.items() if counts[0])
