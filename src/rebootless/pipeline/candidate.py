"""One part of an update after the other, built at a desk: the shipped kernel is read once.

A candidate goes through every stage of `building` but the link: compiled, compared, proven,
checked, resolved. What that leaves is kept (translate.store), and linked with others later.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base.collector import seldom_collected
from ..base.errors import (
    CommandError,
    CompileError,
    NotFoundError,
    RebootlessError,
    RefusedError,
    ResourceError,
)
from ..base.events import NullMonitor, RecordingMonitor
from ..base.workdir import Workdir
from ..compile.desk import Desk
from ..match import Shipped
from ..module.resolve import VMLINUX
from ..patch.source import combine, parse
from ..translate.model import Candidate, Function, Result, Told
from ..translate.outcome import judged
from ..translate.parts import NO_ADDRESS, Called, Part, PartUnit, Redirected
from . import building, telling
from .artifact import evidence
from .checking import check
from .fitting import fitted
from .job import Job, Unit
from .kernel import ShippedKernel
from .linking import patched_functions

NAME = "rebootless_translated"
# Failures of this machine, which say nothing of the candidate.
PASSING = (ResourceError, CommandError, NotFoundError)
KEPT_MODULES = 8
LAYOUT = "layout-changed"
LACKING = "missing-symbol"
QUOTED = re.compile(r"'(?:struct |union |enum )?([A-Za-z_]\w*)'")


class Builder:
    """Builds candidates for one kernel at one desk."""

    def __init__(self, kernel: ShippedKernel, desk: Desk, scratch: Path, *, max_units: int) -> None:
        self.kernel = kernel
        self.desk = desk
        self.scratch = scratch
        self.max_units = max_units

    def build(self, candidate: Candidate) -> tuple[Result, Part | None]:
        """What becomes of a candidate, with what there is to link if it can be applied.

        Raises ResourceError, CommandError and NotFoundError for what says nothing of the candidate.
        """
        started, compiled = time.monotonic(), self.desk.seconds
        job = self._job(candidate)
        units: list[Unit] = []
        failure: RebootlessError | None = None
        part = None
        try:
            with seldom_collected():
                units = self._stages(job, candidate)
                part = part_of(candidate.key, units, self.kernel)
        except PASSING:
            raise
        except RebootlessError as exc:
            failure = exc
        finally:
            shutil.rmtree(job.work.root, ignore_errors=True)
            self.kernel.forget(KEPT_MODULES)
        seconds = self.desk.seconds - compiled
        result = judged(candidate, failure, job.warnings, _functions(part))
        result = replace(
            result,
            findings=(*result.findings, *_lacking(failure)),
            units=tuple(u.source for u in part.units) if part else candidate.units,
            seconds_compile=round(seconds, 3),
            seconds_ours=round(max(0.0, time.monotonic() - started - seconds), 3),
        )
        return result, part

    def _job(self, candidate: Candidate) -> Job:
        patch = combine([parse(candidate.patch, candidate.key)])
        return Job(
            NAME,
            "1",
            patch,
            self.kernel,
            True,
            candidate.cves,
            Workdir(self.scratch / candidate.key),
            RecordingMonitor(NullMonitor()),
            tree=self.desk.tree,
        )

    def _stages(self, job: Job, candidate: Candidate) -> list[Unit]:
        """The stages of a build, without the link. Raises what `pipeline.build` does.

        What is refused for a layout is tried again with its new members in free bytes.
        """
        among = frozenset(candidate.units)  # the plan knows who has code of what changes
        pairs = self.desk.pairs(job.patch, job.work, max_units=self.max_units, among=among)
        try:
            return self._judged(replace(job, pairs=pairs), candidate)
        except RefusedError as exc:
            codes = {getattr(refusal, "code", "") for refusal in exc.refusals}
            if LAYOUT not in codes:
                raise
            better = fitted(job.patch, self.desk.tree, pairs, job.monitor)
            if better is None:
                raise
            try:
                pairs = self.desk.pairs(better, job.work, max_units=self.max_units, among=among)
                return self._judged(replace(job, patch=better, pairs=pairs), candidate)
            except (RefusedError, CompileError):
                raise exc from None  # it says more than what came of moving members

    def _judged(self, job: Job, candidate: Candidate) -> list[Unit]:
        """The stages after the compiler."""
        units = building.matched(job, building.differing(job, job.pairs))
        telling.judge(job, check(job, units))
        # Numbers of its own: its symbols meet those of other candidates in one module.
        return building.emitted(job, units, job.pairs, first=int(candidate.key[:12], 16) * 1000)


def part_of(key: str, units: Sequence[Unit], kernel: ShippedKernel) -> Part:
    """What a module needs of emitted units. Raises MismatchError for an unproven function."""
    found, objects = [], []
    facts = evidence(units)["units"]
    for unit, proof in zip(units, facts, strict=True):
        assert unit.emitted is not None
        found.append(_part_unit(unit, proof, kernel.shipped(unit.pair.module)))
        objects.append(unit.emitted.data)
    return Part(key, tuple(found), tuple(objects))


def _part_unit(unit: Unit, proof: dict[str, Any], shipped: Shipped) -> PartUnit:
    assert unit.emitted is not None and unit.match is not None
    in_image = unit.pair.module == VMLINUX
    redirected = []
    for f, entry in zip(unit.emitted.functions, patched_functions(unit, shipped), strict=True):
        address = unit.match.proven[f.orig_symbol].place if in_image else NO_ADDRESS
        redirected.append(
            Redirected(
                entry.symbol,
                entry.old_name,
                entry.position,
                f.size_old,
                f.size_new,
                address,
                entry.code.hex(),
                entry.mask.hex(),
            )
        )
    return PartUnit(
        unit.pair.source,
        unit.pair.module,
        tuple(redirected),
        tuple(Called(c.kind.value, c.symbol, c.name) for c in unit.emitted.callbacks),
        tuple(sorted(unit.emitted.namespaces)),
        unit.emitted.mirrors,
        unit.delta.states,
        json.dumps(
            {"source": unit.pair.source, "object": unit.pair.module, **unit.delta.to_json()}
        ),
        json.dumps(proof),
    )


def _lacking(failure: RebootlessError | None) -> tuple[Told, ...]:
    """The names that the compiler's errors are about: another part may bring them."""
    if not isinstance(failure, CompileError):
        return ()
    lines = [line for line in failure.message.splitlines() if " error: " in line]
    found = {name: line.strip() for line in lines for name in QUOTED.findall(line)}
    return tuple(Told(LACKING, name, line) for name, line in found.items())


def _functions(part: Part | None) -> tuple[Function, ...]:
    units = part.units if part else ()
    return tuple(Function(u.object, u.source, f.old_name) for u in units for f in u.functions)
