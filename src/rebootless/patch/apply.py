"""Applies a patch to copies of the touched files; the source itself is never written to.

GNU patch does the work, first strictly, then with its usual tolerance (fuzz 2) and a warning.
When a hunk fails, the error shows what the hunk expects and what the kernel's source has there.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..base import proc
from ..base.errors import PatchInputError, RebootlessError
from ..base.events import Monitor, Warned
from ..base.fs import os_failure, read_bytes
from .lines import keep_numbers
from .normal import sections
from .source import Change, Hunk, PatchedFile, PatchPart, SourcePatch, stripped

FAILED_HUNK = re.compile(r"^Hunk #(\d+) (?:FAILED|ignored) at (\d+)", re.MULTILINE)
PATCHING = re.compile(r"^patching file '?(.*?)'?$", re.MULTILINE)
FUZZ = re.compile(r"^Hunk #(\d+) succeeded at (\d+) with fuzz", re.MULTILINE)
MALFORMED = re.compile(r"malformed patch at line (\d+)|Only garbage was found")
INSTALL = "apt install patch"
NUMBERED = (".c", ".h", ".inc")
SHOWN_LINES = 6


@dataclass(frozen=True)
class AppliedFile:
    """A touched file before and after; None means that it does not exist.

    `patched` has `#line` directives that keep the numbers of unchanged lines; `plain` is the
    same without them, as the patch's author would see it.
    """

    path: str
    change: Change
    original: bytes | None
    patched: bytes | None
    plain: bytes | None


@dataclass(frozen=True)
class Applied:
    """The outcome of applying a patch: every touched file, in the order of the patch."""

    files: tuple[AppliedFile, ...]
    fuzzy: bool


def apply(
    patch: SourcePatch, pristine: Path, monitor: Monitor, *, skip: frozenset[str] = frozenset()
) -> Applied:
    """Applies `patch` to the touched files of the source tree `pristine`, in memory.

    Paths in `skip` (documentation, other architectures) may be missing from the tree and are left
    out. Raises PatchInputError that names file, hunk and the lines in question.
    """
    proc.which("patch", hint=INSTALL)
    fuzzy = False
    with tempfile.TemporaryDirectory(prefix="rebootless-patch-") as name:
        scratch = Path(name)
        before = {f.path: _original(pristine, f, skip) for f in patch.files}
        current = dict(before)
        for part in patch.parts:
            fuzzy |= _apply_part(part, scratch, current, skip, monitor)
    files = tuple(
        _applied(file, before[file.path], current[file.path])
        for file in patch.files
        if file.path not in skip
    )
    return Applied(files, fuzzy)


def _original(pristine: Path, file: PatchedFile, skip: frozenset[str]) -> bytes | None:
    path = pristine / file.path
    if path.is_file():
        return read_bytes(path)
    if file.change is Change.ADDED or file.path in skip:
        return None
    raise PatchInputError(
        f"the patch changes {file.path}, which this kernel's source does not have",
        hint="is the patch for another kernel version, or relative to a folder of the source?",
    )


def _applied(file: PatchedFile, original: bytes | None, plain: bytes | None) -> AppliedFile:
    patched = plain
    if original is not None and plain is not None and file.path.endswith(NUMBERED):
        patched = keep_numbers(original, plain)
    change = file.change
    if original is not None and plain is not None:
        change = Change.MODIFIED
    return AppliedFile(file.path, change, original, patched, plain)


def _apply_part(
    part: PatchPart,
    scratch: Path,
    current: dict[str, bytes | None],
    skip: frozenset[str],
    monitor: Monitor,
) -> bool:
    """Applies one patch file to `current`, updating it; returns whether fuzz was needed."""
    strict = _run_patch(part, scratch, current, skip, fuzz=0)
    if strict.returncode == 0:
        _collect(part, scratch, current, skip)
        return False
    loose = _run_patch(part, scratch, current, skip, fuzz=2)
    if loose.returncode == 0:
        _collect(part, scratch, current, skip)
        for path, number, line in _fuzzy_hunks(loose.stdout):
            monitor.emit(
                Warned(
                    f"{part.name}: hunk {number} of {path} fits only roughly, at line {line}: "
                    "its surroundings differ in this kernel; check the result"
                )
            )
        return True
    raise _explain(part, scratch, current, skip, strict)


def _run_patch(
    part: PatchPart,
    scratch: Path,
    current: Mapping[str, bytes | None],
    skip: frozenset[str],
    *,
    fuzz: int,
    reverse: bool = False,
) -> proc.Result:
    """Runs GNU patch over fresh copies of the part's files in `scratch`."""
    folder = scratch / "tree"
    text = scratch / "patch"
    try:
        for file in part.files:
            path = folder / file.path
            content = current[file.path]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if content is not None:
                path.write_bytes(content)
        text.write_bytes(_without(part, skip))
    except OSError as exc:
        raise os_failure("write", folder, exc) from exc
    # Only unified diffs: patch would take other lines for an ed script, and run ed.
    argv = ["patch", "-p1", "--unified", f"--fuzz={fuzz}", "--no-backup-if-mismatch"]
    argv += ["--reject-file=-"]
    argv += ["--batch", "--reverse"] if reverse else ["--forward"]
    return proc.run([*argv, "--input", text], cwd=folder, check=False)


def _without(part: PatchPart, skip: frozenset[str]) -> bytes:
    """The part's text without the files that are skipped."""
    if not any(file.path in skip for file in part.files):
        return part.text
    return b"".join(
        section.text
        for section in sections(part.text)
        if not any(stripped(n.decode(errors="surrogateescape")) in skip for n in section.names)
    )


def _collect(
    part: PatchPart, scratch: Path, current: dict[str, bytes | None], skip: frozenset[str]
) -> None:
    for file in part.files:
        if file.path in skip:
            continue
        path = scratch / "tree" / file.path
        content = read_bytes(path) if path.is_file() else None
        # GNU patch may leave an emptied file behind instead of deleting it.
        current[file.path] = None if file.change is Change.DELETED and not content else content


def _fuzzy_hunks(output: str) -> list[tuple[str, int, int]]:
    found, path = [], ""
    for line in output.splitlines():
        if match := PATCHING.match(line):
            path = match.group(1)
        elif match := FUZZ.match(line):
            found.append((path, int(match.group(1)), int(match.group(2))))
    return found


def _explain(
    part: PatchPart,
    scratch: Path,
    current: dict[str, bytes | None],
    skip: frozenset[str],
    result: proc.Result,
) -> RebootlessError:
    """Why the part does not apply."""
    output = result.stdout + result.stderr
    if (full := proc.out_of_space(output, scratch)) is not None:
        return full
    if MALFORMED.search(output):
        last = output.strip().splitlines()[-1]
        return PatchInputError(f"{part.name} is not a well-formed diff: {last}")
    # GNU patch would also call a patch "reversed" that fits neither way: try it.
    if _run_patch(part, scratch, current, skip, fuzz=0, reverse=True).returncode == 0:
        return PatchInputError(
            f"{part.name} is already in this kernel's source",
            hint="this kernel has the fix: there is nothing to patch",
        )
    for file, number in _failed_hunks(part, output):
        content = current[file.path]
        if content is None or number > len(file.hunks):
            continue
        hunk = file.hunks[number - 1]
        return PatchInputError(
            f"{part.name} does not apply: hunk {number} of {file.path} ({hunk.header})\n"
            + _difference(hunk, content),
            hint="is the patch for another kernel version? adapt that hunk to this source",
        )
    return PatchInputError(
        f"{part.name} does not apply:\n{output.strip()}",
        hint="is the patch for another kernel version?",
    )


def _failed_hunks(part: PatchPart, output: str) -> list[tuple[PatchedFile, int]]:
    files = {file.path: file for file in part.files}
    failed, path = [], ""
    for line in output.splitlines():
        if match := PATCHING.match(line):
            path = match.group(1)
        elif (match := FAILED_HUNK.match(line)) and path in files:
            failed.append((files[path], int(match.group(1))))
    return failed


def _difference(hunk: Hunk, content: bytes) -> str:
    """The first lines where a hunk and the file differ, at the place where it fits best."""
    lines = [line.decode(errors="replace") for line in content.split(b"\n")]
    place = best_place(hunk, lines)
    first = 0
    for first, expected in enumerate(hunk.expected):
        if place + first >= len(lines) or lines[place + first] != expected:
            break
    has = lines[place + first : place + first + SHOWN_LINES]
    wants = hunk.expected[first : first + SHOWN_LINES]
    return "\n".join(
        [f"  the patch expects at line {place + first + 1}:"]
        + [f"    | {line}" for line in wants]
        + ["  this kernel's source has:"]
        + [f"    | {line}" for line in has]
    )


def best_place(hunk: Hunk, lines: list[str]) -> int:
    """The 0-based line at which most lines of the hunk are found, nearest to where it says."""
    places: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        places.setdefault(line, []).append(index)
    votes: dict[int, int] = {}
    for offset, line in enumerate(hunk.expected):
        if line.strip(" \t{}"):
            for index in places.get(line, ()):
                votes[index - offset] = votes.get(index - offset, 0) + 1
    said = min(max(hunk.start - 1, 0), max(len(lines) - 1, 0))
    usable = {place: count for place, count in votes.items() if place >= 0}
    if not usable:
        return said
    return max(usable, key=lambda place: (usable[place], -abs(place - said)))
