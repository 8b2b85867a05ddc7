"""What a candidate's build leaves to be linked later: its units' objects and all a module needs.

Every candidate is compared, proven, checked and resolved alone; the module is linked once, from the
parts of all that are safe together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..diff.delta import SystemState
from ..module.keys import Mirror

NO_ADDRESS = -1


@dataclass(frozen=True)
class Redirected:
    """A patched function: the symbol to find its new code by, and the original's name and place.

    `address` is the original's in vmlinux, NO_ADDRESS in a module; `code` and `mask` (hex) are how
    it begins (module.link.PatchedFunction).
    """

    symbol: str
    old_name: str
    position: int
    size_old: int
    size_new: int
    address: int
    code: str = ""
    mask: str = ""


@dataclass(frozen=True)
class Called:
    """A callback: its kind (diff.delta.CallbackKind), the symbol to find it by, and its name."""

    kind: str
    symbol: str
    name: str


@dataclass(frozen=True)
class PartUnit:
    """A unit with its object for the link. `object` is "vmlinux" or a module's name.

    `report` and `evidence` are JSON texts: what the comparison and the proof said.
    """

    source: str
    object: str
    functions: tuple[Redirected, ...]
    callbacks: tuple[Called, ...]
    namespaces: tuple[str, ...]
    mirrors: tuple[Mirror, ...]
    states: tuple[SystemState, ...]
    report: str
    evidence: str


@dataclass(frozen=True)
class Part:
    """All units of one candidate; `objects` are theirs for the link, in the same order."""

    key: str
    units: tuple[PartUnit, ...]
    objects: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def redirects(self) -> frozenset[tuple[str, str, int]]:
        """Every function that it redirects, as the kernel tells it from its namesakes."""
        return frozenset(
            (u.object, f.old_name, f.position) for u in self.units for f in u.functions
        )


def conflicts(redirects: Mapping[str, Iterable[object]]) -> tuple[tuple[str, ...], ...]:
    """Groups of candidates (by key) that cannot be in one module: they redirect the same function.

    A group has two members or more; who shares no function with anyone is in none. Two candidates
    may be in one group though only a third one meets both. The order is that of `redirects`.
    """
    group: dict[str, set[str]] = {key: {key} for key in redirects}
    owner: dict[object, str] = {}
    for key, functions in redirects.items():
        for function in functions:
            first = owner.setdefault(function, key)
            if group[first] is not group[key]:
                merged = group[first] | group[key]
                group.update(dict.fromkeys(merged, merged))
    order = {key: place for place, key in enumerate(redirects)}
    found = {id(g): tuple(sorted(g, key=order.__getitem__)) for g in group.values() if len(g) > 1}
    return tuple(sorted(found.values(), key=lambda keys: order[keys[0]]))


def halves(keys: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Two halves, the first one larger if need be."""
    middle = (len(keys) + 1) // 2
    return tuple(keys[:middle]), tuple(keys[middle:])
