"""The call neighbourhood of a function as SVG: callers, the function, what it calls.

Two drawings of the same: in three columns for a wide page, one below the other for a narrow one.
Colours come from the page's style sheet, so that both colour schemes work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

MAX_NODES = 9
_HEIGHT, _GAP = 28, 8  # of a box, between boxes
_CHARACTER = 7.3  # the width of one, at the style sheet's 12 px
_WIDE, _BOX, _MIDDLE = 1080, 320, 320
_NARROW, _INDENT = 340, 26


@dataclass(frozen=True)
class Node:
    """A box: `role` is self, redirected, along (carried or new), unit or outside.

    `link` is an anchor of the page, or ""; `dashed` for a reference that is no call.
    """

    label: str
    role: str
    link: str = ""
    dashed: bool = False


def wide(center: Node, callers: Sequence[Node], callees: Sequence[Node]) -> str:
    """The drawing in three columns."""
    left, right = _capped(callers), _capped(callees)
    rows = max(len(left), len(right), 1)
    height = rows * (_HEIGHT + _GAP) + _GAP
    middle = height / 2
    x_center = (_WIDE - _MIDDLE) / 2
    parts = []
    for nodes, x, is_left in ((left, 0.0, True), (right, float(_WIDE - _BOX), False)):
        top = middle - (len(nodes) * (_HEIGHT + _GAP) - _GAP) / 2
        for n, node in enumerate(nodes):
            y = top + n * (_HEIGHT + _GAP)
            here = y + _HEIGHT / 2
            start, end = (_BOX, x_center) if is_left else (x_center + _MIDDLE, x)
            from_y, to_y = (here, middle) if is_left else (middle, here)
            parts.append(_curve(start, from_y, end, to_y, node))
            parts.append(_box(node, x, y, _BOX))
    parts.append(_box(center, x_center, middle - _HEIGHT / 2, _MIDDLE))
    return _svg("graph wide", _WIDE, height, parts)


def narrow(center: Node, callers: Sequence[Node], callees: Sequence[Node]) -> str:
    """The drawing one below the other."""
    above, below = _capped(callers), _capped(callees)
    parts = []
    y = float(_GAP)
    self_y = y + len(above) * (_HEIGHT + _GAP)
    spine = _INDENT / 2
    for node in above:
        parts.append(_elbow(spine, y + _HEIGHT / 2, self_y, node, into=True))
        parts.append(_box(node, _INDENT, y, _NARROW - _INDENT))
        y += _HEIGHT + _GAP
    parts.append(_box(center, 0, self_y, _NARROW))
    y = self_y + _HEIGHT + _GAP
    for node in below:
        parts.append(_elbow(spine, y + _HEIGHT / 2, self_y + _HEIGHT, node, into=False))
        parts.append(_box(node, _INDENT, y, _NARROW - _INDENT))
        y += _HEIGHT + _GAP
    return _svg("graph narrow", _NARROW, y, parts)


def _capped(nodes: Sequence[Node]) -> list[Node]:
    if len(nodes) <= MAX_NODES:
        return list(nodes)
    rest = len(nodes) - MAX_NODES + 1
    return [*nodes[: MAX_NODES - 1], Node(f"and {rest} more", "more")]


def _svg(name: str, width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg class="{name}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" aria-hidden="true" focusable="false">{"".join(parts)}</svg>'
    )


def _box(node: Node, x: float, y: float, width: float) -> str:
    text = _fitted(node.label, int((width - 16) / _CHARACTER))
    content = (
        f"<title>{escape(node.label)}</title>"
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{_HEIGHT}" rx="6"/>'
        f'<text x="{x + width / 2:g}" y="{y + _HEIGHT / 2 + 4:g}" text-anchor="middle">'
        f"{escape(text)}</text>"
    )
    box = f'<g class="node {node.role}">{content}</g>'
    link = f'<a href={quoteattr("#" + node.link)} tabindex="-1">' if node.link else ""
    return f"{link}{box}</a>" if link else box


def _fitted(label: str, room: int) -> str:
    """A label that fits: of a long name the middle is left out, as both ends tell names apart."""
    if len(label) <= room:
        return label
    tail = room // 2 - 1
    return f"{label[: room - tail - 1]}…{label[-tail:]}"


def _curve(x1: float, y1: float, x2: float, y2: float, node: Node) -> str:
    half = (x1 + x2) / 2
    path = f"M{x1:g} {y1:g}C{half:g} {y1:g} {half:g} {y2:g} {x2 - 5:g} {y2:g}"
    return _edge(path, f"M{x2 - 7:g} {y2 - 4:g}L{x2:g} {y2:g}L{x2 - 7:g} {y2 + 4:g}Z", node)


def _elbow(x: float, y: float, end: float, node: Node, *, into: bool) -> str:
    path = f"M{_INDENT} {y:g}H{x:g}V{end:g}" if into else f"M{x:g} {end:g}V{y:g}H{_INDENT - 5}"
    tip = (
        f"M{x - 4:g} {end - 7:g}L{x:g} {end:g}L{x + 4:g} {end - 7:g}Z"
        if into
        else f"M{_INDENT - 7} {y - 4:g}L{_INDENT} {y:g}L{_INDENT - 7} {y + 4:g}Z"
    )
    return _edge(path, tip, node)


def _edge(path: str, tip: str, node: Node) -> str:
    dashed = " dashed" if node.dashed else ""
    return f'<path class="edge{dashed}" d="{path}"/><path class="tip" d="{tip}"/>'
