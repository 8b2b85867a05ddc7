"""Follows a live patch's transition, and decides what happens when it does not come to an end.

The kernel moves each task to the new code when its stack holds none of the patched functions. A
task that sits in a patched function for good holds the transition up. After a while such tasks are
woken by a signal that they do not see, unless the policy says never. At the end of the time the
policy decides:

    reverse   go back to where we came from; nothing has changed afterwards (the default)
    leave     let the kernel go on trying; `status` names the tasks that hold it
    force     declare the rest moved. Unsafe unless one knows that both versions may run mixed;
              the old module can never be removed then

An interrupt (Ctrl-C) reverses, whatever the policy says about time-outs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from ..base.errors import ResourceError, StalledError
from ..base.events import Monitor, NullMonitor, StageReport, Warned, stage
from .base import Engine
from .machine import Machine, read_text
from .refusal import by_core, reasons_in_log
from .status import CORE_ROOT, Blocker, LivePatch, blockers, livepatches

LOOK_AFTER = 1.5  # seconds before the tasks are looked at: the first retry ends most transitions
LOOK_AGAIN = 2.0
LOOK_AT_CORE = 0.25  # its own list costs one read
SIGNAL_AFTER = 5.0
SHOWN = 5
WAKES_UNASKED = (
    "this kernel wakes tasks by itself after 15 seconds; with the core module it would not "
    "(`rebootless engine load`)"
)
STAMP = re.compile(
    r"\[\s*(\d+\.\d+)\].*(?:livepatch|rebootless): '([^']+)': (starting )?(un)?patching (\w+)"
)


class OnTimeout(StrEnum):
    """What to do when a transition does not finish in time."""

    REVERSE = "reverse"
    LEAVE = "leave"
    FORCE = "force"


@dataclass(frozen=True)
class Policy:
    """How long to wait for a transition (seconds), and what then.

    `signal_after` seconds the tasks that hold it up are woken; None: never. It is for those who
    have a switch for it: the core's engines, mainline's livepatch where the core is loaded, and
    kernels before 5.1. Others wake them by themselves, after 15 seconds. `take_back` reverses on an
    interrupt as well; not for a guest, which an interrupt ends as a whole.
    """

    wait: float = 60.0
    on_timeout: OnTimeout = OnTimeout.REVERSE
    reverse_wait: float = 60.0
    signal_after: float | None = SIGNAL_AFTER
    poll: float = 0.05
    poll_max: float = 0.5
    take_back: bool = False


@dataclass(frozen=True)
class Transition:
    """How a transition went: seconds until its end, and who was seen holding it up last.

    `kernel_ms` is its time by the kernel's own clock, where it is known; `stats` are what the core
    counted (attempts, nanoseconds, stacks walked).
    """

    outcome: str  # "complete", "forced"
    seconds: float
    blockers: tuple[Blocker, ...] = ()
    kernel_ms: float | None = None
    signalled: bool = False
    stats: Mapping[str, int] = field(default_factory=dict)


@dataclass
class _Watch:
    """One transition that is being followed, and what was seen of it."""

    machine: Machine
    engine: Engine
    name: str
    policy: Policy
    report: StageReport
    held: tuple[Blocker, ...] = ()
    signalled: bool = False
    stats: Mapping[str, int] = field(default_factory=dict)

    @property
    def moving(self) -> bool:
        return in_transition(self.machine, self.engine.path(self.name))

    def write(self, name: str, text: str) -> None:
        self.machine.write(f"{self.engine.path(self.name)}/{name}", text)

    def look(self) -> None:
        """Notes who holds it up now."""
        self.held = _held(self.machine, self.name) or self.held
        if self.engine.root == CORE_ROOT:
            self.stats = _stats(self.machine, self.engine.path(self.name)) or self.stats
        self.report.detail(describe(self.held))

    def until_end(self, seconds: float, *, signal: bool = True) -> bool:
        """Polls until the transition ends (True) or the time is over."""
        machine, policy = self.machine, self.policy
        ours = self.engine.root == CORE_ROOT
        started = machine.now()
        pause, look_at = policy.poll, LOOK_AT_CORE if ours else LOOK_AFTER
        signal_at = policy.signal_after if signal else None
        while self.moving:
            elapsed = machine.now() - started
            if elapsed >= seconds:
                return False
            if elapsed >= look_at:
                self.look()
                look_at = machine.now() - started + (LOOK_AT_CORE if ours else LOOK_AGAIN)
            if signal_at is not None and elapsed >= signal_at:
                self.signalled |= self.engine.signal(machine, self.name)
                signal_at = None
            machine.sleep(min(pause, max(seconds - elapsed, 0.01)))
            pause = min(pause * 1.5, policy.poll_max)
        return True


def follow(
    machine: Machine,
    name: str,
    *,
    engine: Engine,
    applying: bool,
    policy: Policy | None = None,
    monitor: Monitor | None = None,
) -> Transition:
    """Waits until patch `name` is wholly applied (or wholly undone).

    Raises StalledError when it did not get there in the time that `policy` gives, or the engine
    gave up before: the message names the tasks that held it and says what was done about it.
    """
    policy, monitor = policy or Policy(), monitor or NullMonitor()
    verb = "Applying" if applying else "Undoing"
    with stage(monitor, "transition", f"{verb} {name}") as report:
        started = machine.now()
        watch = _Watch(machine, engine, name, policy, report)
        engine.begun(machine, name)
        if policy.signal_after is None and watch.moving and engine.wakes_unasked(machine, name):
            monitor.emit(Warned(WAKES_UNASKED))
        done = watch.until_end(policy.wait)
        seconds = machine.now() - started
        if not done:
            return _stalled(watch, applying, seconds)
        if engine.needs_core and is_on(machine, engine.path(name)) != applying:
            raise _gave_up(watch, applying)
        stats = _stats(machine, engine.path(name)) or watch.stats
        ms = _kernel_ms(machine, name, stats, applying=applying)
        report.result = f"{ms:.0f} ms by the kernel's clock" if ms is not None else ""
        return Transition("complete", seconds, watch.held, ms, watch.signalled, stats)


def in_transition(machine: Machine, path: str) -> bool:
    """Whether the patch whose folder in sysfs is `path` is in transition."""
    return read_text(machine, f"{path}/transition") == "1"


def is_on(machine: Machine, path: str) -> bool:
    """Whether the patch whose folder in sysfs is `path` is in force, or about to be."""
    return read_text(machine, f"{path}/enabled") == "1"


def _held(machine: Machine, name: str) -> tuple[Blocker, ...]:
    """Who holds up the transition of one patch."""
    mine: tuple[LivePatch, ...] = tuple(p for p in livepatches(machine) if p.name == name)
    return blockers(machine, mine)


def _stats(machine: Machine, path: str) -> dict[str, int]:
    """The core's counts for a patch; empty for the kernel's own livepatch."""
    lines = (line.split() for line in (read_text(machine, f"{path}/stats") or "").splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


def _kernel_ms(
    machine: Machine, name: str, stats: Mapping[str, int], *, applying: bool
) -> float | None:
    if stats.get("elapsed_ns"):
        return stats["elapsed_ns"] / 1e6
    return kernel_ms(machine.kernel_log(), name, applying=applying)


def _gave_up(watch: _Watch, applying: bool) -> StalledError:
    """The core's engine stopped trying, and has taken back what it did."""
    what, now = ("applied", "not applied") if applying else ("undone", "still applied")
    who, hint = f"held by {describe(watch.held)}", ""
    if not watch.held:  # it was no task: the code at an entry may be somebody else's
        said, hint = by_core(reasons_in_log(watch.machine.kernel_log(), watch.name))
        who = said or who
    return StalledError(
        f"{watch.name} could not be {what}: {who}. The engine {watch.engine.name} gave up: "
        f"{watch.name} is {now}, as before",
        hint=hint or "end or restart the tasks named, or try another engine (--engine)",
    )


def _stalled(watch: _Watch, applying: bool, seconds: float) -> Transition:
    machine, name, policy = watch.machine, watch.name, watch.policy
    held = _held(machine, name) or watch.held
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
            watch.report.detail("forcing")
            watch.write("force", "1")
            if watch.until_end(policy.reverse_wait, signal=False):
                watch.report.result = f"forced; {who}"
                return Transition("forced", seconds, held, signalled=watch.signalled)
            raise StalledError(f"{told}: {who}, and forcing it did not end it", hint=hint)
        case OnTimeout.REVERSE:
            done = _reverse(watch, applying)
            if done and not applying and not machine.exists(watch.engine.path(name)):
                return Transition("complete", seconds, held, signalled=watch.signalled)  # after all
            now = "not applied, as before" if applying else "still applied, as before"
            after = f"It was reversed: {name} is {now}" if done else "Reversing it goes on"
            raise StalledError(f"{told}: {who}. {after}", hint=hint)


def _reverse(watch: _Watch, applying: bool) -> bool:
    """Sends a transition back to where it came from; whether it got there."""
    watch.report.detail("reversing")
    try:
        watch.write("enabled", "0" if applying else "1")
    except ResourceError:
        if watch.moving:
            raise
        return True  # it ended by itself just now
    watch.engine.begun(watch.machine, watch.name)
    return watch.until_end(watch.policy.reverse_wait)


def take_back(
    machine: Machine,
    name: str,
    *,
    engine: Engine,
    applying: bool,
    policy: Policy,
    monitor: Monitor | None = None,
) -> None:
    """After an interrupt: reverses a transition that is under way; does nothing when none is.

    Raises StalledError when a task keeps it from getting back.
    """
    if not in_transition(machine, engine.path(name)):
        return
    verb = "applying" if applying else "undoing"
    with stage(monitor or NullMonitor(), "reverse", f"Interrupted: taking {verb} {name} back") as r:
        watch = _Watch(machine, engine, name, policy, r)
        if not _reverse(watch, applying):
            held = _held(machine, name)
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
