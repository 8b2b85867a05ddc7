"""The atomic engine on a real kernel: crowds, blockers, tracers, and halves that never mix."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from core_guest import (
    PARAMETERS,
    ROOT,
    TRACING,
    core_lab,
    counted,
    end_of,
    gone,
    hammer_through,
    left_clean,
    off,
    on,
    stats,
)

from rebootless.engine import text
from rebootless.engine.status import PatchedFunction

pytestmark = pytest.mark.vm

CMDLINE = PatchedFunction("vmlinux", "cmdline_proc_show")
MIB = 768  # for 500 processes


@pytest.fixture(scope="module")
def shared(boot, crowd: bytes) -> Iterator[object]:
    with core_lab(boot, crowd, memory_mib=MIB) as lab:
        lab.guest.check("insmod /lab/patches/rl_halves.ko")
        yield lab
        lab.guest.check("rmmod rl_halves rebootless_core")


@pytest.fixture
def lab(shared) -> Iterator[object]:
    with left_clean(shared):
        yield shared


def cmdline(lab) -> str:
    return lab.guest.check("cat /proc/cmdline").strip()


def cycle(lab, name: str = "rl_cmdline") -> None:
    lab.guest.check(f"{on(name)} && {off(name)}", timeout=120)


def test_apply_and_undo_with_500_sleepers(lab):
    place = text.locate(lab.machine, [CMDLINE])
    code = text.entries(lab.machine, place)
    before = cmdline(lab)
    lab.guest.check("crowd sleep 500")
    for _ in range(3):
        lab.guest.check(on("rl_cmdline"))
        assert cmdline(lab) == "rebootless was here"
        seen = stats(lab.guest, "rl_cmdline")
        assert seen["stop_ns"] > 0
        assert seen["walked"] > 500
        assert seen["rewalked"] < seen["walked"] / 4, "most stacks are walked before the stop"
        lab.guest.check(off("rl_cmdline"))
        assert cmdline(lab) == before
    assert text.entries(lab.machine, place) == code


def test_a_task_asleep_in_the_function_is_named_and_waited_for(lab):
    """All of it in the background: whoever waits for a command in the guest sleeps there, too."""
    lab.guest.put_file(
        f"""sleep 3 & pid=$!
        until grep -q nanosleep /proc/$pid/stack; do :; done
        insmod /lab/patches/rl_sleep.ko engine=atomic
        echo $pid $(cat {ROOT}/rl_sleep/transition {ROOT}/rl_sleep/stats)
        cat {ROOT}/rl_sleep/held
        {end_of("rl_sleep")}
        cat {ROOT}/rl_sleep/enabled
        {off("rl_sleep")}
        touch /tmp/slept
        """.encode(),
        "/tmp/sleep.sh",
    )
    time.sleep(2)
    lab.guest.background("exec sh /tmp/sleep.sh >/tmp/held 2>&1")
    for _ in range(20):
        time.sleep(6)
        if lab.guest.run("[ -e /tmp/slept ]").status == 0:
            break
    first, *held, enabled = lab.guest.check("cat /tmp/held").splitlines()
    pid, transition, *numbers = first.split()
    assert (transition, enabled) == ("1", "1")
    assert f"{pid}\t{pid}\thrtimer_nanosleep\tsleep" in held
    assert dict(zip(numbers[::2], numbers[1::2], strict=True))["stop_ns"] == "0", (
        "nothing stops while somebody sleeps in it"
    )


def test_a_signal_wakes_who_sleeps_in_the_function(lab):
    lab.guest.check("insmod /lab/patches/rl_threads.ko")
    lab.guest.check("insmod /lab/patches/rl_wait_patch.ko engine=atomic")
    held = lab.guest.check(f"cat {ROOT}/rl_wait_patch/transition {ROOT}/rl_wait_patch/held")
    assert held.startswith("1\n")
    assert held.endswith("\trl_wait\trl_waiter\n")
    lab.guest.check(f"echo 1 >{ROOT}/rl_wait_patch/signal; {end_of('rl_wait_patch')}")
    assert lab.guest.check(f"cat {ROOT}/rl_wait_patch/enabled") == "1\n"
    lab.guest.check(
        f"echo 0 >{ROOT}/rl_wait_patch/enabled; echo 1 >{ROOT}/rl_wait_patch/signal;"
        f" {end_of('rl_wait_patch')}; {gone('rl_wait_patch')}; rmmod rl_threads"
    )


def test_a_patch_that_is_held_too_long_is_taken_back_or_forced(lab):
    lab.guest.check(f"insmod /lab/patches/rl_threads.ko; echo 6 >{PARAMETERS}/tries")
    lab.guest.check("insmod /lab/patches/rl_wait_patch.ko engine=atomic")
    lab.guest.check(f"{gone('rl_wait_patch')}; echo 45 >{PARAMETERS}/tries")
    log = lab.guest.check("dmesg")
    assert "patching was tried 6 times and is given up" in log
    assert "rl_waiter in rl_wait" in log
    lab.guest.check(
        "insmod /lab/patches/rl_wait_patch.ko engine=atomic;"
        f" echo 1 >{ROOT}/rl_wait_patch/force; [ $(cat {ROOT}/rl_wait_patch/transition) = 0 ]"
    )
    lab.guest.check(
        f"echo 0 >{ROOT}/rl_wait_patch/enabled; {end_of('rl_wait_patch')};"
        f" {gone('rl_wait_patch')}; rmmod rl_threads"
    )


def test_cpu_hogs_in_user_space_and_in_the_kernel_hold_nothing(lab):
    lab.guest.background("while [ ! -e /tmp/stop ]; do :; done")
    lab.guest.background("exec cat /dev/zero >/dev/null")
    for _ in range(3):
        cycle(lab)


def test_fork_storm(lab):
    lab.guest.check(f"echo 1000 >{PARAMETERS}/tries")
    lab.guest.check("crowd forks /tmp/stop >/tmp/out 2>&1 &")
    for _ in range(4):
        cycle(lab, "rl_halves_patch")
    lab.guest.check(f"echo 45 >{PARAMETERS}/tries")
    children, calls, mixes = counted(lab.guest)
    assert children == calls > 0
    assert mixes == 0


def test_module_storm(lab):
    packets = "/sys/class/net/dummy0/statistics/tx_packets"
    storm = f"insmod /lib/modules/dummy.ko; cat {packets} >>/tmp/packets; rmmod dummy"
    lab.guest.check(f"rm -f /tmp/packets; {on('rl_dummy')}")
    lab.guest.background(f"while [ ! -e /tmp/stop ]; do {storm}; done; touch /tmp/stopped")
    for _ in range(4):
        cycle(lab)
    lab.guest.check("touch /tmp/stop; until [ -e /tmp/stopped ]; do :; done; rm /tmp/stopped")
    assert set(lab.guest.check("cat /tmp/packets").split()) == {"4242"}
    lab.guest.check(off("rl_dummy"))


def test_a_tracer_and_a_kprobe_live_on_the_same_function(lab):
    lab.guest.check(
        f"cd {TRACING}; echo cmdline_proc_show >set_ftrace_filter; echo function >current_tracer;"
        " echo p:rl_probe cmdline_proc_show >kprobe_events; echo 1 >events/kprobes/enable"
    )
    for state in (on("rl_cmdline"), off("rl_cmdline")):
        lab.guest.check(f"echo >{TRACING}/trace; {state}; cat /proc/cmdline")
        traced = lab.guest.check(f"cat {TRACING}/trace")
        assert "cmdline_proc_show <-seq_read_iter" in traced
        assert "rl_probe: (cmdline_proc_show+0x0/" in traced
    lab.guest.check(
        f"cd {TRACING}; echo 0 >events/kprobes/enable; echo >kprobe_events;"
        " echo nop >current_tracer; echo >set_ftrace_filter"
    )


def test_ftrace_cannot_be_turned_off_under_a_patch(lab):
    switch = "/proc/sys/kernel/ftrace_enabled"
    lab.guest.check(on("rl_cmdline"))
    assert lab.guest.run(f"echo 0 >{switch}").status != 0
    assert cmdline(lab) == "rebootless was here"
    lab.guest.check(f"{off('rl_cmdline')}; echo 0 >{switch}")
    assert lab.guest.run("insmod /lab/patches/rl_cmdline.ko engine=atomic").status != 0
    lab.guest.check(f"echo 1 >{switch}")
    assert "cmdline_proc_show cannot be redirected: ftrace is off" in lab.guest.check("dmesg")
    cycle(lab)


def test_a_function_that_mainline_s_livepatch_holds_is_refused(lab):
    lab.guest.check("insmod /lab/patches/rl_cmdline.ko")
    assert lab.guest.run("insmod /lab/patches/rl_warns.ko engine=atomic").status != 0
    assert "cmdline_proc_show cannot be redirected: another live patch" in lab.guest.check("dmesg")
    assert cmdline(lab) == "rebootless was here"
    lab.guest.check("echo 0 >/sys/kernel/livepatch/rl_cmdline/enabled")
    lab.guest.check("until rmmod rl_cmdline 2>/dev/null; do usleep 50000; done")


def test_whoever_is_killed_while_writing_leaves_a_whole_state(lab):
    lab.guest.check("crowd halves 2 /tmp/stop >/tmp/out 2>&1 &")
    patch = f"{ROOT}/rl_halves_patch"
    for n in range(8):
        lab.guest.check(
            f"[ -e {patch} ] || {{ rmmod rl_halves_patch 2>/dev/null;"
            " insmod /lab/patches/rl_halves_patch.ko engine=atomic; } & p=$!;"
            f" usleep {n * 3000}; kill -9 $p 2>/dev/null; wait;"
            f" [ ! -e {patch} ] || {{ echo 0 >{patch}/enabled & p=$!; kill -9 $p; wait; }}; true",
            timeout=120,
        )
        time.sleep(0.1)
    lab.guest.check(
        f"{end_of('rl_halves_patch')}; [ ! -e {patch} ] || echo 0 >{patch}/enabled;"
        f" {end_of('rl_halves_patch')}; {gone('rl_halves_patch')}",
        timeout=120,
    )
    _, mixes, *_ = counted(lab.guest)
    assert mixes == 0


def test_halves_never_mix_on_any_cpu(lab):
    assert hammer_through(lab.guest, 10) > 10_000


@pytest.mark.soak
@pytest.mark.parametrize("preemption", ["voluntary", "full"])
def test_halves_never_mix_in_100_cycles(boot, crowd: bytes, preemption: str):
    with core_lab(boot, crowd, cmdline=f"preempt={preemption}") as lab:
        lab.guest.check("insmod /lab/patches/rl_halves.ko")
        assert hammer_through(lab.guest, 100) > 1_000_000
