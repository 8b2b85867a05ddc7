"""A live patch written by hand: a C file whose functions replace functions of one unit.

What it says of itself it says by the macros of `kmod/rebootless_patch.h`. The compiler writes that
into the object, which is what counts; the text is read here only for what must be known before:
the unit in whose place the file is compiled, or the functions that tell it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..base.errors import PatchInputError
from ..base.fs import read_bytes
from .source import CVE, SourcePatch, acceptances

SUFFIX = ".c"
WRITE_ONE = "`rebootless new NAME --function FUNCTION` writes one to start from"
_COMMENT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
_UNIT = re.compile(r'\bREBOOTLESS_UNIT\s*\(\s*"([^"]*)"\s*\)')
_PATCH = re.compile(r"\bREBOOTLESS_PATCH\s*\(\s*([\w-]+)\s*,\s*(\w+)\s*,\s*(\w+)\s*\)")


@dataclass(frozen=True)
class Replacement:
    """`new` takes the place of `old`, a function of `object` (vmlinux or a module's name)."""

    object: str
    old: str
    new: str


@dataclass(frozen=True)
class CSource:
    """One C file. `unit` is the unit that it names ("fs/proc/version.c"), or ""."""

    name: str
    text: bytes
    unit: str
    replacements: tuple[Replacement, ...]


def is_c(paths: Sequence[Path]) -> bool:
    """Whether the input is C files. Raises PatchInputError when patches are among them."""
    kinds = {path.suffix == SUFFIX for path in paths}
    if len(kinds) > 1:
        raise PatchInputError(
            "C files and patches cannot be built into one live patch",
            hint="build them one after the other; both can be applied",
        )
    return kinds == {True}


def load(paths: Sequence[Path]) -> tuple[CSource, ...]:
    """Reads C files. Raises PatchInputError (not C, nothing replaced), NotFoundError."""
    found = tuple(parse(read_bytes(path), path.name) for path in paths)
    names = [source.name for source in found]
    if len(set(names)) != len(names):
        raise PatchInputError(f"two of the files are called {max(names, key=names.count)}")
    return found


def parse(text: bytes, name: str) -> CSource:
    """Reads one C file from memory; `name` is for messages. Raises PatchInputError."""
    if b"\0" in text:
        raise PatchInputError(f"{name} is a binary file, not C", hint=WRITE_ONE)
    code = _COMMENT.sub(_keep_strings, text.decode(errors="surrogateescape"))
    units = list(dict.fromkeys(_UNIT.findall(code)))
    replacements = tuple(Replacement(*found) for found in _PATCH.findall(code))
    if not replacements:
        raise PatchInputError(
            f"{name} replaces nothing: it has no REBOOTLESS_PATCH(object, old, new)", hint=WRITE_ONE
        )
    if len(units) > 1:
        raise PatchInputError(
            f"{name} names two units, {units[0]} and {units[1]}",
            hint="replace the functions of each unit in a file of its own; several can be given",
        )
    unit = units[0] if units else ""
    if unit and (not _is_inside(unit) or not unit.endswith(SUFFIX)):
        raise PatchInputError(
            f"{name} names the unit '{unit}', which is not the path of a C file in the kernel's "
            "source"
        )
    return CSource(name, text, unit, replacements)


def _keep_strings(found: re.Match[str]) -> str:
    return found[0] if found[0].startswith('"') else " "


def _is_inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in PurePosixPath(path).parts


def as_patch(sources: Sequence[CSource]) -> SourcePatch:
    """What a build wants to know of its input: name, text, title, CVE ids, what it accepts."""
    text = b"".join(source.text for source in sources)
    ids = CVE.findall(text.decode(errors="surrogateescape"))
    accepts = [
        accept
        for source in sources
        for accept in acceptances(source.text.decode(errors="surrogateescape"), source.name)
    ]
    return SourcePatch(
        name=sources[0].name.removesuffix(SUFFIX),
        text=text,
        files=(),
        parts=(),
        title="",
        cves=tuple(dict.fromkeys(ids)),
        accepts=tuple(dict.fromkeys(accepts)),
    )
