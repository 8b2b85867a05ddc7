"""A patch whose new struct members stand where the running kernel's layout has bytes to spare.

A struct that gains a member in its middle moves all that follow, which no running kernel can take;
the same member in bytes that were padding moves nothing. So where types say that there is room, the
patch is made anew: each such struct is the original's, with the new declarations put after the
members that padding follows. Members that the patch removes stay, for the code that is not patched.
Whether it came out right is not judged here: the result is built and checked like any other patch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from ..base.events import Monitor
from ..base.fs import read_text
from ..compile.tree import Tree
from ..compile.unit import UnitPair, apply_to
from ..patch.apply import AppliedFile
from ..patch.source import SourcePatch, combine, parse
from ..patch.structs import Placement, with_members
from ..safety.fitting import placements
from .layouts import types_of

CLEARED = "CONFIG_INIT_ON_ALLOC_DEFAULT_ON=y"


def fitted(
    patch: SourcePatch, tree: Tree, pairs: Sequence[UnitPair], monitor: Monitor
) -> SourcePatch | None:
    """`patch` with its new members in free bytes; None where there are none, or no room.

    Also None for a kernel that does not clear what it allocates: what existing objects have in free
    bytes is anybody's guess then, and there is no author to judge it.

    `pairs` are the objects that `patch` was compiled to, with their types beside them (a build
    that was refused for a layout has left both). Raises ElfError, PatchInputError.
    """
    if CLEARED not in read_text(tree.orig / "include/config/auto.conf").splitlines():
        return None
    found: dict[tuple[str, str], Placement] = {}
    for pair in pairs:
        for placement in placements(*types_of(pair)):
            found.setdefault((placement.struct, placement.member), placement)
    if not found:
        return None
    made, moved = [], False
    for file in apply_to(tree, patch, monitor).files:
        text = _with_members(file, tuple(found.values()))
        moved |= text != file.plain
        made.append(_diff(file, text))
    if not moved:
        return None
    header = patch.text[: patch.text.index(b"--- ")] if b"--- " in patch.text else b""
    return combine([parse(header + b"".join(made), patch.name)])


def _with_members(file: AppliedFile, wanted: Sequence[Placement]) -> bytes | None:
    """The patched file with the members where they are wanted; as it is where that fails."""
    if file.original is None or file.plain is None:
        return file.plain
    before, after = (_text(data) for data in (file.original, file.plain))
    for struct in dict.fromkeys(p.struct for p in wanted):
        made = with_members(before, after, [p for p in wanted if p.struct == struct])
        after = after if made is None else made
    return after.encode(errors="surrogateescape")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _diff(file: AppliedFile, made: bytes | None) -> bytes:
    old, new = (_lines(data) for data in (file.original, made))
    before = "/dev/null" if file.original is None else f"a/{file.path}"
    after = "/dev/null" if made is None else f"b/{file.path}"
    lines = difflib.unified_diff(old, new, before, after)
    return "".join(_ended(lines)).encode(errors="surrogateescape")


def _lines(data: bytes | None) -> list[str]:
    """Lines with their ends; only LF ends one."""
    if not data:
        return []
    return [f"{line}\n" for line in _text(data).removesuffix("\n").split("\n")]


def _ended(lines: Iterable[str]) -> Iterable[str]:
    return (line if line.endswith("\n") else f"{line}\n" for line in lines)
