"""What is done in which order, and what is taken back when one step fails or is interrupted."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Collection, Iterator
from dataclasses import replace

import pytest
from kexec_facts import facts, situation

from rebootless.base.errors import CommandError, KernelRefusedError, RebootlessError
from rebootless.base.events import NullMonitor
from rebootless.engine.kexec import plan as planning
from rebootless.engine.kexec.perform import perform
from rebootless.engine.kexec.target import Target


class Steps:
    """Writes down each call; `fails` raises in one of them.

    The kernel that is executed never runs here, so `execute` raises as it does when it comes back.
    """

    def __init__(self, fails: str = "", error: BaseException | None = None) -> None:
        self.done: list[str] = []
        self.fails = fails
        self.error = error or KernelRefusedError("no")
        self.handlers: dict[str, object] = {}

    def _step(self, name: str) -> None:
        self.done.append(name)
        self.handlers[name] = signal.getsignal(signal.SIGTERM)
        if name == self.fails:
            raise self.error

    def load(self, target: Target, loader: str) -> None:
        self._step("load")

    def unload(self, loader: str) -> None:
        self._step("unload")

    def sync(self) -> None:
        self._step("sync")

    @contextlib.contextmanager
    def frozen(self, paths: Collection[str]) -> Iterator[None]:
        self._step("freeze " + " ".join(paths))
        try:
            yield
        finally:
            self._step("thaw")

    def hand_to_systemd(self) -> None:
        self._step("systemd")

    def end_processes(self, grace: float) -> None:
        self._step(f"end {grace:g}")

    def execute(self) -> None:
        self._step("execute")
        raise KernelRefusedError("it came back")


def done(steps: Steps, *, force: bool = False, has_systemd: bool = True) -> list[str]:
    made = planning.make(situation(has_systemd=has_systemd), force=force, grace=3)
    with contextlib.suppress(RebootlessError, KeyboardInterrupt):
        perform(made, steps, NullMonitor())
    return steps.done


def test_systemd_gets_a_loaded_kernel_and_keeps_it() -> None:
    assert done(Steps()) == ["load", "sync", "systemd"]


def test_ways_without_systemd_end_in_a_frozen_state() -> None:
    last = ["freeze /home /", "execute", "thaw", "unload"]
    assert done(Steps(), has_systemd=False) == ["load", "sync", "end 3", "sync", *last]
    assert done(Steps(), force=True) == ["load", "sync", *last]


@pytest.mark.parametrize("fails", ["sync", "systemd"])
@pytest.mark.parametrize("error", [CommandError("no", returncode=1), KeyboardInterrupt()])
def test_what_was_loaded_does_not_stay(fails: str, error: BaseException) -> None:
    assert done(Steps(fails, error))[-2:] == [fails, "unload"]


def test_a_load_that_failed_leaves_what_was_there_before() -> None:
    assert done(Steps("load")) == ["load"]


def test_a_refused_plan_loads_nothing() -> None:
    refused = planning.make(replace(situation(), kernel=facts(kexec_load_disabled="1")))
    steps = Steps()
    with pytest.raises(KernelRefusedError):
        perform(refused, steps, NullMonitor())
    assert steps.done == []


def test_past_the_first_stopped_process_no_signal_is_listened_to() -> None:
    before = signal.getsignal(signal.SIGTERM)
    steps = Steps()
    done(steps, has_systemd=False)
    assert steps.handlers["load"] != signal.SIG_IGN
    assert steps.handlers["end 3"] == steps.handlers["execute"] == signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) == before
