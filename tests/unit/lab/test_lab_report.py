"""Reading kernel logs, and reports as values."""

from __future__ import annotations

import json

import pytest

from rebootless.base.errors import TestFailedError
from rebootless.lab.report import Step, TestReport, findings

CLEAN = """\
[    5.782495] rl_cmdline: loading out-of-tree module taints kernel.
[    5.784237] rl_cmdline: module verification failed: signature and/or required key missing
[    5.828972] livepatch: enabling patch 'rl_cmdline'
[    5.843756] livepatch: 'rl_cmdline': patching complete
"""


def test_a_good_patch_leaves_no_finding():
    assert findings(CLEAN) == ()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("WARNING: CPU: 1 PID: 869 at fs/x.c:9 f+0x5/0xff0 [m]", "warning"),
        ("BUG: unable to handle page fault for address: 0", "oops"),
        ("BUG: kernel NULL pointer dereference, address: 0", "bug"),
        ("Oops: 0002 [#1] PREEMPT SMP", "oops"),
        ("general protection fault, probably for non-canonical address", "oops"),
        ("Kernel panic - not syncing: sysrq triggered crash", "panic"),
        ("WARNING: possible circular locking dependency detected", "lockdep"),
        ("INFO: task cat:12 blocked for more than 120 seconds.", "hang"),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "hang"),
        ("watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", "bug"),
        ("refcount_t: underflow; use-after-free.", "corruption"),
        ("livepatch: failed to enable patch 'x'", "livepatch"),
    ],
)
def test_alarms(line: str, kind: str):
    found = findings(f"{CLEAN}[    6.000000] {line}\n")
    assert [f.kind for f in found] == [kind]


def test_known_and_allowed_lines_do_not_count_and_repeats_count_once():
    old = "[    0.100000] WARNING: old"
    assert findings(old, before=[old]) == ()
    assert findings(old, allowed=[r"WARNING: old$"]) == ()
    log = "[ 1.0] WARNING: CPU: 0 PID: 7 at x\n[ 2.0] WARNING: CPU: 1 PID: 9 at x\n"
    assert [(f.count, f.line) for f in findings(log)] == [(2, "[ 1.0] WARNING: CPU: 0 PID: 7 at x")]


def report(verdict: str) -> TestReport:
    steps = (Step("boot", "ok", 1.5, "fine"),)
    return TestReport(
        verdict, "why" if verdict == "failed" else "", "6.1", "ab", steps, ("none",), (),
        (("apply x", 1.0),), 1.5, 9.0, (), True, "/tmp/log",
    )  # fmt: skip


def test_reports_are_values():
    good = report("passed")
    assert good.require() is good
    assert json.loads(json.dumps(good.as_json()))["schema"] == 1
    assert "boot  fine" in good.text()
    with pytest.raises(TestFailedError, match="failed: why"):
        report("failed").require()
