"""What an author accepts is no longer refused or repeated; what nothing finds is told."""

from __future__ import annotations

import pytest

from rebootless.base.errors import RefusedError
from rebootless.base.events import Event, Warned
from rebootless.diff.delta import Finding
from rebootless.patch.source import Acceptance, combine, parse
from rebootless.pipeline import telling
from rebootless.pipeline.job import Job
from rebootless.safety.accept import judged, split, unused

COUNT = Finding("lock-count-changed", "f", "look at f")
GONE = Finding("static-local-removed", "state", "it is gone")
DATA = Finding("data-changed", "table", "it changed")


def test_an_acceptance_is_for_its_code_and_symbols() -> None:
    assert judged(COUNT, [Acceptance("lock-count-changed")]).accepted is True
    assert judged(COUNT, [Acceptance("lock-count-changed", ("g", "f"))]).accepted is True
    assert judged(COUNT, [Acceptance("lock-count-changed", ("g",))]).accepted is False
    assert judged(COUNT, [Acceptance("static-local-removed")]).accepted is False


def test_only_a_refusal_that_is_a_judgement_can_be_accepted() -> None:
    accepts = [Acceptance("static-local-removed", ("state",)), Acceptance("data-changed")]
    stand, taken = split([GONE, DATA, GONE], accepts)
    assert stand == [DATA]
    assert [(f.code, f.accepted) for f in taken] == [("static-local-removed", True)]
    assert split([GONE], []) == ([GONE], [])


def test_an_acceptance_of_nothing_is_told() -> None:
    warnings = [COUNT, GONE]
    assert unused([Acceptance("lock-count-changed")], warnings) == []
    found = unused([Acceptance("lock-count-changed", ("f", "h")), Acceptance("no-such")], warnings)
    assert [(f.code, f.symbol) for f in found] == [("accept-unused", "h"), ("accept-unused", "")]
    assert "'lock-count-changed h'" in found[0].message and "'no-such'" in found[1].message


DIFF = b"--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n"


class Told:
    """Keeps what is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def job_of(header: bytes, told: Told) -> Job:
    """As much of a build as telling needs: the patch's header and where warnings go."""
    patch = combine([parse(header + DIFF, "p.patch")])
    return Job("p", "1", patch, None, False, (), None, told)  # type: ignore[arg-type]


def test_a_refusal_says_how_it_can_be_accepted() -> None:
    with pytest.raises(RefusedError) as info:
        telling.refuse(job_of(b"", Told()), [GONE, DATA])
    assert info.value.refusals == (GONE, DATA)
    assert "Rebootless-Accept: static-local-removed state" in (info.value.hint or "")


def test_what_changes_for_boot_only_is_told_of_kexec() -> None:
    boot_only = Finding("init-function", "f", "f runs at boot only")
    for finding, expected in ((boot_only, True), (GONE, False)):
        with pytest.raises(RefusedError) as info:
            telling.refuse(job_of(b"", Told()), [finding])
        assert ("reboot --kexec" in (info.value.hint or "")) == expected


def test_accepted_findings_are_kept_but_not_repeated() -> None:
    told = Told()
    header = b"Rebootless-Accept: static-local-removed\nRebootless-Accept: lock-count-changed g\n"
    job = job_of(header, told)
    telling.refuse(job, [GONE])
    telling.warn(job, [COUNT, COUNT])
    telling.warn_of_unused(job)
    assert [(w.code, w.accepted) for w in job.warnings] == [
        ("static-local-removed", True),
        ("lock-count-changed", False),
        ("accept-unused", False),
    ]
    assert [e.text for e in told.events if isinstance(e, Warned)] == [
        f"[{w.code}] {w.message}" for w in job.warnings[1:]
    ]
