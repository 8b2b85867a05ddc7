"""Compiles the units that a patch changes: as they are, and patched, by the same commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

from ..base.errors import CompileError, NoChangeError
from ..base.events import Monitor, Note, StageReport, stage
from ..base.fs import atomic_write, os_failure, read_text
from ..base.words import counted
from ..base.workdir import Workdir, fingerprint
from ..patch.apply import Applied, apply
from ..patch.source import SourcePatch
from . import originals, reach, twin
from .kbuild import Fate, Kbuild, Membership, parse_dependencies
from .originals import Variant, object_path, stored
from .plan import Plan, make_plan, skipped
from .runner import Job, Outcome, run_all
from .tree import Tree, left_out_of

ORIG_STAGE = "1-orig"
PATCHED_STAGE = "2-patched"
RECORD = "units.json"
AUTHOR_HEADERS = ("rebootless.h", "rebootless_klp.h", "rebootless_patch.h")
MAX_UNITS = 60


class Way:
    """How it is found out in what way units compile: by kbuild, which compiles them once."""

    def learn(self, tree: Tree, units: Sequence[Membership], *, jobs: int) -> None:
        """Makes the commands of `units` known, and may compile the originals."""
        originals.learn(tree, units, jobs=jobs)

    def compiled(self, outcome: Outcome) -> None:
        """Is told of each compilation that has ended."""


@dataclass(frozen=True)
class UnitPair:
    """One unit, compiled as shipped and patched.

    `source` is "fs/ext4/mballoc.c"; `module` is "vmlinux" or the module's name with underscores;
    `module_path` is its path without suffix ("fs/ext4/ext4"), "" for vmlinux. `orig` and
    `patched` are objects in the work folder.
    """

    source: str
    module: str
    module_path: str
    orig: Path
    patched: Path


def build_pairs(
    tree: Tree,
    patch: SourcePatch,
    workdir: Workdir,
    monitor: Monitor,
    *,
    jobs: int = 2,
    max_units: int = MAX_UNITS,
    variant: Variant | None = None,
    kbuild: Kbuild | None = None,
    among: frozenset[str] | None = None,
    way: Way | None = None,
) -> tuple[UnitPair, ...]:
    """Compiles every unit that `patch` changes, twice, into the stages 1-orig and 2-patched.

    Does nothing when the stages are complete for the same inputs. `kbuild` has been asked before;
    `among` has all units that can differ, if that is known; `way` is how the originals come to be.
    Pairs may be identical (a comment, a header whose change does not matter to the unit). Raises
    PatchInputError (does not apply), RefusedError (not live-patchable), NoChangeError (nothing of
    it is compiled), CompileError, ResourceError. The twin tree is restored in any case.
    """
    variant, way = variant or Variant(), way or Way()
    # `max_units` is no input: whether the stages exist at all depends on it.
    headers = author_headers().values()
    key = fingerprint("pairs-3", str(tree.root), variant.name, patch.text, *headers)
    if (made := compiled_before(workdir, key, monitor, max_units)) is not None:
        return made
    with tree.locked(monitor):
        twin.restore(tree)
        with stage(monitor, "plan", "Applying the patch to the source") as report:
            applied = apply_to(tree, patch, monitor)
            plan = make_plan(
                tree, patch, monitor, report, max_units=max_units, kbuild=kbuild, among=among
            )
            report.result = f"{counted(len(plan.units), 'unit')} to compile"
        with stage(monitor, "compile", "Compiling the touched units twice") as report:
            report.detail("kbuild shows how")
            way.learn(tree, plan.units, jobs=jobs)
            built = _compile(tree, plan, applied, variant, workdir, key, jobs, report, way)
            pairs = tuple(pair_of(unit, workdir) for unit in built)
            readers = sum(unit.source in plan.via_header for unit in built)
            headers_of_kernel = tuple(sorted(plan.headers))
            facts = reach.HeaderReach(headers_of_kernel, readers, plan.kept)
            reach.write(workdir.stage(PATCHED_STAGE), facts)
            record(workdir, pairs)
            report.result = counted(len(pairs), "unit")
    if dropped := len(plan.units) - len(built):
        monitor.emit(Note(f"{counted(dropped, 'unit')} of them turned out not to read the headers"))
    return pairs


def author_headers() -> dict[str, bytes]:
    """The headers that a patch may include, `#include <rebootless.h>`, by their path in the tree.

    They are in the twin while patched units are compiled, beside the kernel's own.
    """
    folder = resources.files("rebootless") / "kmod"
    return {f"include/{name}": (folder / name).read_bytes() for name in AUTHOR_HEADERS}


def build_originals(
    tree: Tree,
    sources: Sequence[str],
    monitor: Monitor,
    *,
    variant: Variant,
    jobs: int = 2,
) -> dict[str, Path]:
    """Objects of unpatched units, for matching: source -> object in the tree's cache.

    `Variant(sections=False)` is a build as the distribution makes it. The sources must be ones
    that `build_pairs` has compiled, or that the configuration compiles. Raises CompileError.
    """
    with tree.locked(monitor):
        asked = Kbuild(tree.orig, tree.toolchain)
        units = [asked.membership(source) for source in sources]
        off = [unit.source for unit in units if unit.fate is Fate.OFF]
        if off:
            raise CompileError(f"this kernel does not compile {', '.join(off)}")
        with stage(monitor, "compile-original", "Compiling the original units"):
            originals.learn(tree, units, jobs=jobs)
            finish_originals(original_jobs(tree, units, variant), tree, variant, jobs)
    return {source: stored(tree, variant, source) for source in sources}


def _skipped(tree: Tree, patch: SourcePatch) -> frozenset[str]:
    """Touched files that need not be there to apply the rest."""
    left_out = tuple(f"{path}/" for path in left_out_of(tree))
    return skipped(patch) | {f.path for f in patch.files if f.path.startswith(left_out)}


def original_jobs(tree: Tree, units: Sequence[Membership], variant: Variant) -> list[Job]:
    """The originals that are not in the cache yet."""
    return [
        originals.job(tree, tree.orig, unit.source, variant)
        for unit in units
        if not stored(tree, variant, unit.source).exists()
    ]


def finish_originals(jobs: Sequence[Job], tree: Tree, variant: Variant, parallel: int) -> None:
    """Compiles originals and moves them into the cache."""

    def store(outcome: Outcome) -> None:
        if outcome.failed is None:
            made = tree.orig / object_path(outcome.job.name)
            originals.place(made, stored(tree, variant, outcome.job.name))
        dependency_file(tree.orig, outcome.job.name).unlink(missing_ok=True)

    outcomes = run_all(jobs, parallel=parallel, finished=store)
    originals.check(outcomes, {j.name: f"the kernel's own {j.name} does not compile" for j in jobs})


def _compile(
    tree: Tree,
    plan: Plan,
    applied: Applied,
    variant: Variant,
    workdir: Workdir,
    key: str,
    parallel: int,
    report: StageReport,
    way: Way,
) -> tuple[Membership, ...]:
    """Compiles what is missing of the originals, and all patched units, side by side.

    Returns the units that are affected; their objects are in the stages.
    """
    outputs = scratch_files(tree, plan.units)
    first = original_jobs(tree, plan.units, variant)
    second = [originals.job(tree, tree.patched, unit.source, variant) for unit in plan.units]
    total, done = len(first) + len(second), 0

    def finished(outcome: Outcome) -> None:
        nonlocal done
        done += 1
        report.progress(done, total, outcome.job.name)
        way.compiled(outcome)
        if outcome.job.directory == tree.orig and outcome.failed is None:
            made = tree.orig / object_path(outcome.job.name)
            originals.place(made, stored(tree, variant, outcome.job.name))
            dependency_file(tree.orig, outcome.job.name).unlink(missing_ok=True)

    with twin.installed(tree, contents_of(applied), outputs):
        # Alternating, so that the two of one unit run side by side.
        outcomes = run_all(_merged(first, second), parallel=parallel, finished=finished)
        _check(tree, applied, outcomes)
        built = tuple(unit for unit in plan.units if _is_affected(tree, plan, unit.source))
        if not built:
            headers = ", ".join(sorted(plan.headers))
            raise NoChangeError(f"no unit that this kernel compiles reads {headers}")
        keep(tree, built, variant, workdir, key)
    return built


def contents_of(applied: Applied) -> dict[str, bytes | None]:
    """What the twin tree has instead of the original's files while a patch is compiled."""
    return {**author_headers(), **{file.path: file.patched for file in applied.files}}


def apply_to(tree: Tree, patch: SourcePatch, monitor: Monitor) -> Applied:
    """The touched files of a tree, patched; those that it lacks for good reason are left out."""
    return apply(patch, tree.orig, monitor, skip=_skipped(tree, patch))


def scratch_files(tree: Tree, units: Sequence[Membership]) -> list[str]:
    """What compiling `units` leaves in the twin, to be removed again."""
    return [
        str(path.relative_to(tree.patched))
        for unit in units
        for path in (
            tree.patched / object_path(unit.source),
            dependency_file(tree.patched, unit.source),
        )
    ]


def _merged(first: list[Job], second: list[Job]) -> list[Job]:
    """Both lists in the order of units: original, patched, original, patched ..."""
    before = {job.name: job for job in first}
    return [j for job in second for j in (before.get(job.name), job) if j is not None]


def _check(tree: Tree, applied: Applied, outcomes: Sequence[Outcome]) -> None:
    """Raises CompileError for failed compilations, with line numbers of the patched file."""
    failed = [outcome for outcome in outcomes if outcome.failed is not None]
    of_orig = [outcome for outcome in failed if outcome.job.directory == tree.orig]
    originals.check(
        of_orig, {o.job.name: f"the kernel's own {o.job.name} does not compile" for o in of_orig}
    )
    if not failed:
        return
    # Once more without #line, so that the compiler's numbers are those of the patched file.
    for file in applied.files:
        if file.plain != file.patched:
            twin.replace(tree, file.path, file.plain)
    again = run_all([failed[0].job], parallel=1, finished=lambda outcome: None)
    told = again if again[0].failed is not None else failed[:1]
    name = failed[0].job.name
    what = f"{name} does not compile with the patch (it does without)"
    hint = "mend the patch; the original file compiles with the same command"
    originals.check([*told, *failed[1:]], {o.job.name: what for o in failed}, hint)


def dependency_file(directory: Path, source: str) -> Path:
    """What `-Wp,-MMD` writes beside the object."""
    path = PurePosixPath(source)
    return directory / path.parent / f".{path.stem}.o.d"


def _is_affected(tree: Tree, plan: Plan, source: str) -> bool:
    """Whether a unit that may include a touched header really reads it, before or after."""
    if source not in plan.via_header:
        return True
    command = originals.command(tree, source)
    before = command.dependencies if command else ()
    file = dependency_file(tree.patched, source)
    after = parse_dependencies(read_text(file)) if file.exists() else ()
    return any(_normal(path) in plan.headers for path in (*before, *after))


def _normal(path: str) -> str:
    """a/b/../c -> a/c: kbuild's dependency lists are as written in #include lines."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == ".." and parts:
            parts.pop()
        elif part not in (".", ""):
            parts.append(part)
    return "/".join(parts)


def keep(
    tree: Tree, units: Sequence[Membership], variant: Variant, workdir: Workdir, key: str
) -> None:
    """Copies the objects of both trees into their stages."""
    with workdir.running(ORIG_STAGE, key) as folder:
        for unit in units:
            copy_object(stored(tree, variant, unit.source), folder / object_path(unit.source))
    with workdir.running(PATCHED_STAGE, key) as folder:
        for unit in units:
            name = object_path(unit.source)
            copy_object(tree.patched / name, folder / name)


def copy_object(made: Path, kept: Path) -> None:
    """Copies a compiled object into a stage. Raises ResourceError."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(made, kept)
    except OSError as exc:
        raise os_failure("keep", kept, exc) from exc


def pair_of(unit: Membership, workdir: Workdir) -> UnitPair:
    """A compiled unit, with its objects in the stages."""
    path = unit.modules[0] if unit.fate is Fate.MODULE else ""
    name = object_path(unit.source)
    return UnitPair(
        source=unit.source,
        module=path.rsplit("/", 1)[-1].replace("-", "_") if path else "vmlinux",
        module_path=path,
        orig=workdir.stage(ORIG_STAGE) / name,
        patched=workdir.stage(PATCHED_STAGE) / name,
    )


def record(workdir: Workdir, pairs: Sequence[UnitPair]) -> None:
    """Writes the pairs down, with paths relative to the work folder."""
    rows = [asdict(pair) for pair in pairs]
    for row in rows:
        for side in ("orig", "patched"):
            row[side] = str(row[side].relative_to(workdir.root))
    atomic_write(workdir.stage(PATCHED_STAGE) / RECORD, json.dumps(rows, indent=1))


def compiled_before(
    workdir: Workdir, key: str, monitor: Monitor, max_units: int | None = None
) -> tuple[UnitPair, ...] | None:
    """The pairs of both stages if they are complete for `key` and no more than `max_units`."""
    if not (workdir.is_done(ORIG_STAGE, key) and workdir.is_done(PATCHED_STAGE, key)):
        return None
    pairs = _load_record(workdir)
    if pairs is None or (max_units is not None and len(pairs) > max_units):
        return None
    monitor.emit(Note(f"compiled before: {counted(len(pairs), 'unit')} in {workdir.root}"))
    return pairs


def _load_record(workdir: Workdir) -> tuple[UnitPair, ...] | None:
    """The pairs of an earlier run; None when the record or an object is gone."""
    try:
        rows: list[Mapping[str, str]] = json.loads(
            (workdir.stage(PATCHED_STAGE) / RECORD).read_text()
        )
        pairs = [
            UnitPair(
                source=row["source"],
                module=row["module"],
                module_path=row["module_path"],
                orig=workdir.root / row["orig"],
                patched=workdir.root / row["patched"],
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError):
        return None
    if not all(pair.orig.exists() and pair.patched.exists() for pair in pairs):
        return None
    return tuple(pairs)
