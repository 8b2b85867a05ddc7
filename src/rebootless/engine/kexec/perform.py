"""Does what a plan says, with the machine down for as short as possible.

load        everything runs; an interrupt or a failure unloads the kernel again
sync        everything runs; so there is little left to write when nothing does
--------    from here on it goes forward: signals are not listened to
stop        systemd stops the units, or processes are ended, or (force) nothing
freeze      what is on the disks is whole, and stays so
execute     the new kernel runs; if the old one refuses: thaw, unload, tell
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from ...base import proc
from ...base.events import Monitor, stage
from . import plan as planning
from .calls import Calls
from .plan import Plan, Way


def perform(plan: Plan, calls: Calls, monitor: Monitor) -> None:
    """Starts the new kernel; comes back only in systemd's way, which has begun then.

    Raises the plan's own refusal, or KernelRefusedError, CommandError, ResourceError; nothing is
    loaded then.
    """
    planning.refuse(plan)
    with _loaded(plan, calls, monitor) as given:
        with stage(monitor, "sync", "Writing to the disks what is not there yet"):
            calls.sync()
        if plan.way == Way.SYSTEMD:
            _hand_to_systemd(calls, monitor, given)
            return
        with _deaf():
            if plan.way == Way.SIGNALS:
                calls.end_processes(plan.grace)
                calls.sync()
            # Nothing may be printed from here on: standard output may be a file that is frozen.
            with calls.frozen(plan.frozen_mounts):
                calls.execute()


@contextlib.contextmanager
def _loaded(plan: Plan, calls: Calls, monitor: Monitor) -> Iterator[list[bool]]:
    """A loaded kernel; it is taken out again unless the list that this gives is filled."""
    given: list[bool] = []
    is_loaded = False
    try:
        title = f"Loading {plan.target.release} by {plan.loader}"
        with stage(monitor, "load", title), proc.signals_held_back():
            calls.load(plan.target, plan.loader)
            is_loaded = True
        yield given
    except BaseException:
        if is_loaded and not given:
            calls.unload(plan.loader)
        raise


def _hand_to_systemd(calls: Calls, monitor: Monitor, given: list[bool]) -> None:
    """Once systemd has it, it ends us as well, and that must not unload the kernel.

    A failure may leave it unclear whether systemd has begun. With nothing loaded, the worst that
    comes of that is an ordinary reboot.
    """
    with stage(monitor, "stop", "Handing over to systemd"), proc.signals_held_back():
        calls.hand_to_systemd()
        given.append(True)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignores the signals that would end us half-way, as the end of a session sends them."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
