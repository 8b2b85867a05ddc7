"""An update's difference as single edits of files, so that a part of a header can be taken."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

from rebootless.patch import source
from rebootless.patch.normal import sections

HUNK = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
WORD = re.compile(r"[A-Za-z_]\w*")
LINE = re.compile(r"[^\n]*\n|[^\n]+$")  # only LF ends a line
HEADERS = (".h", ".inc", ".def")


class Changes:
    """The difference of two source trees; `tree` is the older one."""

    def __init__(self, diff: bytes, tree: Path) -> None:
        self._tree = tree
        self._text: dict[str, bytes] = {}
        self._new: set[str] = set()
        for section in sections(diff):
            if len(section.names) != 2:
                continue
            old, new = (source.stripped(n.decode(errors="surrogateescape")) for n in section.names)
            self._text[new or old] = section.text
            if not old or not new:
                self._new.add(new or old)
        self.paths = tuple(sorted(self._text))

    def exists_before(self, path: str) -> bool:
        """Whether the update changes a file that was there, and stays."""
        return path not in self._new

    def diff(self, path: str, only: Iterable[int] | None = None) -> bytes:
        """The diff of one file, or of some of its edits."""
        if only is None or path in self._new:
            return self._text[path]
        before, after, blocks = self._edits(path)
        chosen, made, at = set(only), [], 0
        for number, (i, i_end, j, j_end) in enumerate(blocks):
            made += before[at:i]
            made += after[j:j_end] if number in chosen else before[i:i_end]
            at = i_end
        made += before[at:]
        lines = difflib.unified_diff(before, made, f"a/{path}", f"b/{path}")
        return "".join(lines).encode(errors="surrogateescape")

    def headers_with(
        self, name: str, read: Set[str], known: Mapping[str, set[int]]
    ) -> dict[str, set[int]]:
        """The edits of headers that bring a name, among those `read` and those that are new.

        What is `known` has turned out not to be enough.
        """
        every = {
            path: edits
            for path in self.paths
            if path.endswith(HEADERS)
            and (path in read or path in self._new)
            and (edits := self._edits_with(path, name) - known.get(path, set()))
        }
        defining = {path: self._defined(path, edits, name) for path, edits in every.items()}
        return {path: edits for path, edits in defining.items() if edits} or every

    def _defined(self, path: str, edits: set[int], name: str) -> set[int]:
        """Those of the edits that look like a definition of a name, not only a use."""
        if path in self._new:
            return edits
        pattern = re.compile(
            rf"#\s*define\s+{name}\b|\b(?:struct|union|enum)\s+{name}\s*\{{"
            rf"|(?<![>.\w]){name}\s*(?:\[[^]]*\]\s*)*(?::\s*\d+\s*)?[;,=]"
            rf"|^[a-z][^;={{]*\b{name}\(|\(\*\s*{name}\)",
            re.MULTILINE,
        )
        _, after, blocks = self._edits(path)
        text = {n: "".join(after[_begin(after, blocks[n][2]) : blocks[n][3]]) for n in edits}
        return {n for n in edits if pattern.search(text[n])}

    def defining(self, name: str) -> list[str]:
        """The touched units in which an added line begins the definition of a function."""
        pattern = re.compile(rb"^\+(?=[A-Za-z_])[^;=]*\b%s\(" % name.encode(), re.MULTILINE)
        return [
            path
            for path, text in self._text.items()
            if path.endswith(".c") and _is_ours(path) and pattern.search(text)
        ]

    def calling(self, name: str) -> list[str]:
        """The touched units in which an added line calls a function."""
        pattern = re.compile(rb"^\+.*\b%s\(" % name.encode(), re.MULTILINE)
        return [
            path
            for path, text in self._text.items()
            if path.endswith(".c") and _is_ours(path) and pattern.search(text)
        ]

    def _edits_with(self, path: str, name: str) -> set[int]:
        if path in self._new:
            return {0} if path.endswith(f"/{name}.h") else set()
        if name.encode() not in self._text[path]:
            return set()
        _, after, blocks = self._edits(path)
        return {
            number
            for number, (_, _, j, j_end) in enumerate(blocks)
            if name in WORD.findall("".join(after[_begin(after, j) : j_end]))
        }

    @functools.cache  # noqa: B019 (lives as long as the run)
    def _edits(self, path: str) -> tuple[list[str], list[str], list[tuple[int, int, int, int]]]:
        """The lines before and after, and where they differ."""
        before = (self._tree / path).read_bytes().decode(errors="surrogateescape")
        old = LINE.findall(before)
        new: list[str] = []
        blocks: list[tuple[int, int, int, int]] = []
        at = 0
        for kind, line in _body(self._text[path].decode(errors="surrogateescape")):
            if kind == "@":
                start = int(line)
                new += old[at:start]
                at = start
            elif kind == " ":
                new.append(line)
                at += 1
            else:
                i, j = at, len(new)
                if blocks and blocks[-1][1] == i and blocks[-1][3] == j:
                    i, j = blocks[-1][0], blocks[-1][2]
                    blocks.pop()
                if kind == "-":
                    at += 1
                else:
                    new.append(line)
                blocks.append((i, at, j, len(new)))
        new += old[at:]
        return old, new, blocks


def _begin(lines: Sequence[str], at: int) -> int:
    """The first line of the declaration that a line is in."""
    for first in range(at, max(at - 5, 0), -1):
        if not lines[first - 1].strip() or lines[first - 1].rstrip().endswith((";", "{", "}", "/")):
            return first
    return at


def _body(text: str) -> Iterable[tuple[str, str]]:
    """The lines of a diff's hunks: ("@", first line), and (" +-", line)."""
    left = right = 0
    for line in LINE.findall(text):
        if left <= 0 and right <= 0:
            if match := HUNK.match(line.encode(errors="surrogateescape")):
                left, right = (int(n) if n else 1 for n in (match[2], match[4]))
                first = int(match[1])
                yield "@", str(first - 1 if left else first)
            continue
        kind = line[:1]
        if kind == "\\":
            continue
        left -= kind in " -\n"
        right -= kind in " +\n"
        yield (" " if kind == "\n" else kind), line[1:] if kind != "\n" else line


def _is_ours(path: str) -> bool:
    parts = path.split("/")
    return parts[0] not in ("tools", "samples", "scripts") and not (
        parts[0] == "arch" and parts[1] != "x86"
    )
