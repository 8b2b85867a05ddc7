"""What a test in the lab found: plain values, and the reading of kernel logs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from ..base.errors import TestFailedError

SCHEMA = 1
OK, FAILED, SKIPPED = "ok", "failed", "skipped"

# what a healthy kernel does not print: (kind, pattern)
ALARMS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("panic", r"Kernel panic"),
        ("oops", r"\bOops\b|general protection fault|unable to handle|double fault|#CP"),
        ("bug", r"\bBUG:|kernel BUG at|invalid opcode|UBSAN:|K[AC]SAN:|KFENCE:"),
        ("lockdep", r"possible (circular|recursive|irq) lock|inconsistent lock state|bad unlock"),
        ("lockdep", r"suspicious RCU usage|sleeping function called|scheduling while atomic"),
        ("hang", r"blocked for more than|soft lockup|hard LOCKUP|rcu.*(stall|self-detected)"),
        ("corruption", r"list_(add|del) corruption|refcount_t:|Bad page|slab corruption"),
        ("warning", r"\bWARNING:"),
        ("livepatch", r"livepatch: .*(fail|not found|unresolvable|unreliable)"),
    )
)


@dataclass(frozen=True)
class Finding:
    """A line of the kernel's log that a healthy kernel does not print, and how often it came."""

    kind: str
    line: str
    count: int = 1


@dataclass(frozen=True)
class Step:
    """One step of a test: `outcome` is ok, failed or skipped."""

    name: str
    outcome: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class TestReport:
    """The outcome of a scenario; `verdict` is 'passed' or 'failed', `reason` says why it failed."""

    __test__ = False  # not a test class for pytest

    verdict: str
    reason: str
    release: str
    build_id: str
    steps: tuple[Step, ...]
    states: tuple[str, ...]  # of the patches, as they were seen: none, applied, ...
    findings: tuple[Finding, ...]
    transition_ms: tuple[tuple[str, float], ...]  # ("apply NAME" | "undo NAME", milliseconds)
    boot_seconds: float
    uptime_seconds: float  # of the guest at the end: it never went back
    redirected: tuple[str, ...]  # functions whose code was seen changed while applied
    restored: bool  # and was as before after the undo
    console_log: str
    schema: int = SCHEMA

    @property
    def passed(self) -> bool:
        """Whether every step that ran was ok."""
        return self.verdict == "passed"

    def as_json(self) -> dict[str, object]:
        """The report as JSON-able values."""
        return asdict(self)

    def text(self) -> str:
        """The report as lines for people and for a bundle's test.log."""
        lines = [f"kernel {self.release} (build-id {self.build_id})"]
        for step in self.steps:
            detail = f"  {step.detail}" if step.detail else ""
            lines.append(f"{step.outcome:8}{step.seconds:7.2f} s  {step.name}{detail}")
        lines += [f"transition: {what} {ms:.0f} ms" for what, ms in self.transition_ms]
        lines += [f"kernel log: [{f.kind}] ×{f.count} {f.line}" for f in self.findings]
        lines.append(f"verdict: {self.verdict}" + (f": {self.reason}" if self.reason else ""))
        return "\n".join(lines) + "\n"

    def require(self) -> TestReport:
        """Itself if it passed; raises TestFailedError otherwise."""
        if not self.passed:
            raise TestFailedError(
                f"the test in QEMU failed: {self.reason}\n{self.text()}",
                hint=f"the guest's console log is in {self.console_log}",
            )
        return self


def verdict_of(text: str) -> str:
    """The verdict in a report's text (`TestReport.text`); "" when there is none."""
    found = re.findall(r"^verdict: (\w+)", text, re.MULTILINE)
    return str(found[-1]) if found else ""


def findings(
    log: str, *, before: Iterable[str] = (), allowed: Sequence[str] = ()
) -> tuple[Finding, ...]:
    """The alarming lines of a kernel log, each once; pure.

    Lines that are in `before` (the log before the test) and lines that match one of the regular
    expressions `allowed` do not count.
    """
    old = frozenset(before)
    excused = [re.compile(pattern) for pattern in allowed]
    found: dict[str, Finding] = {}
    for line in log.splitlines():
        kind = next((kind for kind, pattern in ALARMS if pattern.search(line)), "")
        if kind and line not in old and not any(p.search(line) for p in excused):
            shape = re.sub(r"^\[[^]]*\]\s*|\b(CPU|PID): \d+", "", line.strip())
            first = found.setdefault(shape, Finding(kind, line.strip(), 0))
            found[shape] = replace(first, count=first.count + 1)
    return tuple(found.values())
