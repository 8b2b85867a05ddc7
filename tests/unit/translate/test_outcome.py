"""What a build's end says of a candidate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rebootless.base.errors import (
    CompileError,
    MismatchError,
    NoChangeError,
    PatchInputError,
    RebootlessError,
    RefusedError,
)
from rebootless.compile.plan import nothing_compiled
from rebootless.diff.delta import Finding
from rebootless.patch.source import combine, parse
from rebootless.translate.model import Candidate, Cause, Function, Outcome
from rebootless.translate.outcome import ADVICE, AT_INIT, CAUSES, cause_of, judged

ONE = Candidate("k", "t", ("a.c",), ("a.c",), "")
PROJECT = Path(__file__).parents[3]


def refused(*codes: str) -> RefusedError:
    findings = [Finding(code, f"s{n}", f"reason {n}:\n  more") for n, code in enumerate(codes)]
    return RefusedError("no", refusals=findings)


@pytest.mark.parametrize(
    ("failure", "outcome", "cause"),
    [
        (refused("layout-changed"), Outcome.REBOOT, Cause.LAYOUT),
        (refused("data-changed", "layout-changed"), Outcome.REBOOT, Cause.LAYOUT),
        (refused("init-function", "data-changed"), Outcome.REBOOT, Cause.CHANGED_DATA),
        (refused("init-function", "init-data"), Outcome.NO_EFFECT, Cause.INIT_ONLY),
        (refused("not-traceable"), Outcome.REBOOT, Cause.NOT_TRACEABLE),
        (refused("too-many-units"), Outcome.REBOOT, Cause.TOO_FAR),
        (refused("section-group"), Outcome.REBOOT, Cause.UNSAFE),
        (refused(), Outcome.REBOOT, Cause.UNSAFE),
        (NoChangeError("the objects are the same"), Outcome.NO_EFFECT, Cause.SAME_CODE),
        (MismatchError("not as shipped"), Outcome.FAILED, Cause.MISMATCH),
        (CompileError("a.c does not compile"), Outcome.FAILED, Cause.NOT_COMPILING),
        (PatchInputError("does not apply"), Outcome.FAILED, Cause.ERROR),
    ],
)
def test_each_end_has_its_cause(failure: RebootlessError, outcome: Outcome, cause: Cause) -> None:
    result = judged(ONE, failure, [], ())
    assert (result.outcome, result.cause) == (outcome, cause)
    assert result.message
    assert "\n" not in result.message
    assert result.advice or cause in (Cause.SAME_CODE, Cause.ERROR)


def test_the_message_is_that_of_the_cause() -> None:
    result = judged(ONE, refused("data-changed", "layout-changed"), [], ())
    assert result.message == "reason 1 (and 1 more reason)"
    assert result.symbol == "s1"
    assert [(t.code, t.is_refusal) for t in result.findings] == [
        ("data-changed", True),
        ("layout-changed", True),
    ]


def test_a_live_patch_keeps_its_warnings() -> None:
    functions = (Function("ext4", "a.c", "f"), Function("ext4", "a.c", "g"))
    result = judged(ONE, None, [Finding("may-sleep-long", "f", "m")], functions)
    assert (result.outcome, result.cause, result.objects) == (Outcome.LIVE_PATCH, "", ("ext4",))
    assert [t.is_refusal for t in result.findings] == [False]


def test_what_is_not_compiled_has_no_effect() -> None:
    text = b"--- a/x.c\n+++ b/x.c\n@@ -1 +1 @@\n-a\n+b\n"
    failure = nothing_compiled(["x.c is not compiled"], [], combine([parse(text, "p")]))
    result = judged(ONE, failure, [], ())
    assert (result.outcome, result.cause) == (Outcome.NO_EFFECT, Cause.CONFIG_OFF)


def test_every_code_that_is_named_is_documented_as_a_refusal() -> None:
    text = (PROJECT / "docs/findings.md").read_text()
    refusals = set(re.findall(r"^\| `([a-z0-9-]+)` \| refused", text, re.M))
    named = AT_INIT.union(*(codes for _, codes in CAUSES))
    assert named <= refusals | {"initcall-added"}, named - refusals
    assert all(cause_of(code) is cause for cause, codes in CAUSES for code in codes - AT_INIT)
    assert set(ADVICE) <= set(Cause)
