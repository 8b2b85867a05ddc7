"""The per-task engine: who moves when, who holds, ways back, and that nothing ever mixes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from core_guest import (
    ROOT,
    apply,
    core_lab,
    hammer_tasks,
    held,
    left_clean,
    load,
    settled,
    undo,
    unload,
)

from rebootless.base.errors import TestFailedError

pytestmark = pytest.mark.vm

CROWD = 500
USER_HOG = "while :; do :; done"
# seen in user space now and then: before ftrace lets a function go it waits until each task has
# slept or been there, which takes minutes with larger blocks (on every kernel, with any patch)
KERNEL_HOG = "exec dd if=/dev/zero of=/dev/null bs=8k"


@pytest.fixture(scope="module")
def shared(boot, crowd: bytes) -> Iterator[object]:
    with core_lab(boot, crowd) as lab:
        yield lab


@pytest.fixture
def lab(shared) -> Iterator[object]:
    with left_clean(shared):
        yield shared


def left(lab, name: str) -> int:
    return int(lab.guest.check(f"cat {ROOT}/{name}/left"))


def state(lab, name: str) -> str:
    return lab.guest.check(f"cd {ROOT}/{name}; cat enabled transition").replace("\n", "")


def sleepers(lab, number: int) -> None:
    lab.guest.check(f"crowd sleep {number}; sleep 0.5")


def test_a_patch_comes_and_goes_with_hundreds_of_sleepers(lab):
    before = lab.guest.check("cat /proc/cmdline")
    sleepers(lab, CROWD)
    apply(lab, "rl_cmdline")
    assert lab.guest.check("cat /proc/cmdline") == "rebootless was here\n"
    assert state(lab, "rl_cmdline") == "10"
    stats = dict(line.split() for line in lab.guest.check(f"cat {ROOT}/*/stats").splitlines())
    assert stats["signalled"] == "0"
    assert lab.guest.run("rmmod rebootless_core").status != 0  # it is in use
    undo(lab, "rl_cmdline")
    assert lab.guest.check("cat /proc/cmdline") == before


def test_tasks_asleep_in_the_function_hold_it_until_they_are_woken(lab):
    sleepers(lab, CROWD)
    load(lab, "rl_sleep")
    assert held(lab, "rl_sleep")[0] == ("crowd", "hrtimer_nanosleep")
    assert left(lab, "rl_sleep") >= CROWD
    assert state(lab, "rl_sleep") == "11"
    lab.guest.check(f"echo 1 >{ROOT}/rl_sleep/signal")
    settled(lab, "rl_sleep")
    assert left(lab, "rl_sleep") == 0
    assert lab.guest.check("pidof crowd | wc -w") == f"{CROWD}\n"  # they sleep on
    lab.guest.check("killall crowd; sleep 0.5")
    undo(lab, "rl_sleep")


def test_a_way_back_from_half_way_leaves_everything_as_it_was(lab):
    before = lab.guest.check("cat /proc/cmdline")
    sleepers(lab, 1)
    load(lab, "rl_sleep")
    assert held(lab, "rl_sleep") == [("crowd", "hrtimer_nanosleep")]
    lab.guest.check(f"echo 0 >{ROOT}/rl_sleep/enabled")
    settled(lab, "rl_sleep")
    unload(lab, "rl_sleep")
    assert lab.guest.check("pidof crowd | wc -w") == "1\n"
    # back and forth: a new sleeper is in the patch's code, which holds the way back
    load(lab, "rl_sleep")
    sleepers(lab, 1)
    lab.guest.check(f"echo 0 >{ROOT}/rl_sleep/enabled")
    assert held(lab, "rl_sleep") == [("crowd", "rl_hrtimer_nanosleep")]
    lab.guest.check(f"echo 1 >{ROOT}/rl_sleep/enabled")
    assert held(lab, "rl_sleep") == [("crowd", "hrtimer_nanosleep")]
    lab.guest.check("killall crowd")
    settled(lab, "rl_sleep")
    assert state(lab, "rl_sleep") == "10"
    undo(lab, "rl_sleep")
    assert lab.guest.check("cat /proc/cmdline") == before


def test_tasks_that_never_sleep_are_moved(lab):
    hogs = [lab.guest.background(command) for command in (USER_HOG, USER_HOG, KERNEL_HOG)]
    for _ in range(2):
        apply(lab, "rl_cmdline")
        assert lab.guest.check("cat /proc/cmdline") == "rebootless was here\n"
        undo(lab, "rl_cmdline")
    for pid in hogs:
        lab.guest.check(f"kill -9 {pid}")


def test_kernel_threads(lab):
    """One that never sleeps is caught while it runs; one that sleeps in the code is woken."""
    lab.guest.check("insmod /lab/patches/rl_threads.ko; sleep 0.5")
    apply(lab, "rl_tick_patch")
    assert lab.guest.check("sleep 0.2; cat /proc/rl_threads").split() == ["1", "-1"]
    undo(lab, "rl_tick_patch")
    assert lab.guest.check("sleep 0.2; cat /proc/rl_threads").split() == ["0", "-1"]
    load(lab, "rl_wait_patch")
    assert held(lab, "rl_wait_patch") == [("rl_waiter", "rl_wait")]
    lab.guest.check(f"echo 1 >{ROOT}/rl_wait_patch/signal")
    settled(lab, "rl_wait_patch")
    lab.guest.check(f"sleep 0.3; echo 0 >{ROOT}/rl_wait_patch/enabled")
    assert held(lab, "rl_wait_patch") == [("rl_waiter", "rl_new_wait")]
    lab.guest.check(f"echo 1 >{ROOT}/rl_wait_patch/signal")
    settled(lab, "rl_wait_patch")
    unload(lab, "rl_wait_patch")
    lab.guest.check("rmmod rl_threads")


def test_universes_are_even_after_a_replace_and_a_new_core(lab):
    """Three transitions leave every task with the other bit, which a new core must not mind."""
    apply(lab, "rl_cmdline")
    apply(lab, "rl_replace")
    assert lab.guest.check("cat /proc/cmdline") == "rebootless came again\n"
    unload(lab, "rl_cmdline")
    undo(lab, "rl_replace")
    lab.guest.check("rmmod rebootless_core")
    lab.machine.load_module(b"", name="rebootless_core")
    apply(lab, "rl_cmdline")
    assert lab.guest.check("cat /proc/cmdline; cat /proc/cmdline") == "rebootless was here\n" * 2
    undo(lab, "rl_cmdline")


def test_halves_never_mix(lab):
    hammer_tasks(lab, 10)


@pytest.mark.soak
def test_halves_never_mix_in_a_hundred_cycles(lab):
    hammer_tasks(lab, 100)


def test_force_ends_it(boot, crowd):
    """A guest of its own: the module of a patch that was undone by force stays for ever."""
    with core_lab(boot, crowd) as lab:
        sleepers(lab, 3)
        load(lab, "rl_sleep")
        assert held(lab, "rl_sleep") == [("crowd", "hrtimer_nanosleep")] * 3
        lab.guest.check(f"echo 1 >{ROOT}/rl_sleep/force")
        assert state(lab, "rl_sleep") == "10"
        sleepers(lab, 1)
        lab.guest.check(f"echo 0 >{ROOT}/rl_sleep/enabled")
        assert held(lab, "rl_sleep") == [("crowd", "rl_hrtimer_nanosleep")]
        lab.guest.check(f"echo 1 >{ROOT}/rl_sleep/force; sleep 0.5")
        assert not lab.machine.exists(f"{ROOT}/rl_sleep")
        assert lab.guest.run("rmmod rl_sleep").status != 0
        with pytest.raises(TestFailedError):
            load(lab, "rl_sleep")
        lab.guest.check("killall crowd")
        apply(lab, "rl_cmdline")
        undo(lab, "rl_cmdline")
