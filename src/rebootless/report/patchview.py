"""The source patch as lines that the compiled code can point at.

The compiler numbers the lines of the patched file as the original has them: `#line` follows each
change (patch/lines.py). So the n-th line added after line 100 is 100 + n to the compiler, the next
unchanged one 101 again. Which of the two is meant, the number alone does not tell: the function is
asked that the lines are in, and within one function the added line is taken for code that differs,
the unchanged one for code that does not.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import unidiff.errors
import unidiff.patch

_DEFINITION = re.compile(r"(?:COMPAT_)?SYSCALL_DEFINE\d\((\w+)|[A-Za-z_][\w \t*]*?\b(\w+)[ \t]*\(")
_START = re.compile(r"^(diff --git |diff -|Index: |--- )", re.MULTILINE)
MAX_CAUSES = 12
# What comes of reading a document that is not of the form that this version writes.
MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError)


@dataclass(frozen=True)
class DiffLine:
    """One line of a diff. `mark` is "+", "-" or " "; numbers are 1-based, None where absent.

    `function` is the one that the line is in, "" if the diff does not show it.
    """

    anchor: str
    path: str
    mark: str
    old: int | None
    new: int | None
    text: str
    function: str = ""

    def may_be_in(self, function: str) -> bool:
        """Whether a frame of `function` can be this line; a system call's has a prefix."""
        return (
            not self.function or function == self.function or function.endswith("_" + self.function)
        )


@dataclass(frozen=True)
class Hunk:
    """One hunk: its @@ line and its lines."""

    header: str
    lines: tuple[DiffLine, ...]


@dataclass(frozen=True)
class FileDiff:
    """One file of a patch."""

    path: str
    added: int
    removed: int
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True)
class PatchView:
    """A patch: what its header says, and its files; `raw` is the text when it is no diff."""

    message: str
    files: tuple[FileDiff, ...]
    raw: str = ""
    _old: Mapping[tuple[str, int], DiffLine] = field(default_factory=dict, repr=False)
    _added: Mapping[tuple[str, int], DiffLine] = field(default_factory=dict, repr=False)

    def find(self, frame: Sequence[Any], side: str, *, differs: bool) -> DiffLine | None:
        """The line of the diff that a frame [function, path, line] of a side (old, new) is.

        None for what the diff does not show.
        """
        function, path, line = frame
        added = self._added.get((path, line)) if side == "new" and differs else None
        if added is not None and added.may_be_in(function):
            return added
        found = self._old.get((path, line))
        return None if found is not None and side == "new" and found.mark == "-" else found


def read(text: str) -> PatchView:
    """Reads the patch of a bundle; text that is no diff comes back as it is."""
    try:
        parsed = unidiff.patch.PatchSet(io.StringIO(text, newline="\n"))
    except unidiff.errors.UnidiffParseError:
        return PatchView("", (), text)
    files = tuple(_file(entry, number) for number, entry in enumerate(parsed, 1))
    if not any(f.hunks for f in files):
        return PatchView("", (), text)
    start = _START.search(text)
    message = text[: start.start()] if start else ""
    old: dict[tuple[str, int], DiffLine] = {}
    added: dict[tuple[str, int], DiffLine] = {}
    for file in files:
        for hunk in file.hunks:
            _number(hunk, old, added)
    return PatchView(_body(message), files, "", old, added)


def _file(entry: unidiff.patch.PatchedFile, number: int) -> FileDiff:
    name = entry.target_file if entry.target_file != "/dev/null" else entry.source_file
    path = name.partition("/")[2] or name
    hunks = []
    count = 0
    for hunk in entry:
        lines = []
        function = _defined(str(hunk.section_header))
        for line in hunk:
            if line.line_type not in (" ", "+", "-"):
                continue
            count += 1
            text = str(line.value).rstrip("\n")
            old, new = line.source_line_no, line.target_line_no
            anchor = f"p{number}-{count}"
            function = _defined(text) or function
            lines.append(DiffLine(anchor, path, line.line_type, old, new, text, function))
            if text.startswith("}"):
                function = ""
        header = (
            f"@@ -{hunk.source_start},{hunk.source_length} "
            f"+{hunk.target_start},{hunk.target_length} @@ {hunk.section_header}"
        )
        hunks.append(Hunk(header.rstrip(), tuple(lines)))
    return FileDiff(path, entry.added, entry.removed, tuple(hunks))


def _defined(line: str) -> str:
    """The function whose definition begins in a line of C; "" if none does."""
    match = _DEFINITION.match(line)
    return (match[1] or match[2]) if match and not line.rstrip().endswith(";") else ""


def _number(
    hunk: Hunk,
    old: dict[tuple[str, int], DiffLine],
    added: dict[tuple[str, int], DiffLine],
) -> None:
    """Files each line under the number that the compiler knows it by."""
    before = next((n.old for n in hunk.lines if n.old is not None), 1) - 1
    number = before  # of the last line of the patched file, to the compiler
    for line in hunk.lines:
        if line.mark == "+":
            number += 1
            added.setdefault((line.path, number), line)
        elif line.old is not None:
            old.setdefault((line.path, line.old), line)
            if line.mark == " ":
                number = line.old


def _body(message: str) -> str:
    """A commit message without the headers of a mail and what follows `---`."""
    head, blank, body = message.partition("\n\n")
    if not blank or not re.match(r"^(From |From:|Subject:|Description:)", head, re.MULTILINE):
        body = message
    return re.split(r"^---$", body, maxsplit=1, flags=re.MULTILINE)[0].strip()


def causes(function: Mapping[str, Any], view: PatchView) -> list[dict[str, Any]]:
    """The lines of the patch that show in a function's changed instructions, in code order.

    Each once: anchor, file, line (of the new file, for a removed line of the old), mark, text,
    the offset of the instruction, and the chain of inlining from that line outwards.
    """
    found: dict[str, dict[str, Any]] = {}
    for side, offset, chain in _changed(function):
        for depth, frame in enumerate(chain):
            hit = view.find(frame, side, differs=True)
            if hit is None or hit.mark == " " or hit.anchor in found:
                continue
            found[hit.anchor] = {
                "anchor": hit.anchor,
                "file": hit.path,
                "line": hit.new or hit.old,
                "mark": hit.mark,
                "text": hit.text.strip(),
                "offset": offset,
                "chain": [list(outer) for outer in chain[depth:]],
            }
            if len(found) >= MAX_CAUSES:
                return list(found.values())
    return list(found.values())


def begins(function: Mapping[str, Any], causes: Sequence[Mapping[str, Any]]) -> str:
    """The shortest answer to where a function begins to differ: the patch's line, or the code's."""
    if causes:
        first = causes[0]
        through = ", ".join(f"{frame[0]}()" for frame in first["chain"][:-1])
        place = f"{str(first['file']).rsplit('/', 1)[-1]}:{first['line']}"
        return f"{place} through {through}" if through else place
    first = function["first"]
    if first is None:
        return "" if function["kind"] == "new" else str(function["reason"])
    if first["chain"]:
        _, path, line = first["chain"][0]
        return f"{str(path).rsplit('/', 1)[-1]}:{line}"
    offset = first["offset_old"] if first["offset_new"] is None else first["offset_new"]
    return f"+{offset:#x}"


def _changed(function: Mapping[str, Any]) -> Iterator[tuple[str, int, Sequence[Sequence[Any]]]]:
    """(side, offset, chain) of each instruction that differs, the new ones first."""
    chains = function["chains"]
    for side in ("new", "old"):
        for listing in function["listings"]:
            for row in listing["rows"]:
                cell = _cell(row, side)
                if cell and cell[2] >= 0:
                    yield side, cell[0], chains[cell[2]]


def _cell(row: Sequence[Any], side: str) -> Sequence[Any] | None:
    """Offset, text and chain of one side of a row that differs; None where there is none."""
    match row[0], side:
        case "~", "old":
            return row[1:4]
        case "~", "new":
            return row[4:7]
        case ("-", "old") | ("+", "new"):
            return row[1:4]
        case _:
            return None
