"""Compiles an out-of-tree module from its own source: as it is, and patched.

    work/0-module/          a copy of the module's directory, built by kbuild (`make M=`)
    work/0-module-patched/  hard links to it; the patch's files replace links

kbuild builds the copy once and leaves a record of each unit (`.NAME.o.cmd`). The touched units are
compiled by these commands in both directories, and both objects name a third one (__FILE__): that
where the installed module was built, so that nothing but the patch can make them differ.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..base import proc
from ..base.errors import CompileError, NoChangeError, PatchInputError, RefusedError
from ..base.events import Monitor, NullMonitor, stage
from ..base.fs import atomic_write, os_failure, read_bytes, read_text, remove_tree
from ..base.words import counted
from ..base.workdir import MARKER, Workdir, fingerprint
from ..patch.apply import Applied, apply
from ..patch.source import Change, SourcePatch
from ..patch.units import FileRefusal, Kind, classify_name
from . import kbuild, originals
from .plan import SPLIT_HINT, refuse
from .runner import Job, run_all
from .tree import Tree, make_command, objtool_now, unit_flags
from .unit import ORIG_STAGE, PATCHED_STAGE, UnitPair, compiled_before, copy_object, record

MODULE_STAGE = "0-module"
PATCHED_COPY = "0-module-patched"
BUILT = ("*.o", "*.ko", "*.mod", "*.mod.c", ".*.cmd", "*.symvers", "modules.order", ".git", "*.o.d")
SYMVERS = "Module.symvers"


@dataclass(frozen=True)
class ModuleSource:
    """The source of out-of-tree modules; `symvers` are those of the modules that they need."""

    directory: Path
    symvers: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Unit:
    """A compiled unit: its path in the source, its module, and kbuild's record of it."""

    source: str
    modules: tuple[str, ...]
    command: kbuild.Command
    dependencies: frozenset[str]  # those in the module's source


def build_module(
    tree: Tree,
    source: ModuleSource,
    patch: SourcePatch,
    workdir: Workdir,
    monitor: Monitor,
    *,
    jobs: int = 2,
) -> dict[str, frozenset[str]]:
    """Builds the unpatched module; the names of what the directory builds, and their C files.

    Does nothing when it was built before from the same files. Raises PatchInputError (no kbuild
    directory, a patch of other files), RefusedError (files of the kernel, and what no live patch
    can change), CompileError, ResourceError.
    """
    _check_directory(source.directory, workdir)
    _check_paths(tree, source.directory, patch)
    _applied(source, patch, NullMonitor())  # what does not apply is told before the long build
    key = fingerprint("module-1", str(tree.root), *_identity(source))
    if not workdir.is_done(MODULE_STAGE, key):
        with stage(monitor, "module", f"Building the module in {source.directory}") as report:
            with workdir.running(MODULE_STAGE, key) as folder:
                _build(tree, source, folder, jobs)
            report.result = ", ".join(sorted(_modules(folder)))
    found: dict[str, set[str]] = {}
    for unit in _units(tree, workdir.stage(MODULE_STAGE)):
        for path in unit.modules:
            found.setdefault(_module_name(path), set()).add(unit.source)
    return {name: frozenset(sources) for name, sources in found.items()}


def build_external_pairs(
    tree: Tree,
    source: ModuleSource,
    patch: SourcePatch,
    workdir: Workdir,
    monitor: Monitor,
    *,
    place: str = "",
    jobs: int = 2,
    max_units: int,
) -> tuple[UnitPair, ...]:
    """Compiles every unit of the built module that `patch` changes into 1-orig and 2-patched.

    Paths in the patch are relative to the module's directory. `place` is the directory that
    `__FILE__` names in the objects: the one where the installed module was built. Raises
    PatchInputError (does not apply), RefusedError, NoChangeError, CompileError, ResourceError.
    """
    folder = workdir.stage(MODULE_STAGE)
    key = fingerprint("module-pairs-1", read_text(folder / MARKER), place, patch.text)
    if (made := compiled_before(workdir, key, monitor, max_units)) is not None:
        return made
    with stage(monitor, "plan", "Applying the patch to the module's source") as report:
        applied = _applied(source, patch, monitor)
        units = _affected(tree, folder, patch, max_units)
        report.result = f"{counted(len(units), 'unit')} to compile"
    with stage(monitor, "compile", "Compiling the touched units twice") as report:
        pairs = _compile(tree, workdir, units, applied, place, key, jobs)
        report.result = counted(len(pairs), "unit")
    return pairs


def exports(workdir: Workdir) -> Path:
    """The table of what the module exports, which kbuild left."""
    return workdir.stage(MODULE_STAGE) / SYMVERS


def _applied(source: ModuleSource, patch: SourcePatch, monitor: Monitor) -> Applied:
    skip = frozenset(f.path for f in patch.files if classify_name(f.path).kind is Kind.IGNORED)
    try:
        return apply(patch, source.directory, monitor, skip=skip)
    except PatchInputError as exc:  # it speaks of a kernel
        message, hint = (text.replace("this kernel", "the module").replace("kernel", "module")
                         for text in (exc.message, exc.hint or ""))  # fmt: skip
        raise PatchInputError(message, hint=hint or None) from exc


def _module_name(path: str) -> str:
    """What the kernel calls a module, by its path without suffix."""
    return path.rpartition("/")[2].replace("-", "_")


def _check_directory(directory: Path, workdir: Workdir) -> None:
    if workdir.root.resolve().is_relative_to(directory.resolve()):
        raise PatchInputError(
            f"the work folder {workdir.root} lies in the module's source",
            hint="choose another one with --workdir",
        )
    for name in ("Kbuild", "Makefile"):
        path = directory / name
        if path.is_file():
            if "obj-" in read_text(path):
                return
            raise PatchInputError(
                f"{path} names no module (obj-m := ...)",
                hint="--module-source is the directory that `make M=DIRECTORY` is called with",
            )
    raise PatchInputError(
        f"{directory} has no Kbuild and no Makefile, so it is not the source of a module",
        hint="--module-source is the directory that `make M=DIRECTORY` is called with",
    )


def _check_paths(tree: Tree, directory: Path, patch: SourcePatch) -> None:
    """Refuses files that are not the module's, and those that no live patch can change."""
    refusals = []
    for file in patch.files:
        entry = classify_name(file.path)
        if entry.kind is Kind.IGNORED:
            continue
        here = (directory / file.path).exists()
        if not here and file.change is not Change.ADDED and (tree.orig / file.path).exists():
            refusals.append(FileRefusal("outside-of-module", file.path,
                f"it is a file of the kernel, and not of the module's source in {directory}",
                "patch the kernel with a live patch of its own"))  # fmt: skip
        elif entry.kind is Kind.REFUSED:
            refusals.append(FileRefusal("file", file.path, entry.reason, entry.hint))
        elif file.change is Change.DELETED and entry.kind is Kind.UNIT:
            refusals.append(FileRefusal("deleted-unit", file.path,
                "a live patch cannot remove a source file",
                "empty the functions instead of deleting the file"))  # fmt: skip
        elif not here and file.change is not Change.ADDED:
            raise PatchInputError(
                f"the patch changes {file.path}, which {directory} does not have",
                hint="paths in the patch are relative to the module's directory (-p1)",
            )
    refuse(refusals)


def _files(directory: Path) -> Iterator[Path]:
    """The files of the source, in order, without what a build left."""
    ignored = shutil.ignore_patterns(*BUILT)
    for folder, folders, names in os.walk(directory):
        gone = ignored(folder, [*folders, *names])
        folders[:] = sorted(set(folders) - gone)
        yield from (Path(folder) / name for name in sorted(set(names) - gone))


def _identity(source: ModuleSource) -> Iterator[str | bytes]:
    """All that the unpatched build depends on."""
    for path in (*_files(source.directory), *source.symvers):
        if path.is_file():
            yield str(path)
            yield read_bytes(path)


def _build(tree: Tree, source: ModuleSource, folder: Path, jobs: int) -> None:
    """Copies the source into the empty `folder` and has kbuild build it there."""
    for path in _files(source.directory):
        place = folder / path.relative_to(source.directory)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            shutil.copymode(path, place)
        except OSError as exc:
            raise os_failure("copy", path, exc) from exc
    more = [f"KBUILD_EXTRA_SYMBOLS={' '.join(str(p.absolute()) for p in source.symvers)}"]
    # What another module exports is only missing in the module made here, which nobody loads.
    more += objtool_now(tree.orig)
    arguments = [f"M={folder}", "KBUILD_MODPOST_WARN=1", *more, "modules"]
    flags = unit_flags(tree.root)
    argv = make_command(tree.orig, tree.release, tree.compiler, *arguments, jobs=jobs, flags=flags)
    result = proc.run(tree.inside(argv), check=False)
    if result.returncode or not _modules(folder):
        output = result.stdout + "\n" + result.stderr
        if (full := proc.out_of_space(output, folder)) is not None:
            raise full
        what = "does not build" if result.returncode else "builds no module"
        raise CompileError(
            f"the module in {source.directory} {what} for {tree.release}:\n"
            + originals.error_lines(output.replace(f"{folder}/", f"{source.directory}/")),
            hint="it must build as it is with `make M=DIRECTORY modules`",
        )


def _modules(folder: Path) -> dict[str, frozenset[str]]:
    """The modules that kbuild made, by path without suffix: the objects of each."""
    found = {}
    for path in sorted(folder.rglob("*.mod")):
        objects = (word for word in read_text(path).split() if word.endswith(".o"))
        name = str(path.relative_to(folder).with_suffix(""))
        found[name] = frozenset(_inside(folder, folder, word) for word in objects)
    return found


def _inside(folder: Path, base: Path, name: str) -> str:
    """A path (relative to `base`) as one relative to `folder`; "" when it is not in there."""
    path = os.path.normpath(base / name)
    return path[len(str(folder)) + 1 :] if path.startswith(f"{folder}/") else ""


def _units(tree: Tree, folder: Path) -> Iterator[_Unit]:
    """Every C unit that kbuild compiled."""
    modules = _modules(folder)
    for path in sorted(folder.rglob("*.c")):
        source = str(path.relative_to(folder))
        entry = kbuild.command_file(folder, source)
        if source.endswith(".mod.c") or not entry.is_file():
            continue
        command = kbuild.parse_command(read_text(entry), source)
        inside = {_inside(folder, tree.orig, name) for name in command.dependencies}
        owners = tuple(n for n, objects in modules.items() if _object(source) in objects)
        if owners:
            yield _Unit(source, owners, command, frozenset(inside - {""}))


def _object(source: str) -> str:
    return originals.object_path(source)


def _affected(tree: Tree, folder: Path, patch: SourcePatch, max_units: int) -> tuple[_Unit, ...]:
    """The units that the patch changes: touched, or including what is touched."""
    touched = {f.path for f in patch.files}
    every = tuple(_units(tree, folder))
    units = tuple(u for u in every if u.source in touched or touched & u.dependencies)
    for unit in units:
        if len(unit.modules) > 1:
            refuse([FileRefusal("several-modules", unit.source,
                                "it is compiled into several modules: " + ", ".join(unit.modules),
                                "patch a function in a file of one module")])  # fmt: skip
    if not units:
        raise NoChangeError(
            f"nothing that the module compiles reads {', '.join(sorted(touched))}",
            hint="it compiles " + ", ".join(u.source for u in every[:8]),
        )
    for file in patch.files:
        if file.change is Change.ADDED and file.path.endswith(".c"):
            refuse([FileRefusal("new-unit", file.path,
                                "a new source file would have to be linked into the module",
                                "put the new functions into an existing file")])  # fmt: skip
    if len(units) > max_units:
        raise RefusedError(
            f"the patch reaches {len(units)} units of the module, more than {max_units}",
            hint=SPLIT_HINT,
        )
    return units


def _compile(
    tree: Tree,
    workdir: Workdir,
    units: Sequence[_Unit],
    applied: Applied,
    place: str,
    key: str,
    jobs: int,
) -> tuple[UnitPair, ...]:
    """Compiles the units with the patch's files in place; both objects go into the stages."""
    folder, patched = workdir.stage(MODULE_STAGE), workdir.stage(PATCHED_COPY)
    _link(folder, patched, {f.path: f.patched for f in applied.files})
    first = [_job(tree, unit, folder, folder, place) for unit in units]
    second = [_job(tree, unit, folder, patched, place) for unit in units]
    outcomes = run_all([*first, *second], parallel=jobs, finished=lambda outcome: None)
    what = "does not compile a second time"
    originals.check(outcomes[: len(first)], {u.source: f"{u.source} {what}" for u in units})
    if failed := [o for o in outcomes if o.failed is not None]:
        for file in applied.files:  # without #line: the numbers of the patched file
            _put(patched, file.path, file.plain)
        again = run_all([failed[0].job], parallel=1, finished=lambda outcome: None)
        told = again if again[0].failed is not None else failed
        told = [replace(o, output=o.output.replace(f"{patched}/", "")) for o in told]
        what = "does not compile with the patch (it does without)"
        hint = "mend the patch; the original file compiles with the same command"
        originals.check(told, {o.job.name: f"{o.job.name} {what}" for o in failed}, hint)
    for name, side in ((ORIG_STAGE, folder), (PATCHED_STAGE, patched)):
        with workdir.running(name, key) as kept:
            for unit in units:
                copy_object(side / _object(unit.source), kept / _object(unit.source))
    remove_tree(patched)
    pairs = tuple(_pair(unit, workdir) for unit in units)
    record(workdir, pairs)
    return pairs


def _job(tree: Tree, unit: _Unit, folder: Path, side: Path, place: str) -> Job:
    """The compilation of a unit in `side`, with `place` written into the object in its stead."""
    first, *others = originals.steps(unit.command, originals.Variant())
    if unit.command.steps:
        first = (*first, f"-ffile-prefix-map={folder}={place}")
    steps = ((word.replace(str(folder), str(side)) for word in step) for step in (first, *others))
    return Job(unit.source, tree.orig, tuple(tuple(tree.inside(list(step))) for step in steps))


def _link(folder: Path, patched: Path, contents: Mapping[str, bytes | None]) -> None:
    """A copy of the built directory by hard links, with `contents` in the place of some."""
    remove_tree(patched)
    try:
        shutil.copytree(folder, patched, copy_function=os.link)
        for path in patched.rglob("*.o"):
            path.unlink()  # a compiler that wrote into a link would change both
    except OSError as exc:
        raise os_failure("copy", folder, exc) from exc
    for name, content in contents.items():
        _put(patched, name, content)


def _put(folder: Path, path: str, content: bytes | None) -> None:
    place = folder / path
    place.unlink(missing_ok=True)
    if content is not None:
        atomic_write(place, content)


def _pair(unit: _Unit, workdir: Workdir) -> UnitPair:
    path = unit.modules[0]
    name = _object(unit.source)
    return UnitPair(
        source=unit.source,
        module=_module_name(path),
        module_path=path,
        orig=workdir.stage(ORIG_STAGE) / name,
        patched=workdir.stage(PATCHED_STAGE) / name,
    )
