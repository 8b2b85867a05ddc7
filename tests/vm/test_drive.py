"""Mainline's livepatch, driven by the core module instead of left to its own pace."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator

import pytest
from core_guest import DRIVE, core_lab, hammer_tasks, left_clean

pytestmark = pytest.mark.vm

TIMES = re.compile(r"^\[ *([0-9.]+)\] livepatch: '(\w+)': (starting|\w+ing complete)", re.MULTILINE)


@pytest.fixture(scope="module")
def shared(boot, crowd: bytes) -> Iterator[object]:
    """Of two processors: the other one's idle task never moves at mainline's first try."""
    with core_lab(boot, crowd) as lab:
        yield lab


@pytest.fixture
def lab(shared) -> Iterator[object]:
    with left_clean(shared):
        yield shared


def change(lab, name: str, *, on: bool, drive: str = "") -> None:
    """Applies or undoes, and waits for the end; `drive` is the file to write after the begin."""
    begin = (
        f"insmod /lab/patches/{name}.ko" if on else f"echo 0 >/sys/kernel/livepatch/{name}/enabled"
    )
    push = f"; echo 1 >{DRIVE}/{drive}" if drive else ""
    end = f"; crowd wait /sys/kernel/livepatch/{name}/transition"
    gone = "" if on else f"; n=0; until rmmod {name} || [ $((n+=1)) = 50 ]; do usleep 100000; done"
    lab.guest.check(begin + push + end + gone, timeout=60)


def durations(lab) -> list[float]:
    """The transitions since the kernel log was last cleared, in seconds."""
    found = TIMES.findall(lab.guest.check("dmesg -c"))
    times = [float(time) for time, _, _ in found]
    assert [what == "starting" for _, _, what in found] == [True, False] * (len(found) // 2)
    return [end - begin for begin, end in zip(times[::2], times[1::2], strict=True)]


def test_transitions_end_many_times_sooner_than_by_themselves(lab):
    lab.guest.check("crowd sleep 500; dmesg -c")
    for drive, rounds in (("", 2), ("drive", 3)):
        for _ in range(rounds):
            change(lab, "rl_cmdline", on=True, drive=drive)
            assert lab.guest.check("cat /proc/cmdline") == "rebootless was here\n"
            change(lab, "rl_cmdline", on=False, drive=drive)
    took = durations(lab)
    own, driven = took[:4], took[4:]
    assert len(driven) == 6
    assert statistics.median(driven) * 3 < statistics.median(own), (own, driven)
    assert lab.guest.check(f"cat {DRIVE}/drive {DRIVE}/signal") == "0\n0\n"


def test_driving_does_not_signal_and_signals_go_out_at_once_when_asked(lab):
    """500 tasks asleep in the very function; the kernel's own signals would come after 15 s."""
    lab.guest.check("crowd sleep 500; sleep 0.5; dmesg -c")
    lab.guest.check(f"insmod /lab/patches/rl_sleep.ko; echo 1 >{DRIVE}/drive; sleep 4")
    transition = "/sys/kernel/livepatch/rl_sleep/transition"
    assert lab.guest.check(f"cat {transition} {DRIVE}/drive {DRIVE}/signal") == "1\n1\n0\n"
    assert "signaling" not in lab.guest.check("dmesg")  # after some 20 tries
    took = lab.guest.check(f"echo 1 >{DRIVE}/signal; crowd wait {transition}", timeout=30)
    assert float(took) < 5000
    log = lab.guest.check("dmesg")
    assert "signaling remaining tasks" in log
    assert "'rl_sleep': patching complete" in log
    assert lab.guest.check("pidof crowd | wc -w") == "500\n"  # they sleep on
    change(lab, "rl_sleep", on=False, drive="signal")


def test_a_write_without_a_transition_does_nothing(lab):
    lab.guest.check(f"echo 1 >{DRIVE}/drive; echo 1 >{DRIVE}/signal; sleep 0.2")
    assert lab.guest.check(f"cat {DRIVE}/drive {DRIVE}/signal") == "0\n0\n"
    assert lab.guest.run(f"echo 0 >{DRIVE}/drive").status != 0


def test_the_core_can_go_while_it_drives(lab):
    lab.guest.background("exec sleep 1000")
    lab.guest.check(f"sleep 0.3; insmod /lab/patches/rl_sleep.ko; echo 1 >{DRIVE}/drive; sleep 0.3")
    lab.guest.check("rmmod rebootless_core; killall sleep")
    lab.guest.check("crowd wait /sys/kernel/livepatch/rl_sleep/transition")
    change(lab, "rl_sleep", on=False)
    lab.machine.load_module(b"", name="rebootless_core")


@pytest.mark.soak
def test_halves_never_mix_in_a_hundred_cycles(lab):
    hammer_tasks(lab, 100, "livepatch")
