"""The safety stage: every check of `safety/` over the matched units, in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..base.events import stage
from ..safety import Verdict
from .job import Job, Unit

Check = Callable[[Job, Sequence[Unit]], Verdict]

CHECKS: tuple[Check, ...] = ()


def check(job: Job, units: Sequence[Unit]) -> Verdict:
    """What the safety checks say of the whole patch."""
    with stage(job.monitor, "check", "Checking that the patch is safe") as report:
        verdict = Verdict()
        for judge in CHECKS:
            verdict += judge(job, units)
        count = len(verdict.warnings)
        report.result = f"{count} warning{'' if count == 1 else 's'}"
    return verdict
