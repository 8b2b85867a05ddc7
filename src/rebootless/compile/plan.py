"""Which units a patch reaches in one kernel's configuration, or why it cannot be a live patch."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..base.errors import NoChangeError, RefusedError
from ..base.events import Monitor, Note, StageReport
from ..patch.source import Change, PatchedFile, SourcePatch
from ..patch.units import Classified, FileRefusal, Kind, classify
from . import headers
from .kbuild import Fate, Kbuild, Membership
from .tree import Tree, left_out_of

SPLIT_HINT = (
    "--max-units raises the limit, if the time does not matter (3 s per unit); "
    "or make the change in the one or two .c files that need it"
)
COUNTED = 100  # files between two signs of life


@dataclass(frozen=True)
class Plan:
    """The units to compile. `via_header` are those that only include a touched file.

    `kept` are files that may include one, and that no live patch can change.
    """

    units: tuple[Membership, ...]
    via_header: frozenset[str]
    headers: frozenset[str]
    kept: tuple[str, ...] = ()


def skipped(patch: SourcePatch) -> frozenset[str]:
    """The touched paths that have nothing to do with the running kernel."""
    return frozenset(f.path for f in patch.files if classify(f.path).kind is Kind.IGNORED)


def make_plan(
    tree: Tree,
    patch: SourcePatch,
    monitor: Monitor,
    report: StageReport,
    *,
    max_units: int,
    kbuild: Kbuild | None = None,
    among: frozenset[str] | None = None,
) -> Plan:
    """Finds the units that `patch` changes; `report` shows how far that is.

    `kbuild` has been asked before, and remembers what it said. `among` has all units that can
    differ, where that is known: others that include a touched header are left as they are.

    Raises RefusedError (assembly, vDSO, lib.a, too many units ...) with a refusal per file, and
    NoChangeError when this kernel's configuration compiles nothing of it.
    """
    classified = {file.path: classify(file.path) for file in patch.files}
    refuse([_refusal(c) for c in classified.values() if c.kind is Kind.REFUSED])
    for entry in classified.values():
        if entry.kind is Kind.IGNORED:
            monitor.emit(Note(f"{entry.path} is ignored: {entry.reason}"))
    kbuild = kbuild or Kbuild(tree.orig, tree.toolchain)
    units: dict[str, Membership] = {}
    off: list[str] = []
    roots: list[str] = []
    for file in patch.files:
        kind = classified[file.path].kind
        if kind is Kind.HEADER and file.change is not Change.ADDED:
            roots.append(file.path)
        elif kind is Kind.UNIT:
            _place(tree, kbuild, patch, file, units, off, roots)
    refuse([_library_refusal(u) for u in units.values() if u.fate is Fate.LIBRARY])
    including = _including(tree, kbuild, roots, frozenset(units), report, max_units)
    found = [u for u in including.units if among is None or u.source in among]
    every = (*units.values(), *found)
    if not every:
        raise nothing_compiled(off, roots, patch)
    if len(every) > max_units:
        raise _too_many(f"{len(every)} compiled units", roots, max_units)
    for reason in off:
        monitor.emit(Note(reason))
    _note_headers(including, roots, monitor)
    via_header = frozenset(u.source for u in found)
    return Plan(every, via_header, frozenset(roots), including.kept)


def refuse(refusals: list[FileRefusal]) -> None:
    """Raises RefusedError when there are refusals."""
    if refusals:
        lines = [f"{refusal.symbol}: {refusal.message}" for refusal in refusals]
        raise RefusedError(
            "the patch changes what a live patch cannot change:\n  " + "\n  ".join(lines),
            hint=refusals[0].hint or None,
            refusals=refusals,
        )


def _refusal(entry: Classified) -> FileRefusal:
    return FileRefusal("file", entry.path, entry.reason, entry.hint)


def _library_refusal(unit: Membership) -> FileRefusal:
    return FileRefusal(
        "lib-a",
        unit.source,
        f"it is linked through a library (lib-y in {unit.makefile}), from which the linker takes "
        "what it needs: its code may be in the image, replaced by other code, or absent",
        "patch the functions that call it",
    )


def _place(
    tree: Tree,
    kbuild: Kbuild,
    patch: SourcePatch,
    file: PatchedFile,
    units: dict[str, Membership],
    off: list[str],
    roots: list[str],
) -> None:
    """Puts one touched .c file where it belongs: a unit, one that is off, or an included file."""
    if file.change is Change.DELETED:
        refuse([FileRefusal("deleted-unit", file.path, "a live patch cannot remove a source file",
                            "empty the functions instead of deleting the file")])  # fmt: skip
    if file.change is Change.ADDED:
        _check_new(patch, file)
        return
    if (where := _left_out(tree, file.path)) is not None:
        off.append(f"{file.path} is not part of this kernel ({where} is left out)")
        return
    member = kbuild.membership(file.path)
    if len(member.modules) > 1:
        refuse([FileRefusal("several-modules", file.path,
                            "it is compiled into several modules: " + ", ".join(member.modules),
                            "patch a function in a file that belongs to one module")])  # fmt: skip
    if member.fate is not Fate.OFF:
        units[file.path] = member
    elif not member.options and _include_index(tree).includers(file.path):
        roots.append(file.path)
    else:
        off.append(_why_off(member))


def _check_new(patch: SourcePatch, file: PatchedFile) -> None:
    """Refuses a new .c file, unless a touched file comes to include it."""
    name = re.escape(PurePosixPath(file.path).name.encode())
    if not re.search(rb'(?m)^\+[ \t]*#[ \t]*include[ \t]*[<"][^">\n]*\b' + name, patch.text):
        refuse([FileRefusal("new-unit", file.path,
                            "a new source file needs a change of a Makefile, and the set of a "
                            "kernel's files is fixed",
                            "put the new functions into an existing file, or into a header that "
                            "it includes")])  # fmt: skip


def _left_out(tree: Tree, path: str) -> str | None:
    return next((d for d in left_out_of(tree) if path.startswith(d + "/")), None)


def _why_off(member: Membership) -> str:
    """One sentence on why a unit is not compiled."""
    if member.options:
        options = " or ".join(member.options[:3])
        return f"{member.source} is not compiled: {options} is off ({member.makefile})"
    return f"{member.source} is not compiled: {member.makefile} does not build it"


def nothing_compiled(off: list[str], roots: list[str], patch: SourcePatch) -> NoChangeError:
    """The error for a patch of which this configuration compiles nothing."""
    reasons = [*off, *(f"no compiled unit includes {path}" for path in roots)]
    if not reasons:
        reasons = [f"{file.path} is not kernel code" for file in patch.files]
    return NoChangeError(
        "this kernel compiles nothing of what the patch changes:\n  " + "\n  ".join(reasons),
        hint="the kernel is not affected by the bug; other flavours of it may be",
    )


@functools.lru_cache(maxsize=1)  # a process that builds many patches reads it once
def _include_index(tree: Tree) -> headers.IncludeIndex:
    return headers.index(tree.orig, tree.root / "includes")


@dataclass(frozen=True)
class Including:
    """The files that (may) include a touched header, and what kbuild makes of those it compiles."""

    files: frozenset[str] = frozenset()
    members: tuple[Membership, ...] = ()

    @property
    def units(self) -> tuple[Membership, ...]:
        """The units that a live patch can change."""
        return tuple(m for m in self.members if m.fate is not Fate.LIBRARY and len(m.modules) < 2)

    @property
    def kept(self) -> tuple[str, ...]:
        """The files that a live patch cannot change."""
        fixed = {path for path in self.files if classify(path).kind is Kind.REFUSED}
        return tuple(sorted(fixed | {m.source for m in self.members if m not in self.units}))


def _including(
    tree: Tree,
    kbuild: Kbuild,
    roots: list[str],
    known: frozenset[str],
    report: StageReport,
    max_units: int,
) -> Including:
    """Who includes the touched headers; asks make about every directory that has such a file."""
    if not roots:
        return Including()
    for path in roots:
        if path in headers.EVERYWHERE:
            raise _too_many("every unit of the kernel", [path], max_units)
    report.detail("reading include lines")
    reached = _include_index(tree).reach(roots)
    candidates = sorted(p for p in reached - known if classify(p).kind is Kind.UNIT)
    members = []
    for number, path in enumerate(candidates):
        if number % COUNTED == 0:
            report.progress(number, len(candidates), "files that may include it")
        members.append(kbuild.membership_if_built(path))
    return Including(reached, tuple(m for m in members if m is not None))


def _note_headers(found: Including, roots: list[str], monitor: Monitor) -> None:
    """Says how far the touched headers reach."""
    if found.units:
        count = f"{len(found.units)} compiled unit" + ("s" if len(found.units) > 1 else "")
        monitor.emit(Note(f"{_named(roots)}: included by {count}"))


def _too_many(what: str, roots: list[str], max_units: int) -> RefusedError:
    return RefusedError(
        f"the patch reaches {what} ({_named(roots)}), more than the limit of {max_units}",
        hint=SPLIT_HINT,
        refusals=[FileRefusal("too-many-units", _named(roots), f"reaches {what}", SPLIT_HINT)],
    )


def _named(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (", ..." if len(paths) > 3 else "") if paths else "all together"
