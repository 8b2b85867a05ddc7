"""The JSON forms of plans and results read back equal."""

from __future__ import annotations

import json

import pytest

from rebootless.base.errors import RebootlessError
from rebootless.translate import model
from rebootless.translate.model import Cause, Confidence, Outcome


def candidate() -> model.Candidate:
    tied = (
        model.Tied("a: fix b", ("CVE-2026-1",), Confidence.CERTAIN, "the only entry"),
        model.Tied("c: fix d", ("CVE-2026-2",), Confidence.UNKNOWN, "no word of it is there"),
    )
    diff = "--- a/a.c\n+++ b/a.c\n@@ -1 +1 @@\n-x\n+y\n"
    return model.Candidate("k", "a: fix b", ("a.c",), ("a.c",), diff, ("x",), (), tied)


def test_a_plan_reads_back_equal() -> None:
    dropped = model.Dropped("b.c", Outcome.NO_EFFECT, Cause.CONFIG_OFF, "off", 3)
    update = model.Update("6.1", "ab", "1", "2")
    plan = model.TranslationPlan(update, 2, 5, (candidate(),), (dropped,))
    text = json.dumps(model.encoded(plan))
    assert model.decoded(model.TranslationPlan, json.loads(text)) == plan


def test_a_result_reads_back_equal_and_later_fields_do_no_harm() -> None:
    told = (model.Told("layout-changed", "s", "m", is_refusal=True),)
    result = model.Result("k", Outcome.REBOOT, Cause.LAYOUT, findings=told, seconds_ours=1.5)
    raw = {**model.encoded(result), "of a later version": 1}
    assert model.decoded(model.Result, raw) == result


def test_what_is_no_result_is_told() -> None:
    with pytest.raises(RebootlessError, match="not a stored Result"):
        model.decoded(model.Result, {"key": "k", "outcome": "perhaps", "cause": ""})
    with pytest.raises(RebootlessError, match="not a stored Result"):
        model.decoded(model.Result, {"key": [1], "outcome": "reboot", "cause": ""})


def test_only_what_is_likely_counts_as_fixed() -> None:
    assert candidate().cves == ("CVE-2026-1",)
    assert candidate().patch.startswith(b"Subject: a: fix b\n\nFixes CVE-2026-1.\n---\n--- a/a.c\n")


def test_the_key_is_of_the_diff_and_the_kernel() -> None:
    keys = {model.key_of("d", "b"), model.key_of("e", "b"), model.key_of("d", "c")}
    assert len(keys) == 3
    assert model.key_of("d", "b") in keys
