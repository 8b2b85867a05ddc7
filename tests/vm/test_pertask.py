"""The per-task engine: who moves when, who holds, ways back, and that nothing ever mixes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rebootless.base.errors import TestFailedError

pytestmark = pytest.mark.vm

PATCHES = "/sys/kernel/rebootless/patches"
TRACING = "/sys/kernel/tracing"
CROWD = 500
# until the file `stop` is there: modules that come and go, and tasks that never sleep
STORM = "until [ -e /tmp/stop ]; do insmod /lib/modules/dummy.ko; rmmod dummy; done"
USER_HOG = "while :; do :; done"
# seen in user space now and then: before ftrace lets a function go it waits until each task has
# slept or been there, which takes minutes with larger blocks (on every kernel, with any patch)
KERNEL_HOG = "exec dd if=/dev/zero of=/dev/null bs=8k"


@pytest.fixture(scope="module")
def core_lab(boot, crowd: bytes) -> Iterator[object]:
    with boot(core=True, cpus=2, files={"/lab/crowd": (crowd, 0o755)}) as lab:
        lab.machine.load_module(b"", name="rebootless_core")
        yield lab


@pytest.fixture
def lab(core_lab) -> Iterator[object]:
    yield core_lab
    core_lab.guest.run("killall -q crowd sleep dd")
    assert core_lab.machine.glob([f"{PATCHES}/*"]) == []
    log = core_lab.guest.check("dmesg")
    assert "WARNING:" not in log
    assert "BUG:" not in log


def load(lab, name: str) -> None:
    """Begins to apply; the first attempt has been made then."""
    lab.guest.check(f"insmod /lab/patches/{name}.ko engine=per-task")


def settled(lab, name: str) -> None:
    """Waits for the end of the transition, or of the patch itself."""
    try:
        lab.guest.check(f"/lab/crowd wait {PATCHES}/{name}/transition", timeout=40)
    except Exception as exc:
        raise AssertionError(f"{name}: held by {held(lab, name)}") from exc


def apply(lab, name: str) -> None:
    load(lab, name)
    settled(lab, name)


def unload(lab, name: str) -> None:
    lab.guest.check(f"n=0; until rmmod {name} || [ $((n+=1)) = 100 ]; do usleep 100000; done")
    assert not lab.machine.exists(f"/sys/module/{name}")


def undo(lab, name: str) -> None:
    lab.guest.check(f"echo 0 >{PATCHES}/{name}/enabled")
    settled(lab, name)
    unload(lab, name)


def held(lab, name: str) -> list[tuple[str, str]]:
    """(comm, function) of our own tasks that hold it; what runs our commands sleeps as well."""
    lines = lab.guest.run(f"sleep 0.5; cat {PATCHES}/{name}/held").output.splitlines()
    tasks = [line.split("\t")[2:] for line in lines]
    return [(comm, function) for function, comm in tasks if comm in ("crowd", "rl_waiter")]


def left(lab, name: str) -> int:
    return int(lab.guest.check(f"cat {PATCHES}/{name}/left"))


def state(lab, name: str) -> str:
    return lab.guest.check(f"cd {PATCHES}/{name}; cat enabled transition").replace("\n", "")


def sleepers(lab, number: int) -> None:
    lab.guest.check(f"/lab/crowd sleep {number}; sleep 0.5")


def test_a_patch_comes_and_goes_with_hundreds_of_sleepers(lab):
    before = lab.guest.check("cat /proc/cmdline")
    sleepers(lab, CROWD)
    apply(lab, "rl_cmdline")
    assert lab.guest.check("cat /proc/cmdline") == "rebootless was here\n"
    assert state(lab, "rl_cmdline") == "10"
    stats = dict(line.split() for line in lab.guest.check(f"cat {PATCHES}/*/stats").splitlines())
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
    lab.guest.check(f"echo 1 >{PATCHES}/rl_sleep/signal")
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
    lab.guest.check(f"echo 0 >{PATCHES}/rl_sleep/enabled")
    settled(lab, "rl_sleep")
    unload(lab, "rl_sleep")
    assert lab.guest.check("pidof crowd | wc -w") == "1\n"
    # back and forth: a new sleeper is in the patch's code, which holds the way back
    load(lab, "rl_sleep")
    sleepers(lab, 1)
    lab.guest.check(f"echo 0 >{PATCHES}/rl_sleep/enabled")
    assert held(lab, "rl_sleep") == [("crowd", "rl_hrtimer_nanosleep")]
    lab.guest.check(f"echo 1 >{PATCHES}/rl_sleep/enabled")
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
    lab.guest.check(f"echo 1 >{PATCHES}/rl_wait_patch/signal")
    settled(lab, "rl_wait_patch")
    lab.guest.check(f"sleep 0.3; echo 0 >{PATCHES}/rl_wait_patch/enabled")
    assert held(lab, "rl_wait_patch") == [("rl_waiter", "rl_new_wait")]
    lab.guest.check(f"echo 1 >{PATCHES}/rl_wait_patch/signal")
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


def hammer(lab, cycles: int) -> None:
    """Applies and undoes a change of two functions that belong together while all call them.

    Long-lived processes and ever new ones call; modules come and go; a tracer and a kprobe are
    on the same functions. Each process sees the new code once per cycle, and the old code again.
    """
    lab.guest.check("rm -f /tmp/stop; insmod /lab/patches/rl_halves.ko")
    trace = (
        f"cd {TRACING}; echo rl_outer >set_ftrace_filter; echo function >current_tracer;"
        "echo p:rl_probe rl_inner >kprobe_events; echo 1 >events/kprobes/enable"
    )
    lab.guest.check(trace)
    lab.guest.background("/lab/crowd halves 4 /tmp/stop >/tmp/halves")
    lab.guest.background("/lab/crowd forks /tmp/stop >/tmp/forks")
    lab.guest.background(STORM)
    for _ in range(cycles):
        apply(lab, "rl_halves_patch")
        undo(lab, "rl_halves_patch")
    lab.guest.check(
        "touch /tmp/stop; until [ -s /tmp/halves -a -s /tmp/forks ]; do sleep 0.2; done"
    )
    lab.guest.run("rmmod dummy")
    traced = lab.guest.check(f"cd {TRACING}; grep -c rl_outer trace; cat kprobe_profile")
    lab.guest.check(
        f"cd {TRACING}; echo nop >current_tracer; echo >set_ftrace_filter;"
        "echo 0 >events/kprobes/enable; echo >kprobe_events; echo >trace; rmmod rl_halves"
    )
    count, probe = traced.splitlines()
    assert int(count) > 0
    assert int(probe.split()[1]) > 0
    calls, mixes, most_ups, fewest_ups, most_downs, fewest_downs, new = map(
        int, lab.guest.check("cat /tmp/halves").split()
    )
    assert calls > 1000 * cycles
    assert mixes == 0
    # more would be one that went back without being told to; fewer, one that was left out
    assert (most_ups, fewest_ups, most_downs, fewest_downs) == (cycles,) * 4
    assert new == 0
    children, calls, mixes = map(int, lab.guest.check("cat /tmp/forks").split())
    assert children == calls > 0
    assert mixes == 0


def test_halves_never_mix(lab):
    hammer(lab, 10)


@pytest.mark.soak
def test_halves_never_mix_in_a_hundred_cycles(lab):
    hammer(lab, 100)


def test_force_ends_it(boot, crowd):
    """A guest of its own: the module of a patch that was undone by force stays for ever."""
    with boot(core=True, files={"/lab/crowd": (crowd, 0o755)}) as lab:
        lab.machine.load_module(b"", name="rebootless_core")
        sleepers(lab, 3)
        load(lab, "rl_sleep")
        assert held(lab, "rl_sleep") == [("crowd", "hrtimer_nanosleep")] * 3
        lab.guest.check(f"echo 1 >{PATCHES}/rl_sleep/force")
        assert state(lab, "rl_sleep") == "10"
        sleepers(lab, 1)
        lab.guest.check(f"echo 0 >{PATCHES}/rl_sleep/enabled")
        assert held(lab, "rl_sleep") == [("crowd", "rl_hrtimer_nanosleep")]
        lab.guest.check(f"echo 1 >{PATCHES}/rl_sleep/force; sleep 0.5")
        assert not lab.machine.exists(f"{PATCHES}/rl_sleep")
        assert lab.guest.run("rmmod rl_sleep").status != 0
        with pytest.raises(TestFailedError):
            load(lab, "rl_sleep")
        lab.guest.check("killall crowd")
        apply(lab, "rl_cmdline")
        undo(lab, "rl_cmdline")
