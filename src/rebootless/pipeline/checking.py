"""The safety stage: every check of `safety/` over the matched units, in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..base.events import stage
from ..safety import Verdict, quiescence, semantics
from .job import Job, Unit
from .layouts import layouts

Check = Callable[[Job, Sequence[Unit]], Verdict]

DEFAULT_HZ = 250


def _quiescence(job: Job, units: Sequence[Unit]) -> Verdict:
    """Functions that tasks may never leave."""
    hz = job.kernel.config.get("HZ") or ""
    ticks = int(hz) if hz.isdigit() else DEFAULT_HZ
    return _all(quiescence.forecast(u.orig, _changed(u), hz=ticks) for u in units)


def _semantics(_job: Job, units: Sequence[Unit]) -> Verdict:
    """What the changed functions do otherwise."""
    return _all(semantics.compare(u.orig, u.patched, _changed(u)) for u in units)


def _changed(unit: Unit) -> dict[str, str]:
    """The changed functions by their names in the original object -> in the patched one."""
    names = unit.orig.symbols.names
    return {
        names[f.orig_symbol]: unit.delta.pieces[f.piece].name
        for f in unit.delta.changed
        if f.orig_symbol is not None
    }


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    return sum(verdicts, Verdict())


CHECKS: tuple[Check, ...] = (layouts, _quiescence, _semantics)


def check(job: Job, units: Sequence[Unit]) -> Verdict:
    """What the safety checks say of the whole patch."""
    with stage(job.monitor, "check", "Checking that the patch is safe") as report:
        verdict = Verdict()
        for judge in CHECKS:
            verdict += judge(job, units)
        count = len(verdict.warnings)
        report.result = f"{count} warning{'' if count == 1 else 's'}"
    return verdict
