"""The functions of a patch as the page shows them: texts, links, folded rows, drawings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from . import graph
from .graph import Node
from .patchview import PatchView

CONTEXT = 3  # equal rows that stay in sight around a change
SMALLEST_FOLD = 6
_TOKEN = re.compile(r"\s+|[\w.$%+-]+|.")
_HIDDEN = re.compile(r"^(__x86_(return|indirect)_thunk\w*|__fentry__)$")
_STATIC_CALL = re.compile(r"^__SCT__(.+)$")
WAYS = {
    "patch": "come along in the patch",
    "private": "private symbols, resolved by livepatch at a proven position",
    "exported": "exported symbols",
    "unit": "defined in this unit",
    "elsewhere": "defined elsewhere",
}
ORDER = {"redirected": 0, "along": 1, "unit": 2, "outside": 3}


@dataclass(frozen=True)
class Place:
    """A place in the source as a link: `href` is "" where the patch does not show it."""

    text: str
    title: str
    href: str


@dataclass(frozen=True)
class Side:
    """One instruction in a row: its text in three pieces, the middle one of which differs."""

    offset: str
    before: str
    differs: str
    after: str


@dataclass(frozen=True)
class RowView:
    """One row of a comparison; `word` tells its mark to those who do not see the colour."""

    css: str
    word: str
    place: Place | None
    old: Side | None
    new: Side | None
    anchor: str = ""


@dataclass(frozen=True)
class Group:
    """Rows that are shown, or folded; `skipped` counts rows that the facts do not have."""

    rows: tuple[RowView, ...]
    folded: bool
    skipped: int = 0


class Panels:
    """Makes the panels of all functions; knows which names of the patch have one."""

    def __init__(self, units: Sequence[Mapping[str, Any]], view: PatchView) -> None:
        self._view = view
        self.anchors: dict[str, str] = {}
        self.roles: dict[str, str] = {}
        number = 0
        for unit in units:
            for function in unit["functions"]:
                number += 1
                name = str(function["name"])
                self.anchors.setdefault(name, f"f{number}")
                role = "redirected" if function["kind"] == "changed" else "along"
                self.roles.setdefault(name, role)

    def place(self, chain: Sequence[Sequence[Any]], side: str, *, differs: bool) -> Place:
        """Where an instruction comes from: the innermost line, with a link into the patch."""
        function, path, line = chain[0]
        title = " ← ".join(f"{name}() {file}:{number}" for name, file, number in chain)
        text = f"{str(path).rsplit('/', 1)[-1]}:{line}"
        if len(chain) > 1:
            text += f" {function}()"
        for frame in chain:
            hit = self._view.find(frame, side, differs=differs)
            if hit is not None:
                return Place(text, title, f"#{hit.anchor}")
        return Place(text, title, "")

    def frames(self, chain: Sequence[Sequence[Any]], side: str) -> list[dict[str, str]]:
        """A chain for the text: from the innermost inlined function outwards."""
        found = []
        for frame in chain:
            hit = self._view.find(frame, side, differs=True)
            function, path, line = frame
            href = f"#{hit.anchor}" if hit else ""
            found.append({"function": function, "place": f"{path}:{line}", "href": href})
        return found

    def groups(self, function: Mapping[str, Any], listing: Mapping[str, Any]) -> list[Group]:
        """The rows of a listing; long runs of equal ones are folded."""
        raw = listing["rows"]
        shown = _shown([row[0] for row in raw])
        groups: list[Group] = []
        rows: list[RowView] = []
        last = None
        for n, row in enumerate(raw):
            if row[0] == ".":
                _close(groups, rows, not shown[n - 1] if n else False)
                groups.append(Group((), folded=False, skipped=int(row[1])))
                last = None
                continue
            if n and rows and shown[n] != shown[n - 1]:
                _close(groups, rows, not shown[n - 1])
                last = None
            chain = function["chains"][_chain_of(row)] if _chain_of(row) >= 0 else None
            place = None
            if chain and chain != last:
                side = "old" if row[0] in "=-" else "new"
                place = self.place(chain, side, differs=row[0] != "=")
            last = chain
            rows.append(_row(row, place))
        if rows:
            _close(groups, rows, not shown[len(raw) - 1])
        return groups

    def drawings(self, function: Mapping[str, Any]) -> tuple[str, str]:
        """The neighbourhood of a function, wide and narrow; both "" if it has none."""
        callers = self._callers(function)
        callees = self._callees(function)
        if not callers and not callees:
            return "", ""
        center = Node(f"{function['name']}", "self " + self.roles[function["name"]])
        return graph.wide(center, callers, callees), graph.narrow(center, callers, callees)

    def _node(self, name: str, otherwise: str, dashed: bool) -> Node:
        role = self.roles.get(name, otherwise)
        static_call = _STATIC_CALL.match(name)
        label = f"{static_call[1]} (static call)" if static_call else name
        return Node(label, role, self.anchors.get(name, ""), dashed)

    def _callers(self, function: Mapping[str, Any]) -> list[Node]:
        nodes = [
            self._node(c["name"], "outside" if c["unit"] else "unit", c["how"] != "call")
            for c in function["callers"]
        ]
        return sorted(nodes, key=_rank)

    def _callees(self, function: Mapping[str, Any]) -> list[Node]:
        nodes = [
            self._node(r["name"], "unit" if r["in_unit"] else "outside", False)
            for r in function["references"]
            if r["is_called"] and not _HIDDEN.match(r["name"])
        ]
        return sorted(nodes, key=_rank)


def _rank(node: Node) -> tuple[int, bool, str]:
    return ORDER.get(node.role, 4), node.dashed, node.label


def _close(groups: list[Group], rows: list[RowView], folded: bool) -> None:
    if rows:
        groups.append(Group(tuple(rows), folded))
        rows.clear()


def _shown(marks: Sequence[str]) -> list[bool]:
    """Which rows are in sight: changes, a few rows around them, and gaps too small to fold."""
    shown = [False] * len(marks)
    changed = [n for n, mark in enumerate(marks) if mark != "="]
    for n in changed:
        for k in range(max(0, n - CONTEXT), min(len(marks), n + CONTEXT + 1)):
            shown[k] = True
    edges = [-1, *(n for n, seen in enumerate(shown) if seen), len(marks)]
    for a, b in pairwise(edges):
        if b - a - 1 < SMALLEST_FOLD:
            shown[a + 1 : b] = [True] * (b - a - 1)
    return shown


def _chain_of(row: Sequence[Any]) -> int:
    """The number of the chain that a row's source column shows."""
    match row[0]:
        case "=":
            return int(row[4])
        case "~":
            return int(row[6])
        case _:
            return int(row[3])


def _row(row: Sequence[Any], place: Place | None) -> RowView:
    match row[0]:
        case "=":
            old = row[5] if len(row) > 5 else row[3]
            return RowView("", "", place, _side(row[1], old), _side(row[2], row[3]))
        case "~":
            left, right = _pieces(row[2], row[5])
            old_side = Side(f"{row[1]:x}", *left)
            return RowView("changed", "changed", place, old_side, Side(f"{row[4]:x}", *right))
        case "-":
            return RowView("removed", "removed", place, _side(row[1], row[2]), None)
        case _:
            return RowView("added", "added", place, None, _side(row[1], row[2]))


def _side(offset: int, text: str) -> Side:
    return Side(f"{offset:x}", text, "", "")


Pieces = tuple[str, str, str]


def _pieces(old: str, new: str) -> tuple[Pieces, Pieces]:
    """Both texts as what is common before, what differs, and what is common behind."""
    a, b = _TOKEN.findall(old), _TOKEN.findall(new)
    head = 0
    while head < min(len(a), len(b)) and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1

    def cut(tokens: list[str]) -> Pieces:
        end = len(tokens) - tail
        return "".join(tokens[:head]), "".join(tokens[head:end]), "".join(tokens[end:])

    return cut(a), cut(b)


def ways(function: Mapping[str, Any]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """What the new code refers to, by the way it is reached: (explanation, references)."""
    for way, text in WAYS.items():
        found = [r for r in function["references"] if r["how"] == way and r["name"] != "__fentry__"]
        if found:
            yield text, sorted(found, key=lambda r: (not r["is_new"], r["kind"], r["name"]))
