"""Refusing and warning, with what the patch's header accepts left out."""

from __future__ import annotations

from collections.abc import Sequence

from ..base.errors import RefusedError
from ..base.events import Note, Warned
from ..base.words import counted
from ..diff.delta import Finding
from ..safety import Verdict, accept
from .job import Job

# Fixes that often cannot be written in another way: a changed layout, or what runs at boot only.
OFTEN_NEED_A_REBOOT = (
    "crc-changed", "data-changed", "enum-changed", "init-data", "init-function",
    "initcall-added", "layout-changed",
)  # fmt: skip


def refuse(job: Job, refused: Sequence[Finding]) -> None:
    """Raises RefusedError with all refusals but the accepted ones, which become warnings."""
    stand, accepted = accept.split(refused, job.patch.accepts)
    warn(job, accepted)
    if not stand:
        return
    lines = "\n".join(f"  [{f.code}] {f.message}" for f in stand)
    hint = "each reason says what to change in the source patch"
    if acceptable := next((f for f in stand if f.code in accept.ACCEPTABLE), None):
        hint += (
            "; if you know it to be safe, a line `Rebootless-Accept: "
            f"{acceptable.code} {acceptable.symbol}` in the patch's header accepts it"
        )
    if any(f.code in OFTEN_NEED_A_REBOOT for f in stand):
        hint += (
            "; where that cannot be, `rebootless reboot --kexec` plans the quickest reboot into a "
            "fixed kernel"
        )
    raise RefusedError(
        f"the patch cannot be applied live, for {counted(len(stand), 'reason')}:\n{lines}",
        hint=hint,
        refusals=stand,
    )


def judge(job: Job, verdict: Verdict) -> None:
    """Tells what the safety checks found. Raises RefusedError for what is not safe."""
    refuse(job, verdict.refused)
    warn(job, verdict.warnings)


def warn(job: Job, warnings: Sequence[Finding]) -> None:
    """Keeps each warning once, and tells it; of accepted ones only that they are there."""
    for finding in warnings:
        warning = accept.judged(finding, job.patch.accepts)
        if warning in job.warnings:
            continue
        job.warnings.append(warning)
        if warning.accepted:
            job.monitor.emit(Note(f"accepted: {warning.code} {warning.symbol}".rstrip()))
        else:
            job.monitor.emit(Warned(f"[{warning.code}] {warning.message}"))


def warn_of_unused(job: Job) -> None:
    """Warns of lines in the patch's header that accept what nothing found."""
    warn(job, accept.unused(job.patch.accepts, job.warnings))
