"""Unified diffs as values: which files they touch, in which hunks, and what their header says.

Both `git format-patch` mails and plain `diff -u` output are read; paths lose one leading component
(`a/fs/ext4/mballoc.c`, `linux-6.1/fs/ext4/mballoc.c`), as kernel patches are made. Other forms are
brought into this one first (`normal.py`).
"""

from __future__ import annotations

import enum
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import unidiff.errors
import unidiff.patch

from ..base.errors import PatchInputError
from ..base.fs import read_bytes
from .normal import normal

CVE = re.compile(r"\bCVE-\d{4}-\d{4,}\b")
SUBJECT = re.compile(r"^Subject:[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE)
DESCRIPTION = re.compile(r"^Description:[ \t]*(.*)", re.MULTILINE)  # of Debian's DEP-3
SUBJECT_TAGS = re.compile(r"^(\s*\[[^\]]*\])+\s*")
ACCEPT = re.compile(
    r"^[ \t/*]*(Rebootless-Accept:(.*?))[ \t]*(?:\*/)?\s*$", re.MULTILINE | re.IGNORECASE
)
CODE = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
DIFF_START = re.compile(r"^(diff --git |diff -|Index: |--- )", re.MULTILINE)
SPECIAL_MODE = re.compile(r"^(?:new|deleted)?(?: file)? ?mode 1[26]0000$", re.MULTILINE)
HOW = "give a unified diff, as `git diff`, `git format-patch` or `diff -urN a b` write it"


class Change(enum.StrEnum):
    """What a patch does to a file."""

    MODIFIED = "modified"
    ADDED = "added"
    DELETED = "deleted"


@dataclass(frozen=True)
class Hunk:
    """One hunk: its @@ line, the first line it replaces (1-based), and the lines it expects."""

    header: str
    start: int
    expected: tuple[str, ...]


@dataclass(frozen=True)
class PatchedFile:
    """A file that a patch touches; `added` and `removed` count lines."""

    path: str
    change: Change
    added: int
    removed: int
    hunks: tuple[Hunk, ...]


@dataclass(frozen=True)
class Acceptance:
    """A finding that the author has judged: its code, for these symbols (none: whatever symbol)."""

    code: str
    symbols: tuple[str, ...] = ()


@dataclass(frozen=True)
class PatchPart:
    """One patch file; `text` is the patch in the form that `patch -p1` takes."""

    name: str
    text: bytes
    files: tuple[PatchedFile, ...]
    title: str
    cves: tuple[str, ...]
    accepts: tuple[Acceptance, ...] = ()


@dataclass(frozen=True)
class SourcePatch:
    """One or several patches, applied in order.

    `text` is all of them joined; `files` has every touched path once, in the order of the patches
    (hunks of several patches to one file are joined). `title` is the first patch's subject, or "".
    """

    name: str
    text: bytes
    files: tuple[PatchedFile, ...]
    parts: tuple[PatchPart, ...]
    title: str
    cves: tuple[str, ...]
    accepts: tuple[Acceptance, ...] = ()


def load(paths: Sequence[Path]) -> SourcePatch:
    """Reads patch files, in the order in which they are to be applied.

    Raises PatchInputError (not a diff, binary, empty, unsafe path), NotFoundError.
    """
    if not paths:
        raise PatchInputError("no patch was given", hint=HOW)
    return combine([parse(read_bytes(path), path.name) for path in paths])


def combine(parts: Sequence[PatchPart]) -> SourcePatch:
    """Joins patches into one that applies them in order."""
    merged: dict[str, PatchedFile] = {}
    for part in parts:
        for file in part.files:
            earlier = merged.get(file.path)
            merged[file.path] = file if earlier is None else _joined(earlier, file)
    return SourcePatch(
        name=parts[0].name.rsplit("/", 1)[-1],
        text=b"".join(_ended(part.text) for part in parts),
        files=tuple(merged.values()),
        parts=tuple(parts),
        title=next((part.title for part in parts if part.title), ""),
        cves=tuple(dict.fromkeys(cve for part in parts for cve in part.cves)),
        accepts=tuple(dict.fromkeys(a for part in parts for a in part.accepts)),
    )


def parse(text: bytes, name: str) -> PatchPart:
    """Reads one patch from memory; `name` is for messages. Raises PatchInputError."""
    if not text.strip():
        raise PatchInputError(f"{name} is empty", hint=HOW)
    if b"\0" in text:
        raise PatchInputError(f"{name} is a binary file, not a patch", hint=HOW)
    text = normal(text)
    decoded = text.decode("utf-8", errors="surrogateescape")
    if re.search(r"^GIT binary patch$|^Binary files .* differ$", decoded, re.MULTILINE):
        raise PatchInputError(
            f"{name} changes a binary file", hint="leave binary files out of the patch"
        )
    if (special := SPECIAL_MODE.search(decoded)) is not None:
        raise PatchInputError(
            f"{name} makes a symbolic link or a submodule ({special.group().strip()})",
            hint="leave it out of the patch: a live patch has no use for it",
        )
    try:
        # Only \n ends a line: a form feed or \r inside a source line must not split it.
        parsed = unidiff.patch.PatchSet(io.StringIO(decoded, newline="\n"))
    except unidiff.errors.UnidiffParseError as exc:
        raise PatchInputError(f"{name} is not a well-formed diff: {exc}", hint=HOW) from exc
    files = tuple(_file(entry, name) for entry in parsed)
    if not any(file.hunks for file in files):
        raise PatchInputError(f"{name} has no changes in it: it is not a diff", hint=HOW)
    start = DIFF_START.search(decoded)
    header = decoded[: start.start()] if start else ""
    title, cves = _header(header)
    return PatchPart(name, text, files, title, cves, acceptances(header, name))


def _header(header: str) -> tuple[str, tuple[str, ...]]:
    """The subject and the CVE ids from the text before the first diff."""
    subject = SUBJECT.search(header) or DESCRIPTION.search(header)
    title = SUBJECT_TAGS.sub("", " ".join(subject.group(1).split())) if subject else ""
    return title, tuple(dict.fromkeys(CVE.findall(header)))


def acceptances(header: str, name: str) -> tuple[Acceptance, ...]:
    """The findings that a text accepts: `Rebootless-Accept: CODE [SYMBOL[, SYMBOL...]]`.

    The lines may be those of a C comment. Raises PatchInputError for one without a code, or with
    characters that no name has and a terminal may obey.
    """
    found = []
    for match in ACCEPT.finditer(header):
        code, *symbols = match[2].replace(",", " ").split() or [""]
        if CODE.fullmatch(code) is None or not all(s.isprintable() for s in symbols):
            told = ascii(match[1].strip())
            raise PatchInputError(
                f"{name}: {told} names no code of a finding",
                hint="write `Rebootless-Accept: CODE` or `Rebootless-Accept: CODE SYMBOL, SYMBOL`",
            )
        found.append(Acceptance(code, tuple(symbols)))
    return tuple(found)


def _file(entry: unidiff.patch.PatchedFile, name: str) -> PatchedFile:
    old, new = stripped(entry.source_file), stripped(entry.target_file)
    if old and new and old != new and not _is_backup_name(old, new):
        raise PatchInputError(
            f"{name} renames {old} to {new}",
            hint="write the change without the rename: a live patch has no use for it",
        )
    path = new or old
    if not path:
        raise PatchInputError(f"{name} names no file in a `---`/`+++` pair", hint=HOW)
    if path.startswith("/") or ".." in path.split("/"):
        raise PatchInputError(
            f"{name} names a file outside of the source: {path}",
            hint="paths in a patch are relative to the top of the source, after one component",
        )
    change = Change.ADDED if not old else Change.DELETED if not new else Change.MODIFIED
    return PatchedFile(path, change, entry.added, entry.removed, tuple(map(_hunk, entry)))


def _hunk(hunk: unidiff.patch.Hunk) -> Hunk:
    header = (
        f"@@ -{hunk.source_start},{hunk.source_length} +{hunk.target_start},{hunk.target_length} @@"
    )
    if hunk.section_header:
        header += f" {hunk.section_header}"
    expected = tuple(
        str(line.value).rstrip("\n") for line in hunk if line.is_context or line.is_removed
    )
    return Hunk(header, hunk.source_start, expected)


def stripped(name: str) -> str:
    """A path of the diff without its first component; "" for /dev/null."""
    if name == "/dev/null":
        return ""
    head, slash, rest = name.partition("/")
    return rest if slash and head else name


def _is_backup_name(old: str, new: str) -> bool:
    """`diff -u file.c.orig file.c`: the same file under the name of a kept copy."""
    return old in (new + ".orig", new + ".old", new + "~")


def _joined(first: PatchedFile, second: PatchedFile) -> PatchedFile:
    change = first.change
    if second.change is Change.DELETED or first.change is Change.DELETED:
        change = second.change if first.change is not Change.DELETED else Change.MODIFIED
    return PatchedFile(
        first.path,
        change,
        first.added + second.added,
        first.removed + second.removed,
        first.hunks + second.hunks,
    )


def _ended(text: bytes) -> bytes:
    return text if text.endswith(b"\n") else text + b"\n"
