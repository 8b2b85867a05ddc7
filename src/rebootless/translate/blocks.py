"""A diff as single runs of changed lines, and diffs made of some of them.

`diff -u` puts changes that are near each other into one hunk, whatever they have to do with each
other. A block is one run of changed lines. Any set of blocks of a file applies to the old file
alone, as each names its lines there; so parts of a diff can be had as diffs of their own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..base.errors import PatchInputError
from ..patch.units import classify
from .model import Block, Change

CONTEXT = 3
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_NO_FILE = "/dev/null"
_UNENDED = "\\"
Blocks = Mapping[str, Sequence[Block]]


def lines_of(text: str) -> list[str]:
    """The lines of a text with their ends; only a line feed ends a line."""
    found = text.split("\n")
    return [line + "\n" for line in found[:-1]] + ([found[-1]] if found[-1] else [])


def read_diff(diff: str, old_of: Mapping[str, str]) -> tuple[Change, ...]:
    """The changes of a unified diff (-p1), by file; `old_of` has the old texts of some.

    The hash of a text that is not given is "". Raises PatchInputError.
    """
    return tuple(_change(*section, old_of) for section in _files(diff))


def _files(diff: str) -> Iterator[tuple[str, str, list[Block]]]:
    """(old name, new name, blocks) of each file of a diff."""
    lines = lines_of(diff)
    at = 0
    names = ("", "")
    blocks: list[Block] = []
    while at < len(lines):
        line = lines[at]
        if line.startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            if names != ("", ""):
                yield *names, blocks
            names = (_name(line), _name(lines[at + 1]))
            blocks = []
            at += 2
        elif (found := _HUNK.match(line)) is not None and names != ("", ""):
            at = _hunk(lines, at, found, blocks)
        else:
            at += 1
    if names != ("", ""):
        yield *names, blocks


def _name(line: str) -> str:
    return line[4:].partition("\t")[0].rstrip("\n")


def _hunk(lines: Sequence[str], at: int, head: re.Match[str], blocks: list[Block]) -> int:
    """Reads the hunk at line `at` into blocks; returns the line after it."""
    left, right = (1 if head[n] is None else int(head[n]) for n in (2, 4))
    number = int(head[1]) + (left == 0)
    old: list[str] = []
    new: list[str] = []
    start = number
    at += 1
    while left or right:
        if at >= len(lines):
            raise PatchInputError("the diff ends within a hunk")
        mark, text = lines[at][:1], lines[at][1:]
        at += 1
        if at < len(lines) and lines[at].startswith(_UNENDED):
            text = text.removesuffix("\n")
            at += 1
        left -= mark != "+"
        right -= mark != "-"
        if mark in "+-":
            if not old and not new:
                start = number
            (new if mark == "+" else old).append(text)
        elif old or new:
            blocks.append(Block(start, tuple(old), tuple(new)))
            old, new = [], []
        number += mark != "+"
    if old or new:
        blocks.append(Block(start, tuple(old), tuple(new)))
    return at


def _change(old_name: str, new_name: str, blocks: list[Block], old_of: Mapping[str, str]) -> Change:
    name = new_name if new_name != _NO_FILE else old_name
    path = name.partition("/")[2]
    kind = "added" if old_name == _NO_FILE else "deleted" if new_name == _NO_FILE else "modified"
    old = "" if kind == "added" else old_of.get(path)
    new = None if old is None or kind == "deleted" else applied(old, blocks)
    return Change(
        path,
        classify(path).kind.value,
        kind,
        digest(old) if old is not None and kind != "added" else "",
        digest(new) if new is not None else "",
        tuple(blocks),
    )


def digest(text: str) -> str:
    """The hash of a file's text."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def applied(old: str, blocks: Iterable[Block]) -> str:
    """The old text with these blocks in it. Raises PatchInputError when one does not fit."""
    lines = lines_of(old)
    result: list[str] = []
    at = 0
    for block in sorted(blocks, key=lambda b: b.start):
        first = block.start - 1
        last = first + len(block.old)
        if first < at or tuple(lines[first:last]) != block.old:
            raise PatchInputError(f"a change at line {block.start} does not fit the old source")
        result += lines[at:first]
        result += block.new
        at = last
    return "".join([*result, *lines[at:]])


def write_diff(parts: Blocks, old_of: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    """A unified diff of some blocks of some files, by path; `kinds` says added or deleted.

    Equal input gives equal text, whatever the order.
    """
    texts = []
    for path in sorted(parts):
        kind = kinds.get(path, "modified")
        before = _NO_FILE if kind == "added" else f"a/{path}"
        after = _NO_FILE if kind == "deleted" else f"b/{path}"
        old = [] if kind == "added" else lines_of(old_of[path])
        unique = sorted(set(parts[path]), key=lambda b: b.start)
        texts.append(f"--- {before}\n+++ {after}\n{''.join(_hunks(old, unique))}")
    return "".join(texts)


def _hunks(old: Sequence[str], blocks: Sequence[Block]) -> Iterator[str]:
    shift = 0
    for group in _groups(blocks):
        last = group[-1]
        first_line = max(group[0].start - 1 - CONTEXT, 0)
        last_line = min(last.start - 1 + len(last.old) + CONTEXT, len(old))
        rows: list[str] = []
        at = first_line
        for block in group:
            begin = block.start - 1
            rows += [" " + line for line in old[at:begin]]
            rows += ["-" + line for line in block.old] + ["+" + line for line in block.new]
            at = begin + len(block.old)
        rows += [" " + line for line in old[at:last_line]]
        count = last_line - first_line
        grown = sum(len(b.new) - len(b.old) for b in group)
        places = (_place(first_line, count), _place(first_line + shift, count + grown))
        shift += grown
        yield f"@@ -{places[0]} +{places[1]} @@{_section(old, first_line)}\n"
        for row in rows:
            yield row if row.endswith("\n") else f"{row}\n\\ No newline at end of file\n"


def _groups(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    """Blocks whose context would touch."""
    group: list[Block] = []
    for block in blocks:
        if group and block.start - (group[-1].start + len(group[-1].old)) > 2 * CONTEXT:
            yield group
            group = []
        group.append(block)
    if group:
        yield group


def _place(first: int, count: int) -> str:
    start = first + 1 if count else first
    return f"{start}" if count == 1 else f"{start},{count}"


def _section(old: Sequence[str], first: int) -> str:
    """The last line before a hunk that begins something, as `diff -p` shows it."""
    for line in reversed(old[max(0, first - 400) : first]):
        if line[:1].isalpha() or line[:1] in "_$":
            return " " + line.rstrip()[:60]
    return ""


def blocks_of(diff: str) -> dict[str, tuple[Block, ...]]:
    """The blocks of a diff, by path. Raises PatchInputError."""
    return {c.path: c.blocks for c in read_diff(diff, {})}


def joined(diffs: Iterable[str], old_of: Mapping[str, str]) -> str:
    """One diff that does what several do, each of which applies to the old source.

    Blocks that several have are taken once. Raises PatchInputError when two of them change the
    same lines otherwise.
    """
    parts: dict[str, set[Block]] = {}
    kinds: dict[str, str] = {}
    for diff in diffs:
        for change in read_diff(diff, {}):
            parts.setdefault(change.path, set()).update(change.blocks)
            kinds[change.path] = change.change
    for path, blocks in parts.items():
        applied(old_of.get(path, ""), blocks)
    return write_diff({p: tuple(b) for p, b in parts.items()}, old_of, kinds)
