"""The engine on a real kernel: apply, undo, replace, stall, and all ways to be refused."""

from __future__ import annotations

import threading
import time

import pytest

from rebootless.base.errors import (
    KernelRefusedError,
    StalledError,
    StateError,
    WrongKernelError,
)
from rebootless.engine import patching, status, text
from rebootless.engine.checks import Wanted
from rebootless.engine.status import PatchedFunction
from rebootless.engine.transition import OnTimeout, Policy

pytestmark = pytest.mark.vm

CMDLINE = PatchedFunction("vmlinux", "cmdline_proc_show")
SLEEP = PatchedFunction("vmlinux", "hrtimer_nanosleep")


def cmdline(lab) -> str:
    return lab.guest.check("cat /proc/cmdline").strip()


def sleeper(lab) -> int:
    pid = lab.guest.background("exec sleep 1000")
    time.sleep(0.5)
    return pid


def test_apply_and_undo(lab, patches):
    before = cmdline(lab)
    places = text.locate(lab.machine, [CMDLINE, SLEEP])
    code = text.entries(lab.machine, places)
    assert len(code) == 2
    wanted = Wanted(build_id=status.status(lab.machine).build_id, functions=(CMDLINE,))
    applied = patching.apply(lab.machine, patches["rl_cmdline"], wanted=wanted)
    assert cmdline(lab) == "rebootless was here"
    assert applied.transition.kernel_ms is not None
    assert applied.waiting == ()
    assert text.changed(code, text.entries(lab.machine, places)) == (CMDLINE,)
    assert text.hooked(lab.machine) == {"cmdline_proc_show"}
    found = status.status(lab.machine)
    assert [(p.name, p.state) for p in found.livepatches] == [("rl_cmdline", "applied")]
    assert {flag.letter for flag in found.taint.flags} == set("OEK")
    undone = patching.undo(lab.machine, "rl_cmdline")
    assert undone.remains == ()
    assert cmdline(lab) == before
    assert text.entries(lab.machine, places) == code
    assert text.hooked(lab.machine) == frozenset()


def test_a_patch_can_be_loaded_again_after_undo(lab, patches):
    for _ in range(3):
        patching.apply(lab.machine, patches["rl_cmdline"])
        assert cmdline(lab) == "rebootless was here"
        patching.undo(lab.machine, "rl_cmdline")


def test_a_module_goes_over_the_wire_when_the_guest_has_it_not(lab, patches):
    stored = lab.machine.stored.pop("rl_cmdline")
    try:
        patching.apply(lab.machine, patches["rl_cmdline"])
    finally:
        lab.machine.stored["rl_cmdline"] = stored
    assert cmdline(lab) == "rebootless was here"
    patching.undo(lab.machine, "rl_cmdline")


def test_apply_twice_and_undo_of_nothing(lab, patches):
    patching.apply(lab.machine, patches["rl_cmdline"])
    with pytest.raises(StateError, match="already applied"):
        patching.apply(lab.machine, patches["rl_cmdline"])
    patching.undo(lab.machine, "rl_cmdline")
    with pytest.raises(StateError, match="no live patch rl_cmdline"):
        patching.undo(lab.machine, "rl_cmdline")


def test_a_conflicting_patch_is_refused_and_an_atomic_replace_takes_over(lab, patches):
    patching.apply(lab.machine, patches["rl_cmdline"])
    with pytest.raises(StateError, match="rl_cmdline already patches cmdline_proc_show"):
        patching.apply(lab.machine, patches["rl_warns"], wanted=Wanted(functions=(CMDLINE,)))
    wanted = Wanted(functions=(CMDLINE,), replace=True)
    applied = patching.apply(lab.machine, patches["rl_replace"], wanted=wanted)
    assert applied.replaced == ("rl_cmdline",)
    assert cmdline(lab) == "rebootless came again"
    assert "rl_cmdline" not in lab.guest.run("cat /proc/modules").output
    patching.undo(lab.machine, "rl_replace")
    assert "console=ttyS0" in cmdline(lab)


def test_a_module_loaded_later_gets_its_patch(lab, patches):
    applied = patching.apply(lab.machine, patches["rl_dummy"])
    assert applied.waiting == ("dummy",)
    lab.guest.check("insmod /lib/modules/dummy.ko")
    assert lab.guest.check("cat /sys/class/net/dummy0/statistics/tx_packets") == "4242\n"
    assert status.livepatches(lab.machine)[0].objects[0].patched is True
    patching.undo(lab.machine, "rl_dummy")
    assert lab.guest.check("cat /sys/class/net/dummy0/statistics/tx_packets") == "0\n"
    lab.guest.check("rmmod dummy")


def test_the_wrong_build_id_is_refused_before_anything_is_loaded(lab, patches):
    with pytest.raises(WrongKernelError, match="build-id 1234"):
        patching.apply(lab.machine, patches["rl_cmdline"], wanted=Wanted(build_id="1234"))
    assert status.livepatches(lab.machine) == ()


def test_the_kernel_s_reason_is_told(lab, patches):
    with pytest.raises(KernelRefusedError, match=r"'rl_no_such_function' not found.*EINVAL"):
        patching.apply(lab.machine, patches["rl_missing"])


def test_a_damaged_module_is_refused_with_a_reason(lab, patches):
    blob = patches["rl_cmdline"].replace(b"vermagic=6.", b"vermagic=6.", 1)
    changed = blob.replace(b" mod_unload ", b" mod_unlaod ", 1)
    assert changed != blob
    stored = lab.machine.stored.pop("rl_cmdline")
    try:
        with pytest.raises(KernelRefusedError, match=r"version magic.*ENOEXEC"):
            patching.apply(lab.machine, changed)
    finally:
        lab.machine.stored["rl_cmdline"] = stored


def blocked_status(lab, pid: int) -> status.Status:
    """The first status in which one task is left; at the beginning others are on their way."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        now = status.status(lab.machine)
        if [b.pid for b in now.blockers] == [pid]:
            return now
        time.sleep(1)  # the one who applies asks the same guest
    raise AssertionError(f"{pid} never was the only blocker")


def test_a_blocked_transition_is_named_and_reversed(lab, patches):
    pid = sleeper(lab)
    seen: list[status.Status] = []

    def watch() -> None:
        seen.append(blocked_status(lab, pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    with pytest.raises(StalledError, match=rf"1 task: {pid} sleep in hrtimer_nanosleep.*reversed"):
        patching.apply(lab.machine, patches["rl_sleep"], policy=Policy(wait=6))
    watcher.join()
    assert [p.state for p in seen[0].livepatches] == ["applying"]
    assert [(b.pid, b.comm, b.in_function) for b in seen[0].blockers] == [
        (pid, "sleep", "hrtimer_nanosleep")
    ]
    assert lab.guest.run(f"kill {pid}").status == 0  # the reversal left it alone


def test_a_transition_ends_when_the_blocker_does(lab, patches):
    pid = sleeper(lab)

    def end_the_blocker() -> None:
        blocked_status(lab, pid)
        time.sleep(3)  # so that the one who applies has seen it as well
        lab.guest.run(f"kill {pid}")

    watcher = threading.Thread(target=end_the_blocker)
    watcher.start()
    applied = patching.apply(lab.machine, patches["rl_sleep"], policy=Policy(wait=60))
    watcher.join()
    assert [b.pid for b in applied.transition.blockers] == [pid]
    lab.guest.check("sleep 1")
    patching.undo(lab.machine, "rl_sleep")


def test_the_kernel_s_own_signals_end_it_and_the_sleeper_sleeps_on(lab, patches):
    pid = sleeper(lab)
    applied = patching.apply(lab.machine, patches["rl_sleep"], policy=Policy(wait=120))
    assert applied.transition.seconds > 10
    assert lab.guest.run(f"kill {pid}").status == 0
    patching.undo(lab.machine, "rl_sleep")


def test_a_stalled_apply_that_is_left_can_be_undone(lab, patches):
    pid = sleeper(lab)
    with pytest.raises(StalledError, match="goes on trying"):
        patching.apply(lab.machine, patches["rl_sleep"], policy=Policy(2, OnTimeout.LEAVE))
    assert status.livepatches(lab.machine)[0].state == "applying"
    with pytest.raises(StateError, match="busy applying rl_sleep"):
        patching.apply(lab.machine, patches["rl_cmdline"])
    assert patching.undo(lab.machine, "rl_sleep").remains == ()
    lab.guest.check(f"kill {pid}")


def test_forced_transitions_end_and_a_forced_undo_leaves_the_module(boot, patches):
    with boot() as lab:
        force = Policy(2, OnTimeout.FORCE)
        old = sleeper(lab)
        applied = patching.apply(lab.machine, patches["rl_sleep"], policy=force)
        assert applied.transition.outcome == "forced"
        assert [blocker.pid for blocker in applied.transition.blockers] == [old]
        assert applied.patch.state == "applied"
        new = sleeper(lab)  # sleeps in the patch's own function
        undone = patching.undo(lab.machine, "rl_sleep", policy=force)
        assert undone.transition is not None
        assert undone.transition.outcome == "forced"
        assert undone.remains == ("cannot remove module rl_sleep: it is in use [EAGAIN]",)
        lab.guest.check(f"kill {old} {new}")
        with pytest.raises(StateError, match="rl_sleep is loaded, and is not in force"):
            patching.apply(lab.machine, patches["rl_sleep"])


def refused_load(lab, patches, core_module: bytes, reason: str) -> set[str]:
    """The hints of a load that is refused, with and without the core module."""
    hints = set()
    for options in ({}, {"engine": "atomic", "core_module": core_module}):
        name = "rebootless_core" if options else "rl_cmdline"
        with pytest.raises(KernelRefusedError, match=f"module {name}: {reason}") as caught:
            patching.apply(lab.machine, patches["rl_cmdline"], **options)
        hints.add(caught.value.hint or "")
        assert lab.guest.check("cat /proc/modules") == ""
    return hints


def test_kernels_that_take_no_module(boot, patches, core_module):
    """Each of these can be switched on and not off, and the later ones come before the others."""
    with boot(core=True) as lab:
        for mode in ("integrity", "confidentiality"):
            lab.guest.check(f"echo {mode} >/sys/kernel/security/lockdown")
            reason = rf"the kernel is locked down .mode {mode}.*EPERM"
            (hint,) = refused_load(lab, patches, core_module, reason)
            assert "sign the module" in hint
        lab.guest.check("echo 1 >/sys/module/module/parameters/sig_enforce")
        reason = "the kernel takes only modules signed with a key.*EKEYREJECTED"
        (hint,) = refused_load(lab, patches, core_module, reason)
        assert "sign the module" in hint
        lab.guest.check("echo 1 >/proc/sys/kernel/modules_disabled")
        reason = "module loading was switched off for good.*modules_disabled=1.*EPERM"
        (hint,) = refused_load(lab, patches, core_module, reason)
        assert "reboot" in hint
