"""What an author accepts is no longer refused or repeated; what nothing finds is told."""

from __future__ import annotations

from rebootless.diff.delta import Finding
from rebootless.patch.source import Acceptance
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
