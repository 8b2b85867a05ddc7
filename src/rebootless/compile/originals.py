"""Objects of the unpatched units, compiled once per tree and kept, with their commands.

    objects/VARIANT/fs/ext4/mballoc.o        the object
    objects/commands-g/fs/ext4/mballoc.cmd   kbuild's own record of how it is made

The first time kbuild compiles a unit; from then on its command is run directly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..base import proc
from ..base.errors import CompileError
from ..base.fs import os_failure, read_text
from . import kbuild
from .kbuild import Command, Membership
from .runner import Job, Outcome
from .tree import SECTION_FLAGS, Tree

ERROR_LINE = re.compile(r"^[^\s:][^:\n]*:\d+(:\d+)?: (fatal )?error: |^.*: error: ", re.MULTILINE)
SHOWN_LINES = 16
NOT_OURS = "the compiler, the configuration or the source is not the kernel's own"


@dataclass(frozen=True)
class Variant:
    """How units are compiled: each function in a section of its own, or as the kernel's maker did.

    Both come with debug information.
    """

    sections: bool = True

    @property
    def name(self) -> str:
        """The folder of the variant's objects."""
        return "sections-g" if self.sections else "plain-g"

    def adapt(self, step: Sequence[str]) -> tuple[str, ...]:
        """The compiler's arguments for this variant."""
        dropped = () if self.sections else SECTION_FLAGS
        return tuple(word for word in step if word not in dropped)


def object_path(source: str) -> str:
    """The object of a unit, relative to the tree."""
    return str(PurePosixPath(source).with_suffix(".o"))


def stored(tree: Tree, variant: Variant, source: str) -> Path:
    """Where the object of an original unit is kept."""
    return tree.objects / variant.name / object_path(source)


def command(tree: Tree, source: str) -> Command | None:
    """How a unit is compiled; None before kbuild compiled it once."""
    path = command_path(tree, source)
    return kbuild.parse_command(read_text(path), source) if path.exists() else None


def command_path(tree: Tree, source: str) -> Path:
    """Where kbuild's record of how a unit is compiled is kept."""
    return tree.objects / "commands-g" / PurePosixPath(source).with_suffix(".cmd")


def steps(command: Command, variant: Variant) -> tuple[tuple[str, ...], ...]:
    """The programs that compile a unit; a shell when kbuild's line needs one."""
    if command.steps:
        return (variant.adapt(command.steps[0]), *command.steps[1:])
    return (("sh", "-c", " ".join(variant.adapt(command.line.split(" ")))),)


def job(tree: Tree, directory: Path, source: str, variant: Variant) -> Job:
    """The compilation of one unit in `directory` (`orig` or its twin)."""
    found = command(tree, source)
    if found is None:
        raise CompileError(f"kbuild left no command for {source}")
    return job_of(tree, directory, source, found, variant)


def job_of(tree: Tree, directory: Path, source: str, how: Command, variant: Variant) -> Job:
    """The same by a given command. The twin of a desk stands where the tree's own is named."""
    known, here = (f"-fdebug-prefix-map={path}=." for path in (tree.root / "patched", tree.patched))
    adapted = tuple(
        tuple(tree.inside([word.replace(known, here) for word in step]))
        for step in steps(how, variant)
    )
    return Job(source, directory, adapted)


def learn(tree: Tree, units: Sequence[Membership], *, jobs: int) -> None:
    """Has kbuild compile the units whose commands are not known yet, and keeps the objects.

    Raises CompileError with the compiler's lines.
    """
    unknown = [unit for unit in units if not command_path(tree, unit.source).exists()]
    if not unknown:
        return
    targets = [unit.target for unit in unknown]
    result = proc.run(tree.make_units("-k", *targets, jobs=jobs), check=False)
    failed = [unit for unit in unknown if not _take(tree, unit.source)]
    if failed:
        output = result.stdout + "\n" + result.stderr
        if (full := proc.out_of_space(output, tree.root)) is not None:
            raise full
        names = ", ".join(unit.source for unit in failed[:3])
        raise CompileError(
            f"the kernel's own {names} does not compile:\n{error_lines(output)}",
            hint=NOT_OURS,
        )


def _take(tree: Tree, source: str) -> bool:
    """Moves an object that kbuild made, and its command, out of the tree; False if there is none.

    Files that kbuild generated for it on the way are linked into the twin.
    """
    made = tree.orig / object_path(source)
    record = kbuild.command_file(tree.orig, source)
    if not (made.exists() and record.exists()):
        return False
    for name in kbuild.parse_command(read_text(record), source).dependencies:
        original, twin = tree.orig / name, tree.patched / name
        if not name.startswith("/") and original.exists() and not twin.exists():
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.hardlink_to(original)
    place(made, stored(tree, Variant(), source))
    place(record, command_path(tree, source))
    return True


def place(made: Path, kept: Path) -> None:
    """Moves a finished file to where it is kept."""
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        made.replace(kept)
    except OSError as exc:
        raise os_failure("keep", kept, exc) from exc


def check(outcomes: Sequence[Outcome], what: Mapping[str, str], hint: str = NOT_OURS) -> None:
    """Raises CompileError for the failed outcomes; `what` says by job name what was compiled.

    The command line is left out: it is a screen long, and what it compiled is gone from the twin.
    """
    failed = [outcome for outcome in outcomes if outcome.failed is not None]
    if failed:
        first = failed[0]
        assert first.failed is not None
        if (full := proc.out_of_space(first.output, first.job.directory)) is not None:
            raise full
        lines = error_lines(first.output) or f"  {' '.join(first.failed[:2])} failed without a word"
        count = len(failed) - 1
        more = f" (and {count} more unit{'s' if count > 1 else ''})" if count else ""
        raise CompileError(
            f"{what[first.job.name]}{more}:\n{lines}",
            hint=hint,
        )


def error_lines(output: str) -> str:
    """The compiler's first errors with the source lines that it shows, for a message."""
    found: list[str] = []
    for line in output.splitlines():
        if ERROR_LINE.match(line) or (found and re.match(r"^\s+(\d+)? \|", line)):
            found.append(line)
        if len(found) >= SHOWN_LINES:
            break
    lines = found or output.strip().splitlines()[-SHOWN_LINES:]
    return "\n".join("  " + line for line in lines)
