"""Compiles hand-written C files, each in the place of a unit of the kernel.

The file takes the unit's path in the twin tree for as long as the compiler runs: it gets the unit's
flags, its `#include` paths, and objtool, and nothing has to be said anew. A `#line` makes messages
name the author's file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..base.errors import PatchInputError
from ..base.events import Monitor, stage
from ..base.workdir import Workdir, fingerprint
from ..patch.csource import CSource
from . import originals, twin
from .kbuild import Membership
from .locate import compiled_unit, defining_unit
from .originals import Variant
from .runner import run_all
from .tree import Tree
from .unit import (
    UnitPair,
    author_headers,
    compiled_before,
    finish_originals,
    keep,
    original_jobs,
    pair_of,
    record,
    scratch_files,
)


@dataclass(frozen=True)
class Placed:
    """A C file and the unit in whose place it is compiled."""

    source: CSource
    unit: Membership


def build_in_place(
    tree: Tree, sources: Sequence[CSource], workdir: Workdir, monitor: Monitor, *, jobs: int = 2
) -> tuple[UnitPair, ...]:
    """Compiles each C file, and the unit as shipped, into the stages 1-orig and 2-patched.

    Does nothing when the stages are complete for the same inputs. Raises PatchInputError (two files
    for one unit), NotFoundError (no such unit), CompileError with lines of the author's file.
    """
    variant = Variant()
    texts = [part for s in sources for part in (s.name, s.text)]
    key = fingerprint("in-place-1", str(tree.root), *texts, *author_headers().values())
    if (made := compiled_before(workdir, key, monitor)) is not None:
        return made
    with tree.locked(monitor):
        twin.restore(tree)
        with stage(monitor, "plan", "Looking for the replaced functions") as report:
            placed = [Placed(source, _place(tree, source)) for source in sources]
            _check(placed)
            report.result = ", ".join(p.unit.source for p in placed)
        with stage(monitor, "compile", "Compiling the C files and the units they replace"):
            units = [p.unit for p in placed]
            originals.learn(tree, units, jobs=jobs)
            finish_originals(original_jobs(tree, units, variant), tree, variant, jobs)
            with twin.installed(tree, _contents(placed), scratch_files(tree, units)):
                _compile(tree, placed, jobs)
                keep(tree, units, variant, workdir, key)
            pairs = tuple(pair_of(unit, workdir) for unit in units)
            record(workdir, pairs)
    return pairs


def _place(tree: Tree, source: CSource) -> Membership:
    if source.unit:
        return compiled_unit(tree, source.unit)
    first = source.replacements[0]
    try:
        return defining_unit(tree, first.old, owner=first.object)
    except PatchInputError as exc:
        raise PatchInputError(
            f"{source.name}: {exc.message}", hint='say which with REBOOTLESS_UNIT("PATH");'
        ) from exc


def _check(placed: Sequence[Placed]) -> None:
    seen: dict[str, str] = {}
    for entry in placed:
        unit, name = entry.unit.source, entry.source.name
        if unit in seen:
            raise PatchInputError(
                f"{seen[unit]} and {name} both replace functions of {unit}",
                hint="put them into one file",
            )
        seen[unit] = name


def _contents(placed: Sequence[Placed]) -> dict[str, bytes | None]:
    """What the twin tree has instead of the units, and the headers."""
    contents: dict[str, bytes | None] = {**author_headers()}
    for entry in placed:
        line = f'#line 1 "{entry.source.name}"\n'.encode()
        contents[entry.unit.source] = line + entry.source.text
    return contents


def _compile(tree: Tree, placed: Sequence[Placed], jobs: int) -> None:
    compilations = [originals.job(tree, tree.patched, p.unit.source, Variant()) for p in placed]
    outcomes = run_all(compilations, parallel=jobs, finished=lambda outcome: None)
    names = {p.unit.source: p.source.name for p in placed}
    originals.check(
        outcomes,
        {unit: f"{name} does not compile in the place of {unit}" for unit, name in names.items()},
        "it is compiled as a part of the kernel, with the flags of "
        + ", ".join(PurePosixPath(unit).name for unit in names),
    )
