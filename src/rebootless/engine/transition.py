"""Follows a live patch's transition, and decides what happens when it does not come to an end.

The kernel moves each task to the new code when its stack holds none of the patched functions. It
tries at once and then every second, and sends the rest a fake signal after 15 s. A task that sits
in a patched function for good holds the transition up. Then the policy decides:

    reverse   go back to where we came from; nothing has changed afterwards (the default)
    leave     let the kernel go on trying; `status` names the tasks that hold it
    force     declare the rest moved. Unsafe unless one knows that both versions may run mixed;
              the old module can never be removed then

An interrupt (Ctrl-C) reverses, whatever the policy says about time-outs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ..base.errors import StalledError
from ..base.events import Monitor, NullMonitor, StageReport, stage
from .machine import Machine, read_text
from .status import ROOT, Blocker, blockers, livepatches

LOOK_AFTER = 1.5  # seconds before the tasks are looked at: the first retry ends most transitions
SHOWN = 5
STAMP = re.compile(r"\[\s*(\d+\.\d+)\].*livepatch: '([^']+)': (starting )?(un)?patching (\w+)")


class OnTimeout(StrEnum):
    """What to do when a transition does not finish in time."""

    REVERSE = "reverse"
    LEAVE = "leave"
    FORCE = "force"


@dataclass(frozen=True)
class Policy:
    """How long to wait for a transition (seconds), and what then.

    `signal_after` matters only for kernels before 5.1, which send no signals by themselves but
    have a switch for it in sysfs; None never uses the switch. `take_back` reverses on an interrupt
    as well; not for a guest, which an interrupt ends as a whole.
    """

    wait: float = 60.0
    on_timeout: OnTimeout = OnTimeout.REVERSE
    reverse_wait: float = 60.0
    signal_after: float | None = 15.0
    poll: float = 0.05
    poll_max: float = 0.5
    take_back: bool = False


@dataclass(frozen=True)
class Transition:
    """How a transition went: seconds until its end, and who was seen holding it up last."""

    outcome: str  # "complete", "forced"
    seconds: float
    blockers: tuple[Blocker, ...] = ()
    kernel_ms: float | None = None  # by the kernel's own time stamps, when its log shows them


def follow(
    machine: Machine,
    name: str,
    *,
    applying: bool,
    policy: Policy | None = None,
    monitor: Monitor | None = None,
) -> Transition:
    """Waits until patch `name` is wholly applied (or wholly undone).

    Raises StalledError when it did not get there in the time that `policy` gives: the message
    names the tasks that held it and says what was done about it.
    """
    policy = policy or Policy()
    verb = "Applying" if applying else "Undoing"
    with stage(monitor or NullMonitor(), "transition", f"{verb} {name}") as report:
        started = machine.now()
        held, done = _wait(machine, name, policy, policy.wait, report)
        seconds = machine.now() - started
        if done:
            ms = kernel_ms(machine.kernel_log(), name, applying=applying)
            report.result = f"{ms:.0f} ms by the kernel's clock" if ms is not None else ""
            return Transition("complete", seconds, held, ms)
        return _stalled(machine, name, applying, policy, report, seconds)


def in_transition(machine: Machine, name: str) -> bool:
    """Whether a transition of that patch is going on."""
    return read_text(machine, f"{ROOT}/{name}/transition") == "1"


def _wait(
    machine: Machine, name: str, policy: Policy, seconds: float, report: StageReport
) -> tuple[tuple[Blocker, ...], bool]:
    """Polls until the transition ends or the time is over: (who was last seen, ended)."""
    started = machine.now()
    pause = policy.poll
    look_at = LOOK_AFTER
    seen: tuple[Blocker, ...] = ()
    signalled = policy.signal_after is None
    while in_transition(machine, name):
        elapsed = machine.now() - started
        if elapsed >= seconds:
            return seen, False
        if elapsed >= look_at:
            seen = blockers(machine, livepatches(machine)) or seen
            report.detail(describe(seen))
            look_at = elapsed + 2.0
        if not signalled and elapsed >= (policy.signal_after or 0):
            signalled = True
            if machine.exists(f"{ROOT}/{name}/signal"):
                machine.write(f"{ROOT}/{name}/signal", "1")
        machine.sleep(min(pause, max(seconds - elapsed, 0.01)))
        pause = min(pause * 1.5, policy.poll_max)
    return seen, True


def _stalled(
    machine: Machine,
    name: str,
    applying: bool,
    policy: Policy,
    report: StageReport,
    seconds: float,
) -> Transition:
    held = blockers(machine, livepatches(machine))
    told = f"{name} did not finish {'applying' if applying else 'being undone'} in {seconds:.0f} s"
    who = f"held by {describe(held)}"
    hint = "end or restart the tasks named (or let them finish), then try again"
    match policy.on_timeout:
        case OnTimeout.LEAVE:
            raise StalledError(
                f"{told}: {who}. The kernel goes on trying",
                hint=f"{hint}; `rebootless status` shows whether it has finished",
            )
        case OnTimeout.FORCE:
            report.detail("forcing")
            machine.write(f"{ROOT}/{name}/force", "1")
            _, done = _wait(machine, name, policy, policy.reverse_wait, report)
            if done:
                report.result = f"forced; {who}"
                return Transition("forced", seconds, held)
            raise StalledError(f"{told}: {who}, and forcing it did not end it", hint=hint)
        case OnTimeout.REVERSE:
            done = _reverse(machine, name, applying, policy, report)
            now = "not applied, as before" if applying else "still applied, as before"
            after = f"It was reversed: {name} is {now}" if done else "Reversing it goes on"
            raise StalledError(f"{told}: {who}. {after}", hint=hint)


def _reverse(
    machine: Machine, name: str, applying: bool, policy: Policy, report: StageReport
) -> bool:
    """Sends a transition back to where it came from; whether it got there."""
    report.detail("reversing")
    machine.write(f"{ROOT}/{name}/enabled", "0" if applying else "1")
    return _wait(machine, name, policy, policy.reverse_wait, report)[1]


def take_back(
    machine: Machine,
    name: str,
    *,
    applying: bool,
    policy: Policy,
    monitor: Monitor | None = None,
) -> None:
    """After an interrupt: reverses a transition that is under way; does nothing when none is.

    Raises StalledError when a task keeps it from getting back.
    """
    if not in_transition(machine, name):
        return
    verb = "applying" if applying else "undoing"
    with stage(monitor or NullMonitor(), "reverse", f"Interrupted: taking {verb} {name} back") as r:
        if not _reverse(machine, name, applying, policy, r):
            held = blockers(machine, livepatches(machine))
            raise StalledError(
                f"{verb} {name} was interrupted, and taking it back has not finished in "
                f"{policy.reverse_wait:.0f} s: held by {describe(held)}. The kernel goes on trying",
                hint="end or restart the tasks named; `rebootless status` shows how it goes",
            )


def describe(held: tuple[Blocker, ...]) -> str:
    """The blockers as one line."""
    if not held:
        return "no task of user space or of the kernel's own (an idle task, or one that has ended)"
    more = f" and {len(held) - SHOWN} more" if len(held) > SHOWN else ""
    return f"{len(held)} task{'s' * (len(held) > 1)}: " + ", ".join(map(str, held[:SHOWN])) + more


def kernel_ms(log: str, name: str, *, applying: bool) -> float | None:
    """The milliseconds from start to end of the last finished transition of a patch, by the log.

    The kernel notes "'NAME': starting patching transition" and "'NAME': patching complete".
    """
    started: float | None = None
    result: float | None = None
    for line in log.splitlines():
        found = STAMP.search(line)
        if not found or found[2] != name or bool(found[4]) == applying:
            continue
        if found[3]:
            started = float(found[1])
        elif found[5] == "complete" and started is not None:
            result = (float(found[1]) - started) * 1000
    return result
