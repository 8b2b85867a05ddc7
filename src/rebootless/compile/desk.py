"""A place of one's own at a prepared tree, for one of several who build many patches there.

    cache/trees/RELEASE-FINGERPRINT/desks/N/
        patched/    hard links to orig, as the tree's own twin
        scratch/    emptied for each owner
        journal     see twin.py
        lock        held by whoever sits at the desk

All share the source and the compiled originals. An original is compiled in the desk's twin, by
the command that kbuild would run (commands.py), and is the same byte for byte as kbuild's own. A
desk is left for the next one when its owner goes, or is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..base import proc
from ..base.errors import CompileError
from ..base.events import NullMonitor
from ..base.fs import atomic_write, locked, os_failure, read_text, remove_tree
from ..base.workdir import Workdir
from ..elf.reader import read as read_elf
from ..patch.source import SourcePatch
from . import commands, originals, twin, versions
from .kbuild import Command, Kbuild, Membership, parse_dependencies
from .originals import Variant, object_path, stored
from .runner import Job, Outcome, run_all
from .tree import Tree
from .unit import UnitPair, Way, build_pairs, dependency_file

FOLDER = "desks"
MADE = ".complete"
SCRATCH = "scratch"
EXPORTED = ("__ksymtab_", "__export_symbol_")  # the latter since 6.4


@contextlib.contextmanager
def taken(tree: Tree) -> Iterator[Desk]:
    """A desk of the tree for the time of the block: a free one, or a new one (5 s).

    Raises ResourceError when it cannot be made.
    """
    number, descriptor = _claim(tree.root / FOLDER)
    try:
        folder = tree.root / FOLDER / str(number)
        mine = replace(tree, desk=folder)
        if not (folder / MADE).exists():
            remove_tree(mine.patched)
            proc.run(["cp", "-al", tree.orig, mine.patched])
            atomic_write(folder / MADE, "")
        twin.restore(mine)
        remove_tree(folder / SCRATCH)
        yield Desk(mine)
        remove_tree(folder / SCRATCH)
    finally:
        os.close(descriptor)


def _claim(folder: Path) -> tuple[int, int]:
    """The number of the first desk that is free, and the descriptor that holds it."""
    number = 0
    while True:
        path = folder / str(number) / "owner"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise os_failure("take", path, exc) from exc
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_worked_at(path.parent):
                return number, descriptor
        except BlockingIOError:
            pass
        os.close(descriptor)
        number += 1


def _is_worked_at(folder: Path) -> bool:
    """Whether a compiler still runs there, whose owner was killed."""
    twin_folder = str((folder / "patched").resolve())
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if str(link.readlink()).startswith(twin_folder):
                return True
    return False


class Desk(Way):
    """Compiles the units of one patch after the other.

    `seconds` is how long compilers have run so far, originals and patched units together.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.kbuild = Kbuild(tree.orig, tree.toolchain)
        self.seconds = 0.0

    @property
    def scratch(self) -> Path:
        """Room for what need not outlast whoever sits here."""
        return self.tree.bench / SCRATCH

    def pairs(
        self,
        patch: SourcePatch,
        workdir: Workdir,
        *,
        max_units: int,
        among: frozenset[str] | None = None,
    ) -> tuple[UnitPair, ...]:
        """The objects of the units that `patch` changes. Raises what `build_pairs` does."""
        return build_pairs(
            self.tree,
            patch,
            workdir,
            NullMonitor(),
            jobs=1,
            max_units=max_units,
            kbuild=self.kbuild,
            among=among,
            way=self,
        )

    def ask_about(self, sources: Sequence[str]) -> None:
        """Asks kbuild about all units to come, at once; those that are off are passed over."""
        unknown = [source for source in sources if not self._is_known(source)]
        if not unknown:
            return
        with locked(self.tree.root / FOLDER / "asking"):  # who waited finds all answered
            unknown = [source for source in unknown if not self._is_known(source)]
            members = [m for m in map(self.kbuild.membership_if_built, unknown) if m is not None]
            commands.ask(self.tree, members)

    def _is_known(self, source: str) -> bool:
        known = originals.command(self.tree, source) is not None
        return known or commands.path_of(self.tree, source).exists()

    def learn(self, tree: Tree, units: Sequence[Membership], *, jobs: int) -> None:
        """Compiles the originals that are missing; by kbuild where its command alone will not do.

        Raises CompileError.
        """
        self.ask_about([unit.source for unit in units])
        missing = [u for u in units if not self._is_made(u.source)]
        left = [unit for unit in missing if not self._compile(unit.source)]
        if left:
            with locked(tree.root / "lock"):
                originals.learn(tree, left, jobs=jobs)
        for unit in units:
            known = originals.command(tree, unit.source)
            self._link_generated(known.dependencies if known else ())

    def compiled(self, outcome: Outcome) -> None:
        """Counts its seconds."""
        self.seconds += outcome.seconds

    def _is_made(self, source: str) -> bool:
        made = stored(self.tree, Variant(), source).exists()
        return made and originals.command(self.tree, source) is not None

    def _compile(self, source: str) -> bool:
        """Compiles one original and keeps it with its command; False if kbuild has to do it."""
        how = originals.command(self.tree, source)
        text = commands.path_of(self.tree, source)
        if how is not None:
            self._link_generated(how.dependencies)
        elif (how := commands.asked(self.tree, source)) is None or not how.steps:
            return False
        job = originals.job_of(self.tree, self.tree.patched, source, how, Variant())
        with twin.installed(self.tree, {}, self._outputs(source)):
            if not self._succeeds(job):
                return False
            if text.exists():
                self._record(source, how, read_text(text))
            originals.place(
                self.tree.patched / object_path(source), stored(self.tree, Variant(), source)
            )
        return True

    def _succeeds(self, job: Job) -> bool:
        (outcome,) = run_all([job], parallel=1, finished=self.compiled)
        return outcome.failed is None and (self.tree.patched / object_path(job.name)).exists()

    def _outputs(self, source: str) -> list[str]:
        scratch = dependency_file(self.tree.patched, source).relative_to(self.tree.patched)
        return [object_path(source), str(scratch)]

    def _record(self, source: str, how: Command, text: str) -> None:
        """Writes the .cmd file that kbuild would have left, as far as it is read here."""
        dependencies = parse_dependencies(read_text(dependency_file(self.tree.patched, source)))
        found = replace(how, versions=self._versions(source, how))
        name = object_path(source)
        record = commands.record(found, text, dependencies, name)
        atomic_write(originals.command_path(self.tree, source), record)

    def _versions(self, source: str, how: Command) -> Mapping[str, int]:
        """The CRCs of what the unit exports; none without modversions."""
        if not (self.tree.orig / versions.GENKSYMS).exists():
            return {}
        elf = read_elf(self.tree.patched / object_path(source))
        if not any(name.startswith(EXPORTED) for name in elf.symbols.names):
            return {}
        try:
            return versions.crcs(self.tree, source, how)
        except CompileError:
            return {}

    def _link_generated(self, dependencies: Sequence[str]) -> None:
        """Puts into the twin what kbuild has generated in the source since the desk was made."""
        for name in dependencies:
            original, here = self.tree.orig / name, self.tree.patched / name
            if not name.startswith("/") and not here.exists() and original.exists():
                here.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    here.hardlink_to(original)
