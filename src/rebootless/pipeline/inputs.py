"""What a build starts from: patches, compared by their objects; or C files, which say it all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import PatchInputError
from ..compile.inplace import build_in_place
from ..compile.tree import Tree
from ..compile.unit import UnitPair, build_pairs
from ..diff import Delta, diff
from ..diff.handwritten import handwritten
from ..elf.model import ElfFile
from ..patch import csource
from ..patch.source import SourcePatch, load
from .external import ExternalModule, compile_external
from .job import Job


@dataclass(frozen=True)
class Inputs:
    """The patches joined; or the C files (`written`), with what is known of them as a patch.

    `external` says that the patches are of an out-of-tree module.
    """

    patch: SourcePatch
    written: tuple[csource.CSource, ...] = ()
    external: ExternalModule | None = None


def read_inputs(
    paths: Sequence[Path], *, from_source: bool, external: ExternalModule | None
) -> Inputs:
    """Reads patches or C files. Raises PatchInputError, NotFoundError."""
    if not csource.is_c(paths):
        if from_source and external is not None:
            raise PatchInputError(
                "--from-source works on the kernel's own units, not on an out-of-tree module's",
                hint="build the patch without --from-source",
            )
        return Inputs(load(paths), external=external)
    if from_source:
        raise PatchInputError(
            "--from-source is for patches; C files are source already",
            hint="build the C files without it",
        )
    if external is not None:
        raise PatchInputError(
            "a C file cannot be built for an out-of-tree module",
            hint="give a unified diff of the module's source",
        )
    written = csource.load(paths)
    return Inputs(csource.as_patch(written), written)


def compiled(
    job: Job, inputs: Inputs, tree: Tree, max_units: int
) -> tuple[Job, tuple[UnitPair, ...]]:
    """The touched units' objects, and the job with what was learned of the kernel.

    Raises CompileError and what else `build` does.
    """
    if inputs.written:
        return job, build_in_place(tree, inputs.written, job.work, job.monitor)
    if inputs.external is not None:
        return compile_external(job, tree, inputs.external, max_units=max_units)
    return job, build_pairs(tree, inputs.patch, job.work, job.monitor, max_units=max_units)


def delta_of(job: Job, pair: UnitPair, orig: ElfFile, patched: ElfFile) -> Delta:
    """What a pair says: by comparison, or by the records of a hand-written file."""
    return diff(orig, patched) if job.patch.files else handwritten(orig, patched, pair.module)
