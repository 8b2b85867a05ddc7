"""Patches in a guest by the core module's engines: shell texts and what sysfs tells of them."""

from __future__ import annotations

ROOT = "/sys/kernel/rebootless/patches"
PARAMETERS = "/sys/module/rebootless_core/parameters"
NAPS = "/sys/module/rl_halves/parameters/naps"
TURNS = "/sys/module/rl_halves/parameters/turns"


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
    guest.check(f"echo 2000 >{NAPS}; echo 1000 >{PARAMETERS}/tries")
    start = turns(guest)
    guest.check("crowd halves 3 /tmp/stop >/tmp/out 2>&1 &")
    for cycle in range(cycles):
        for switch, so_far in ((on, 2 * cycle + 1), (off, 2 * cycle + 2)):
            seen = f"until [ $(cat {TURNS}) -ge {start + so_far} ]; do :; done"
            guest.check(f"{switch('rl_halves_patch')} && {seen}", timeout=120)
    guest.check(f"echo 64 >{NAPS}; echo 45 >{PARAMETERS}/tries")
    calls, mixes, ups, _, downs, *_ = counted(guest)
    assert mixes == 0
    assert 0 < ups <= cycles and 0 < downs <= cycles, "no process changes more often than the code"
    assert turns(guest) - start == 2 * cycles
    return calls
