"""Tasks that hold a transition: those that are woken, those that must not be, those that cannot be.

Each engine in turn, as the tool drives it; mainline's livepatch is driven by the core module.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from core_guest import core_lab, left_clean

from rebootless.base.errors import StalledError
from rebootless.engine import patching
from rebootless.engine.transition import Policy

pytestmark = pytest.mark.vm

ENGINES = pytest.mark.parametrize("engine", ["livepatch", "atomic", "per-task"])
NEVER = Policy(wait=3, signal_after=None)
AT_ONCE = Policy(wait=30, signal_after=0)
IN_VAIN = Policy(wait=4, signal_after=0)
DEAF = "/sys/module/rl_threads/parameters/deaf"
CROWD = 3


@pytest.fixture(scope="module")
def shared(boot, crowd: bytes) -> Iterator[object]:
    with core_lab(boot, crowd) as lab:
        yield lab


@pytest.fixture
def lab(shared) -> Iterator[object]:
    with left_clean(shared):
        yield shared
        shared.guest.run(f"echo 0 >{DEAF}; killall -q -9 crowd dd; rmmod rl_threads")


def apply(lab, name: str, engine: str, policy: Policy) -> patching.Applied:
    module = lab.guest.run_bytes(f"cat /lab/patches/{name}.ko")[1]
    return patching.apply(lab.machine, module, engine=engine, policy=policy)


def refused(lab, name: str, engine: str, policy: Policy) -> str:
    """Tries in vain; the kernel is as before then. Returns what is said of it."""
    with pytest.raises(StalledError) as told:
        apply(lab, name, engine, policy)
    assert not lab.machine.exists(f"/sys/module/{name}")
    return str(told.value)


@ENGINES
def test_who_sleeps_in_epoll_wait_is_only_disturbed_when_that_is_allowed(lab, engine: str) -> None:
    """The call ends with EINTR, which nothing starts again; a policy can forbid that."""
    lab.guest.check(f"rm -f /tmp/ends; crowd epoll {CROWD} /tmp/ends")
    lab.guest.check(
        f"until [ $(cat /proc/[0-9]*/stack | grep -c '] do_epoll_wait') = {CROWD} ]; do :; done"
    )
    assert "crowd" in refused(lab, "rl_epoll", engine, NEVER)
    assert lab.guest.check("pidof crowd | wc -w; cat /tmp/ends") == f"{CROWD}\n"
    applied = apply(lab, "rl_epoll", engine, AT_ONCE)
    assert applied.engine == engine and applied.transition.signalled
    lab.guest.check("while pidof crowd >/dev/null; do sleep 0.1; done")
    assert lab.guest.check("cat /tmp/ends") == "EINTR\n" * CROWD
    lab.guest.check("crowd epoll 1 /tmp/ends; sleep 0.5; grep EXDEV /tmp/ends")
    patching.undo(lab.machine, "rl_epoll", policy=AT_ONCE)


@ENGINES
def test_who_cannot_be_woken_is_named_and_nothing_changes(lab, engine: str) -> None:
    """A process in uninterruptible sleep and a kernel thread; signals are sent, and do nothing."""
    lab.guest.check("insmod /lab/patches/rl_threads.ko deaf=1")
    pid = lab.guest.background("exec dd if=/proc/rl_wait of=/tmp/waited bs=64 count=1")
    lab.guest.check(f"until grep -q rl_wait /proc/{pid}/stack; do :; done")
    said = refused(lab, "rl_wait_patch", engine, IN_VAIN)
    assert " dd" in said and "rl_waiter" in said and "rl_wait" in said
    lab.guest.check(f"echo 0 >{DEAF}; while [ -e /proc/{pid} ]; do sleep 0.1; done")
    assert lab.guest.check("cat /tmp/waited; sleep 0.3; cat /proc/rl_threads") == "0\n0 0\n"
    apply(lab, "rl_wait_patch", engine, AT_ONCE)
    patching.undo(lab.machine, "rl_wait_patch", policy=AT_ONCE)
