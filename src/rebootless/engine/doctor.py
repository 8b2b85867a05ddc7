"""Can this machine build, test and apply live patches, and reboot by kexec where none will do?

Facts are gathered once (`doctor_facts`); each check is a small pure function over them that says
what it found and what mends it; what can be done here follows from the checks alone:

    no check of an area says "no"   it can be done here, warnings or not
    a check says "no"               it cannot, and the check tells why
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from . import doctor_apply as apply
from . import doctor_engines as engines
from . import doctor_kexec as kexec
from . import doctor_tools as tools
from .doctor_facts import Check, Facts, Status, gather
from .machine import Machine

AREAS = ("apply", "engines", "build", "test", "kexec")

CHECKS: tuple[tuple[str, Callable[[Facts], Check]], ...] = (
    ("apply", apply.architecture),
    ("apply", apply.livepatch),
    ("apply", apply.ftrace),
    ("apply", apply.stacks),
    ("apply", apply.symbols),
    ("apply", apply.modules),
    ("apply", apply.signatures),
    ("apply", apply.lockdown),
    ("apply", apply.secure_boot),
    ("apply", apply.privileges),
    ("apply", apply.taint),
    ("apply", apply.log),
    ("engines", engines.livepatch),
    ("engines", engines.per_task),
    ("engines", engines.atomic),
    ("engines", engines.choice),
    ("build", tools.compiler),
    ("build", tools.toolchains),
    ("build", tools.programs),
    ("build", tools.headers),
    ("build", tools.packages),
    ("build", tools.space),
    ("test", tools.emulator),
    ("test", tools.busybox),
    ("kexec", kexec.container),
    ("kexec", kexec.support),
    ("kexec", kexec.switch),
    ("kexec", kexec.signature),
    ("kexec", kexec.tools),
    ("kexec", kexec.privileges),
)


@dataclass(frozen=True)
class Verdict:
    """Whether something can be done on this machine, and in a line why (not)."""

    ok: bool
    text: str


@dataclass(frozen=True)
class Finding:
    """A check's outcome with the area that it belongs to."""

    area: str
    name: str
    status: str
    why: str
    mend: str


@dataclass(frozen=True)
class Examination:
    """Every check in order, and the verdict of each area."""

    release: str
    checks: tuple[Finding, ...]
    can: dict[str, Verdict]


def examine(machine: Machine) -> Examination:
    """Gathers the facts of this machine and judges them."""
    return judge(gather(machine))


def judge(facts: Facts) -> Examination:
    """Runs every check over the facts; pure."""
    findings = []
    for area, check in CHECKS:
        found = check(facts)
        findings.append(Finding(area, found.name, found.status.value, found.why, found.mend))
    verdicts = {area: verdict(f for f in findings if f.area == area) for area in AREAS}
    return Examination(facts.release, tuple(findings), verdicts)


def verdict(findings: Iterable[Finding]) -> Verdict:
    """What the checks of one area come to."""
    found = list(findings)
    missing = [f.name for f in found if f.status == Status.NO]
    if missing:
        return Verdict(False, f"no ({', '.join(missing)})")
    doubts = [f.name for f in found if f.status == Status.WARNING]
    return Verdict(True, f"yes (mind: {', '.join(doubts)})" if doubts else "yes")
