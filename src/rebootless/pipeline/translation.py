"""An update of the distribution as live patches: planned, built part by part, combined, tested.

    plan ──▶ candidates ──workers──▶ results and parts, kept by content
                 ──conflicts──▶ unions ──link──▶ one cumulative bundle ──QEMU──▶ tested

Interrupted at any time, the next run goes on where this one was: nothing is built twice.
"""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..base.errors import MismatchError, RebootlessError, WrongKernelError
from ..base.events import ItemDone, Monitor, Note, stage
from ..base.fs import read_bytes
from ..base.words import counted
from ..base.workdir import Workdir
from ..compile.tree import Tree
from ..translate import blocks
from ..translate.estimate import Estimate, weight
from ..translate.merge import merged
from ..translate.model import Candidate, Cause, Outcome, Result, key_of
from ..translate.parts import conflicts
from ..translate.store import Store, is_kept, rules, unpacked
from . import cluster
from .candidate import LACKING
from .cluster import Where
from .combining import Combined, Combiner, readable
from .kernel import ShippedKernel
from .worker import Order

IN_VAIN = 5  # candidates in a row for which a machine fails: it will for the others
ROUNDS = 4  # unions may meet others; more rounds than this have not been seen
FATAL = (MismatchError, WrongKernelError)  # of a worker that cannot do the work at all


@dataclass(frozen=True)
class Settings:
    """How to do it; nothing here changes what comes of a candidate but `max_units`.

    `results` is where they are kept, by default in the cache.
    """

    where: Where = field(default_factory=Where)
    suites: tuple[str, ...] = ()
    max_units: int = 60
    test: bool = True
    results: Path | None = None


@dataclass(frozen=True)
class Built:
    """What became of each candidate, in their order, and the bundle of those safe together.

    The `candidates` are those that were given, but for some that did not compile alone.
    `known` says how many results were there before; `unions` are candidates that had to be built
    as one since they change the same function, by the key of the union.
    """

    candidates: tuple[Candidate, ...]
    results: tuple[Result, ...]
    combined: Combined
    known: int
    unions: Mapping[str, tuple[str, ...]]


class Translation:
    """The candidates of one kernel, on their way to a bundle."""

    def __init__(
        self,
        kernel: ShippedKernel,
        tree: Tree,
        settings: Settings,
        monitor: Monitor,
        toolchain: str = "",
    ) -> None:
        self.kernel = kernel
        self.tree = tree
        self.settings = settings
        self.monitor = monitor
        self.toolchain = toolchain
        self.store = Store(settings.results)

    def run(self, candidates: Sequence[Candidate], name: str, output: Path) -> Built:
        """Builds all candidates, and the bundle `output` of those that work together.

        Raises NotFoundError (no scheduler, no worker), MismatchError (another version on a worker),
        ResourceError. Whatever is wrong with one candidate is in its result.
        """
        results, known = self.results(candidates)
        candidates = self._completed(candidates, results)
        live = [c for c in candidates if results[c.key].outcome is Outcome.LIVE_PATCH]
        chosen, unions, apart = self._without_conflicts(live)
        combined = self._combine(chosen, name, output)
        found = dict(results)
        for key, why in (*apart.items(), *combined.excluded.items()):
            for member in unions.get(key, (key,)):
                found[member] = _failed(found[member], why)
        for key in combined.keys if combined.test else ():
            for member in unions.get(key, (key,)):
                found[member] = replace(found[member], test="passed")
        done = tuple(found[c.key] for c in candidates)
        return Built(tuple(candidates), done, combined, known, unions)

    def results(self, candidates: Sequence[Candidate]) -> tuple[dict[str, Result], int]:
        """What becomes of each candidate, by key; and how many were known before."""
        found: dict[str, Result] = {}
        for candidate in candidates:
            known = self.store.result(candidate.key)
            if known is not None and self.store.has(candidate.key):
                found[candidate.key] = known
        before = len(found)
        missing = sorted((c for c in candidates if c.key not in found), key=lambda c: c.units)
        if before:
            self.monitor.emit(Note(f"{before} of {counted(len(candidates), 'part')} built before"))
        if missing:
            title = f"Building {counted(len(missing), 'part')} of the update"
            with stage(self.monitor, "translate", title) as shown:
                self._build(missing, found)
                live = sum(found[c.key].outcome is Outcome.LIVE_PATCH for c in missing)
                shown.result = f"{live} can be applied live"
        return found, before

    def _completed(
        self, candidates: Sequence[Candidate], results: dict[str, Result]
    ) -> list[Candidate]:
        """Candidates that did not compile alone are built with those that bring what they lack.

        Adds to `results`. A candidate that compiles so takes the place of the one that did not.
        """
        chosen = {c.key: c for c in candidates}
        for _ in range(ROUNDS):
            made: dict[str, Candidate] = {}
            for candidate in chosen.values():
                result = results[candidate.key]
                lacks = [told.symbol for told in result.findings if told.code == LACKING]
                if result.cause is Cause.NOT_COMPILING and lacks:
                    whole = merged(
                        candidates, candidate, lacks, self._old, self.kernel.image.build_id
                    )
                    if whole is not None and whole.key not in results:
                        made[candidate.key] = whole
            if not made:
                break
            note = f"{counted(len(made), 'part')} did not compile alone: with what they lack"
            self.monitor.emit(Note(note))
            found, _known = self.results(list({c.key: c for c in made.values()}.values()))
            results.update(found)
            chosen = {(n := made.get(k, c)).key: n for k, c in chosen.items()}
        return list(chosen.values())

    def _old(self, path: str) -> str:
        file = self.tree.orig / path
        return read_bytes(file).decode(errors="surrogateescape") if file.is_file() else ""

    def _build(self, missing: Sequence[Candidate], found: dict[str, Result]) -> None:
        """Has workers build what is missing; each result is kept as soon as it is there."""
        weights = {c.key: weight(self._sizes(c.units)) for c in missing}
        estimate = Estimate(sum(weights.values()))
        started = time.monotonic()
        in_vain = 0

        def ended(candidate: Candidate, outcome: bytes | RebootlessError) -> None:
            nonlocal in_vain
            in_vain = 0 if isinstance(outcome, bytes) else in_vain + 1
            if isinstance(outcome, FATAL) or (
                in_vain == IN_VAIN and not isinstance(outcome, bytes)
            ):
                raise outcome
            found[candidate.key] = result = self._taken(candidate, outcome)
            estimate.finished(weights[candidate.key])
            left = estimate.remaining(time.monotonic() - started)
            done = estimate.items
            self.monitor.emit(ItemDone("translate", told(candidate, result), done, len(missing),
                                       left if done < len(missing) else None))  # fmt: skip

        order = Order(
            self.kernel.files.release,
            self.kernel.image.build_id,
            rules(),
            self.settings.suites,
            self.settings.max_units,
            str(self.settings.results.absolute()) if self.settings.results else "",
        )
        compiler = self.kernel.files.compiler
        cluster.run(missing, order, self.settings.where, compiler, ended)

    def _taken(self, candidate: Candidate, outcome: bytes | RebootlessError) -> Result:
        """Keeps a worker's answer; a failure of the machine is told, and not kept."""
        if isinstance(outcome, bytes):
            if (result := unpacked(outcome)) is not None and result.key == candidate.key:
                if is_kept(result):
                    self.store.put_packed(candidate.key, outcome)
                return result
            outcome = RebootlessError("the worker's answer cannot be read")
        return Result(
            candidate.key, Outcome.FAILED, Cause.ERROR, outcome.message, outcome.hint or ""
        )

    def _sizes(self, units: Iterable[str]) -> list[int]:
        paths = [self.tree.orig / unit for unit in units]
        return [path.stat().st_size for path in paths if path.is_file()]

    def _without_conflicts(
        self, live: Sequence[Candidate]
    ) -> tuple[list[Candidate], dict[str, tuple[str, ...]], dict[str, str]]:
        """Candidates that can be in one module: those that change the same function become one.

        Returns them, the members of each union by its key, and by key why others have to stay out.
        """
        chosen = {c.key: c for c in live}
        unions: dict[str, tuple[str, ...]] = {}
        apart: dict[str, str] = {}
        part_of = readable(self.store.part)
        for _ in range(ROUNDS):
            groups = conflicts({key: part_of(key).redirects for key in chosen})
            if not groups:
                return list(chosen.values()), unions, apart
            note = (
                f"{counted(len(groups), 'group')} of parts change the same functions: as one each"
            )
            self.monitor.emit(Note(note))
            made = {self._union([chosen[key] for key in group]): group for group in groups}
            results, _known = self.results(list(made))
            for union, group in made.items():
                result = results[union.key]
                members = [m for key in group for m in unions.pop(key, (key,))]
                if result.outcome is Outcome.LIVE_PATCH:
                    unions[union.key] = tuple(members)
                    chosen[union.key] = union
                else:
                    why = (
                        f"it changes a function that another part changes; as one: {result.message}"
                    )
                    apart.update(dict.fromkeys(members, why))
                for key in group:
                    del chosen[key]
        left = {
            key for group in conflicts({k: part_of(k).redirects for k in chosen}) for key in group
        }
        for key in left:
            del chosen[key]
            apart.update(dict.fromkeys(unions.get(key, (key,)), "it keeps meeting other parts"))
        return list(chosen.values()), unions, apart

    def _union(self, members: Sequence[Candidate]) -> Candidate:
        """One candidate that does what several do."""
        paths = tuple(dict.fromkeys(path for c in members for path in c.paths))
        diff = blocks.joined([c.diff for c in members], {path: self._old(path) for path in paths})
        readers = {unit for c in members for unit in c.readers}
        touched = {unit for c in members for unit in c.units if unit not in c.readers}
        return Candidate(
            key_of(diff, self.kernel.image.build_id),
            " + ".join(c.title for c in members),
            paths,
            tuple(dict.fromkeys(unit for c in members for unit in c.units)),
            diff,
            tied=tuple(dict.fromkeys(tied for c in members for tied in c.tied)),
            readers=tuple(sorted(readers - touched)),
        )

    def _combine(self, chosen: Sequence[Candidate], name: str, output: Path) -> Combined:
        folder = output.parent / f".{output.stem}.work"
        work = Workdir(folder.absolute())
        combiner = Combiner(
            self.kernel,
            self.tree,
            name,
            work,
            chosen,
            readable(self.store.part),
            self.store.folder / "verdicts",
            self.monitor,
            self.toolchain,
        )
        with work.locked(self.monitor):
            return combiner.combine(output, test=self.settings.test)


def told(candidate: Candidate, result: Result) -> str:
    """One line on what became of a candidate."""
    what = {
        Outcome.LIVE_PATCH: f"live patch of {counted(len(result.functions), 'function')}",
        Outcome.NO_EFFECT: "no effect",
        Outcome.REBOOT: "needs a reboot",
        Outcome.FAILED: "failed",
    }[result.outcome]
    cause = f" ({result.cause.value})" if result.cause is not Cause.NONE else ""
    seconds = result.seconds_compile + result.seconds_ours
    return f"{candidate.title}: {what}{cause}, {seconds:.1f} s"


def selected(
    candidates: Sequence[Candidate], only: Sequence[str], limit: int | None
) -> tuple[Candidate, ...]:
    """Those with a path that a pattern matches (all without patterns), `limit` at most."""
    wanted = [
        c
        for c in candidates
        if not only or any(fnmatch.fnmatchcase(p, o) for p in (*c.paths, *c.units) for o in only)
    ]
    return tuple(wanted[:limit])


def _failed(result: Result, why: str) -> Result:
    return replace(
        result,
        outcome=Outcome.FAILED,
        cause=Cause.TEST_FAILED,
        message=why,
        advice="a person has to look at it: `rebootless build` and `test` take its diff alone",
        test="failed",
    )
