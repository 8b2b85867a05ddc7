"""Whole scenarios: one that passes, one per way to fail."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rebootless.engine.checks import Wanted
from rebootless.engine.status import PatchedFunction
from rebootless.lab.plan import Scenario
from rebootless.lab.report import TestReport
from rebootless.lab.scenario import run

pytestmark = pytest.mark.vm

CHECK = "grep -q '^rebootless was here$' /proc/cmdline"
CMDLINE = PatchedFunction("vmlinux", "cmdline_proc_show")


@pytest.fixture
def test_patch(kernel, patches, tmp_path: Path):
    def scenario(*names: str, **options: object) -> TestReport:
        blobs = tuple(patches[name] for name in names)
        plan = Scenario(kernel.image, blobs, kernel.modules, **options)  # type: ignore[arg-type]
        return run(plan, tmp_path / "console.log")

    return scenario


def outcomes(report: TestReport) -> dict[str, str]:
    return {step.name: step.outcome for step in report.steps}


def test_a_good_patch_passes(test_patch):
    report = test_patch("rl_cmdline", check=CHECK, wanted=Wanted(functions=(CMDLINE,)))
    assert report.require().passed, report.text()
    assert report.states == ("none", "rl_cmdline applied", "none")
    assert report.redirected == ("cmdline_proc_show",)
    assert report.restored
    assert dict(report.transition_ms).keys() == {"apply rl_cmdline", "undo rl_cmdline"}
    assert set(outcomes(report).values()) == {"ok"}
    assert json.loads(json.dumps(report.as_json()))["verdict"] == "passed"
    assert Path(report.console_log).read_text().count("Linux version") == 1


def test_a_patch_of_a_module_that_comes_late(test_patch):
    check = "[ $(cat /sys/class/net/dummy0/statistics/tx_packets) = 4242 ]"
    report = test_patch("rl_dummy", check=check, load_late=("dummy",))
    assert report.passed, report.text()
    assert outcomes(report)["check before"] == "skipped"
    assert outcomes(report)["check after"] == "ok"


def test_a_patch_of_a_loaded_module_and_a_patch_that_replaces_one(test_patch):
    check = "[ $(cat /sys/class/net/dummy0/statistics/tx_packets) = 4242 ]"
    report = test_patch("rl_dummy", check=check, load_before=("dummy",), workload=False)
    assert report.passed, report.text()
    report = test_patch("rl_cmdline", "rl_replace", workload=False)
    assert report.passed, report.text()
    assert report.states == ("none", "rl_cmdline applied", "rl_replace applied", "none")


@pytest.mark.parametrize(
    ("names", "options", "step", "reason"),
    [
        (("rl_cmdline",), {"check": "true"}, "check before", "passes, and had to fail"),
        (("rl_cmdline",), {"check": "false"}, "check applied", "fails, and had to pass"),
        (("rl_missing",), {}, "apply rl_missing", "not found in symbol table"),
        (("rl_warns",), {"check": "cat /proc/cmdline; false", "fails_before": True},
         "check applied", "fails, and had to pass"),
        (("rl_warns",), {"workload": True, "workload_seconds": 0.3},
         "kernel log clean", "WARNING: CPU"),
        (("rl_cmdline",), {"check": "echo c >/proc/sysrq-trigger; sleep 9"}, "check before",
         "sysrq triggered crash"),
    ],
)  # fmt: skip
def test_a_bad_patch_fails_at_its_step(test_patch, names, options, step, reason):
    report = test_patch(*names, **{"workload": False, **options})
    assert not report.passed
    assert report.steps[-1].name == step
    assert report.steps[-1].outcome == "failed"
    assert reason in report.reason
    if "rl_warns" in names:
        assert any(finding.kind == "warning" for finding in report.findings)


def test_checks_may_be_told_to_pass_all_along(test_patch):
    report = test_patch(
        "rl_cmdline", check="true", fails_before=False, fails_after=False, workload=False
    )
    assert report.passed, report.text()
