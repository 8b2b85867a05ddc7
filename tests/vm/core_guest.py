"""A guest with the core module: patches that come and go by each engine, and who calls meanwhile.

`on`, `off`... are shell texts, for tests that must not wait between two steps; `apply`, `undo`...
run them in the guest of a lab, by the engine per-task unless another one is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

ROOT = "/sys/kernel/rebootless/patches"
LIVEPATCH = "/sys/kernel/livepatch"
DRIVE = "/sys/kernel/rebootless/livepatch"
TRACING = "/sys/kernel/tracing"
PARAMETERS = "/sys/module/rebootless_core/parameters"
NAPS = "/sys/module/rl_halves/parameters/naps"
TURNS = "/sys/module/rl_halves/parameters/turns"
# until the file `stop` is there: modules that come and go
STORM = "until [ -e /tmp/stop ]; do insmod /lib/modules/dummy.ko; rmmod dummy; done"


@contextmanager
def core_lab(boot, crowd: bytes, **options: object) -> Iterator[object]:
    """A guest of two processors, with the core module loaded and the program `crowd`."""
    with boot(core=True, cpus=2, files={"/bin/crowd": (crowd, 0o755)}, **options) as lab:
        lab.machine.load_module(b"", name="rebootless_core")
        yield lab
        assert "WARNING" not in lab.vm.console()
        assert "BUG" not in lab.vm.console()


@contextmanager
def left_clean(lab) -> Iterator[None]:
    """For one test: no patch and no process of it may be left in the guest."""
    lab.guest.check("rm -f /tmp/stop; dmesg -c >/dev/null")
    yield
    lab.guest.run("touch /tmp/stop; killall -q crowd sleep cat dd")
    assert lab.machine.glob([f"{ROOT}/*", f"{LIVEPATCH}/*"]) == []


def folder(name: str, engine: str) -> str:
    """A patch in sysfs."""
    return f"{LIVEPATCH if engine == 'livepatch' else ROOT}/{name}"


def load(lab, name: str, engine: str = "per-task") -> None:
    """Begins to apply; the first attempt has been made then. Mainline's engine is driven."""
    lab.guest.check(f"insmod /lab/patches/{name}.ko engine={engine}{_drive(engine)}")


def _drive(engine: str) -> str:
    return f" && echo 1 >{DRIVE}/drive" if engine == "livepatch" else ""


def settled(lab, name: str, engine: str = "per-task") -> None:
    """Waits for the end of the transition, or of the patch itself."""
    try:
        lab.guest.check(f"crowd wait {folder(name, engine)}/transition", timeout=40)
    except Exception as exc:
        raise AssertionError(f"{name}: held by {held(lab, name)}") from exc


def apply(lab, name: str, engine: str = "per-task") -> None:
    load(lab, name, engine)
    settled(lab, name, engine)


def unload(lab, name: str) -> None:
    lab.guest.check(f"n=0; until rmmod {name} || [ $((n+=1)) = 100 ]; do usleep 100000; done")
    assert not lab.machine.exists(f"/sys/module/{name}")


def undo(lab, name: str, engine: str = "per-task") -> None:
    lab.guest.check(f"echo 0 >{folder(name, engine)}/enabled{_drive(engine)}")
    settled(lab, name, engine)
    unload(lab, name)


def held(lab, name: str) -> list[tuple[str, str]]:
    """(comm, function) of our own tasks that hold it; what runs our commands sleeps as well."""
    lines = lab.guest.run(f"sleep 0.5; cat {ROOT}/{name}/held").output.splitlines()
    tasks = [line.split("\t")[2:] for line in lines]
    return [(comm, function) for function, comm in tasks if comm in ("crowd", "rl_waiter")]


def end_of(name: str) -> str:
    """Waits, without ever sleeping, until the patch's transition is over or the patch is gone."""
    return f'while [ "$(cat {ROOT}/{name}/transition 2>/dev/null)" = 1 ]; do :; done'


def on(name: str, engine: str = "atomic") -> str:
    """Applies, and fails unless the patch is in force afterwards."""
    return (
        f"insmod /lab/patches/{name}.ko engine={engine} && {end_of(name)};"
        f' [ "$(cat {ROOT}/{name}/enabled)" = 1 ]'
    )


def gone(name: str) -> str:
    """Waits until the patch is gone, and removes its module."""
    return (
        f"while [ -e {ROOT}/{name} ]; do :; done; n=0;"
        f" until rmmod {name}; do [ $((n+=1)) -lt 300 ] || exit 9; done 2>/dev/null"
    )


def off(name: str) -> str:
    """Undoes, and removes the module."""
    return f"echo 0 >{ROOT}/{name}/enabled && {end_of(name)}; {gone(name)}"


def stats(guest, name: str) -> dict[str, int]:
    """The numbers that the engine keeps of the last transition."""
    lines = guest.check(f"cat {ROOT}/{name}/stats").splitlines()
    return {key: int(value) for key, value in (line.split() for line in lines)}


def counted(guest) -> list[int]:
    """What the hammering processes have seen, after they were told to stop."""
    wait = "touch /tmp/stop; until [ -s /tmp/out ]; do usleep 10000; done; cat /tmp/out"
    return [int(word) for word in guest.check(wait).split()]


def turns(guest) -> int:
    return int(guest.check(f"cat {TURNS}"))


def hammer_through(guest, cycles: int) -> int:
    """Applies and undoes while calls go on all the time; returns how many calls there were.

    No call may be half old and half new. And, since all functions switch at once on all CPUs, no
    old call may begin anywhere after a new one: all calls together change version once a switch.
    """
    # who is asleep in the function holds the switch up, and three often are
    guest.check(f"echo 10000 >{NAPS}; echo 1000 >{PARAMETERS}/tries")
    start = turns(guest)
    guest.check("crowd halves 3 /tmp/stop >/tmp/out 2>&1 &")
    for cycle in range(cycles):
        for switch, so_far in ((on, 2 * cycle + 1), (off, 2 * cycle + 2)):
            seen = f"until [ $(cat {TURNS}) -ge {start + so_far} ]; do :; done"
            guest.check(f"{switch('rl_halves_patch')} && {seen}", timeout=300)
    guest.check(f"echo 64 >{NAPS}; echo 45 >{PARAMETERS}/tries")
    calls, mixes, ups, _, downs, *_ = counted(guest)
    print(f"atomic: {cycles} cycles, {calls} calls, {mixes} mixes")
    assert mixes == 0
    assert 0 < ups <= cycles and 0 < downs <= cycles, "no process changes more often than the code"
    assert turns(guest) - start == 2 * cycles
    return calls


def hammer_tasks(lab, cycles: int, engine: str = "per-task") -> None:
    """Applies and undoes a change of two functions that belong together while all call them.

    Long-lived processes and ever new ones call; modules come and go; a tracer and a kprobe are
    on the same functions. Each process sees the new code once per cycle, and the old code again.
    """
    lab.guest.check("rm -f /tmp/stop /tmp/halves /tmp/forks; insmod /lab/patches/rl_halves.ko")
    trace = (
        f"cd {TRACING}; echo rl_outer >set_ftrace_filter; echo function >current_tracer;"
        "echo p:rl_probe rl_inner >kprobe_events; echo 1 >events/kprobes/enable"
    )
    lab.guest.check(trace)
    lab.guest.background("crowd halves 4 /tmp/stop >/tmp/halves")
    lab.guest.background("crowd forks /tmp/stop >/tmp/forks")
    lab.guest.background(STORM)
    for _ in range(cycles):
        apply(lab, "rl_halves_patch", engine)
        undo(lab, "rl_halves_patch", engine)
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
    calls, mixes, most_ups, fewest_ups, most_downs, fewest_downs, new = _numbers(lab, "halves")
    children, by_children, mixes_of_children = _numbers(lab, "forks")
    print(f"{engine}: {cycles} cycles, {calls} calls, {mixes} mixes;",
          f"{by_children} calls by as many children, {mixes_of_children} mixes")  # fmt: skip
    assert calls > 1000 * cycles
    assert mixes == 0
    # more would be one that went back without being told to; fewer, one that was left out
    assert (most_ups, fewest_ups, most_downs, fewest_downs) == (cycles,) * 4
    assert new == 0
    assert children == by_children > 0
    assert mixes_of_children == 0


def _numbers(lab, name: str) -> list[int]:
    return [int(word) for word in lab.guest.check(f"cat /tmp/{name}").split()]
