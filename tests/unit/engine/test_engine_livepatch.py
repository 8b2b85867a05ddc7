"""Applying and undoing: what is decided, in which order, and what the user is told."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from engine_fake import BUILD_ID, FakeMachine, module_blob

from rebootless.base.errors import (
    ElfError,
    KernelRefusedError,
    PatchInputError,
    ResourceError,
    StalledError,
    StateError,
    WrongKernelError,
)
from rebootless.engine import patching, status, transition
from rebootless.engine.checks import Wanted
from rebootless.engine.livepatch import Livepatch
from rebootless.engine.status import ROOT, PatchedFunction
from rebootless.engine.transition import OnTimeout, Policy

CMDLINE = PatchedFunction("vmlinux", "cmdline_proc_show")


def test_apply_waits_for_the_transition_and_reports_the_patch():
    machine = FakeMachine.plain()
    applied = patching.apply(machine, module_blob("fix"), wanted=Wanted(build_id=BUILD_ID))
    assert (applied.name, applied.transition.outcome) == ("fix", "complete")
    assert applied.patch.state == "applied"
    assert 1.0 <= applied.transition.seconds < 2.0
    assert applied.patch.functions == (PatchedFunction("vmlinux", "cmdline_proc_show", 1),)


def test_apply_reads_a_file(tmp_path: Path):
    path = tmp_path / "fix.ko"
    path.write_bytes(module_blob("fix"))
    assert patching.apply(FakeMachine.plain(), path).name == "fix"


@pytest.mark.parametrize(
    ("blob", "wanted", "error", "says"),
    [
        (
            module_blob("fix", release="6.1.0-99-amd64"),
            Wanted(),
            WrongKernelError,
            "6.1.0-99-amd64",
        ),
        (module_blob("fix"), Wanted(build_id="00ff"), WrongKernelError, BUILD_ID),
        (
            module_blob("fix"),
            Wanted(modules=(("absent", "00ff"), ("ext4", "00ff"))),
            WrongKernelError,
            "module ext4 with build-id 00ff; the loaded one has abcd",
        ),
        (module_blob("fix", livepatch=False), Wanted(), PatchInputError, "not a live patch"),
        (b"no module", Wanted(), ElfError, "not a 64-bit"),
    ],
)
def test_apply_refuses_before_it_loads(blob, wanted, error, says):
    machine = FakeMachine.plain()
    note = b"\4\0\0\0\2\0\0\0\3\0\0\0GNU\0\xab\xcd\0\0"
    machine.files["/sys/module/ext4/notes/.note.gnu.build-id"] = note
    with pytest.raises(error, match=says):
        patching.apply(machine, blob, wanted=wanted)
    assert machine.loaded == []


def test_apply_twice_is_a_state_error():
    machine = FakeMachine.plain()
    patching.apply(machine, module_blob("fix"))
    with pytest.raises(StateError, match="fix is already applied"):
        patching.apply(machine, module_blob("fix"))
    assert machine.loaded == ["fix"]


def test_a_leftover_module_of_that_name_is_named():
    machine = FakeMachine.plain()
    machine.directories.add("/sys/module/fix")
    with pytest.raises(StateError) as caught:
        patching.apply(machine, module_blob("fix"))
    assert "undo fix removes it" in (caught.value.hint or "")


def test_two_patches_of_one_function_conflict_unless_it_replaces():
    machine = FakeMachine.plain()
    patching.apply(machine, module_blob("one"))
    with pytest.raises(StateError, match="one already patches cmdline_proc_show"):
        patching.apply(machine, module_blob("two"), wanted=Wanted(functions=(CMDLINE,)))
    wanted = Wanted(functions=(CMDLINE,), replace=True)
    assert patching.apply(machine, module_blob("two"), wanted=wanted).name == "two"


def test_positions_0_and_1_are_the_same_function_and_2_is_not():
    taken = PatchedFunction("vmlinux", "f", 1)
    assert PatchedFunction("vmlinux", "f", 0).key == taken.key
    assert PatchedFunction("vmlinux", "f", 2).key != taken.key


def test_a_kernel_without_live_patching_is_named():
    machine = FakeMachine.plain()
    machine.directories.clear()
    with pytest.raises(KernelRefusedError, match="no live patching"):
        patching.apply(machine, module_blob("fix"))


def test_a_transition_of_another_patch_is_waited_for_by_the_user():
    machine = FakeMachine.blocked()
    with pytest.raises(StateError, match="busy applying rl_sleep"):
        patching.apply(machine, module_blob("fix"))
    with pytest.raises(StateError, match="busy applying rl_sleep"):
        patching.undo(machine, "rl_cmdline")


def test_a_stalled_apply_is_reversed_and_its_module_removed():
    machine = FakeMachine.plain()
    machine.moves_after = None
    machine.files["/proc/7/task/7/patch_state"] = b"0\n"
    machine.files["/proc/7/task/7/comm"] = b"stuck\n"
    machine.files["/proc/7/task/7/wchan"] = b"pipe_read"
    with pytest.raises(
        StalledError, match=r"1 task: 7 stuck sleeps in pipe_read.*reversed"
    ) as caught:
        patching.apply(machine, module_blob("fix"), policy=Policy(wait=5))
    assert caught.value.exit_code == 12
    assert machine.written == [(f"{ROOT}/fix/enabled", "0")]
    assert not machine.exists(f"{ROOT}/fix")
    assert not machine.exists("/sys/module/fix")
    assert 5 <= machine.clock < 7


def test_a_stalled_apply_can_be_left_or_forced():
    machine = FakeMachine.plain()
    machine.moves_after = None
    with pytest.raises(StalledError, match="goes on trying"):
        patching.apply(machine, module_blob("a"), policy=Policy(5, OnTimeout.LEAVE))
    assert machine.written == []
    machine = FakeMachine.plain()
    machine.moves_after = None
    applied = patching.apply(machine, module_blob("b"), policy=Policy(5, OnTimeout.FORCE))
    assert applied.transition.outcome == "forced"
    assert machine.written == [(f"{ROOT}/b/force", "1")]


def test_a_stalled_undo_leaves_the_patch_applied():
    machine = FakeMachine.plain()
    patching.apply(machine, module_blob("fix"))
    machine.moves_after = None
    with pytest.raises(StalledError, match="still applied, as before"):
        patching.undo(machine, "fix", policy=Policy(wait=3))
    assert status.livepatches(machine)[0].state == "applied"


def test_an_undo_that_ends_just_before_it_is_reversed_is_done():
    machine = FakeMachine.plain()
    patching.apply(machine, module_blob("fix"))
    machine.moves_after, write = None, machine.write

    def late(path, text):
        if text == "1":
            machine._drop(f"{ROOT}/fix")
            raise ResourceError(f"cannot write {path}")
        write(path, text)

    machine.write = late
    undone = patching.undo(machine, "fix", policy=Policy(wait=3))
    assert (undone.transition.outcome, undone.remains) == ("complete", ())


def interrupted(machine):
    """Ctrl-C in the first pause of what follows."""

    def sleep(seconds):
        del machine.sleep
        raise KeyboardInterrupt

    machine.sleep = sleep
    return pytest.raises(KeyboardInterrupt)


def test_an_interrupted_apply_is_taken_back():
    machine = FakeMachine.plain()
    with interrupted(machine):
        patching.apply(machine, module_blob("fix"), policy=Policy(take_back=True))
    assert machine.written == [(f"{ROOT}/fix/enabled", "0")]
    assert not machine.exists(f"{ROOT}/fix")
    assert not machine.exists("/sys/module/fix")


def test_an_interrupted_undo_is_taken_back():
    machine = FakeMachine.plain()
    patching.apply(machine, module_blob("fix"))
    with interrupted(machine):
        patching.undo(machine, "fix", policy=Policy(take_back=True))
    (patch,) = status.livepatches(machine)
    assert patch.state == "applied"


def test_what_cannot_be_taken_back_after_an_interrupt_is_said():
    machine = FakeMachine.plain()
    machine.moves_after = None
    machine.write = lambda path, text: None  # the kernel goes on trying
    sleep = machine.sleep

    def once(seconds):
        machine.sleep = sleep
        raise KeyboardInterrupt

    machine.sleep = once
    with pytest.raises(StalledError, match="was interrupted, and taking it back has not finished"):
        patching.apply(machine, module_blob("fix"), policy=Policy(take_back=True, reverse_wait=3))


def test_old_kernels_get_their_signal_switch_used():
    machine = FakeMachine.plain()
    machine.moves_after = 20
    machine.load_module(b"", name="fix")
    machine.files[f"{ROOT}/fix/signal"] = b"0"
    transition.follow(
        machine, "fix", engine=Livepatch(), applying=True, policy=Policy(signal_after=2)
    )
    assert machine.written == [(f"{ROOT}/fix/signal", "1")]


def test_undo_removes_patch_and_module_and_waits_for_the_kernel_to_let_go():
    machine = FakeMachine.plain()
    patching.apply(machine, module_blob("fix"))
    machine.busy_removals = 3
    undone = patching.undo(machine, "fix")
    assert undone.remains == ()
    assert machine.directories == {ROOT}


def test_undo_says_what_remains():
    machine = FakeMachine.plain()
    patching.apply(machine, module_blob("fix"))
    machine.busy_removals = 1000
    assert patching.undo(machine, "fix").remains == (
        "cannot remove module fix: it is in use [EAGAIN]",
    )


def test_undo_of_what_is_not_there():
    with pytest.raises(StateError, match=r"no live patch fix is applied \(applied: none\)"):
        patching.undo(FakeMachine.plain(), "fix")


def test_undo_removes_a_module_whose_patch_is_off_but_no_other_module():
    machine = FakeMachine.plain()
    for name, taint in (("fix", b"OEK\n"), ("loop", b"\n")):
        machine.directories.add(f"/sys/module/{name}")
        machine.files[f"/sys/module/{name}/taint"] = taint
    assert patching.undo(machine, "fix").transition is None
    with pytest.raises(StateError):
        patching.undo(machine, "loop")
    assert machine.exists("/sys/module/loop")


@pytest.mark.parametrize(
    ("number", "files", "log", "says"),
    [
        (errno.EPERM, {"/proc/sys/kernel/modules_disabled": b"1\n"}, "", "modules_disabled"),
        (
            errno.EPERM,
            {"/sys/kernel/security/lockdown": b"none [integrity] confidentiality\n"},
            "",
            "locked down .mode integrity",
        ),
        (errno.EPERM, {"/sys/kernel/security/lockdown": b"[none] integrity\n"}, "", "permission"),
        (errno.EKEYREJECTED, {}, "", "signed with a key"),
        (errno.ENOEXEC, {}, "[ 1.0] fix: disagrees about version of symbol m", "disagrees about"),
        (errno.EEXIST, {}, "", "already loaded"),
        (
            errno.EINVAL,
            {},
            "[ 1.0] livepatch: symbol 'x' not found in symbol table",
            "'x' not found",
        ),
        (errno.EINVAL, {}, "[ 1.0] other: text", "says nothing more"),
        (errno.EBUSY, {}, "", "exclusive"),
    ],
)
def test_refusals_are_explained(number, files, log, says):
    machine = FakeMachine.plain()
    machine.files |= files
    machine.log = log.splitlines()
    machine.refuses = number
    with pytest.raises(KernelRefusedError, match=says) as caught:
        patching.apply(machine, module_blob("fix"))
    assert errno.errorcode[number] in caught.value.message
    assert caught.value.hint


def test_status_names_the_task_that_blocks_on_a_real_kernel():
    found = status.status(FakeMachine.blocked())
    assert found.build_id == BUILD_ID
    assert [(p.name, p.state) for p in found.livepatches] == [
        ("rl_cmdline", "applied"),
        ("rl_dummy", "applied"),
        ("rl_sleep", "applying"),
    ]
    dummy = found.find("rl_dummy")
    assert dummy is not None
    assert dummy.objects[0].name == "dummy"
    assert dummy.objects[0].patched is False
    assert len(found.blockers) == 1
    assert found.blockers[0].comm == "sleep"
    assert found.blockers[0].in_function == "hrtimer_nanosleep"
    assert found.blockers[0].stack[:2] == ("hrtimer_nanosleep", "common_nsleep")
    assert found.taint.letters == "OEK"
    assert found.taint.alarming == ()
    shown = json.loads(json.dumps(found.as_json()))
    assert shown["schema"] == 1
    assert shown["livepatches"][2]["state"] == "applying"


def test_kernel_ms_reads_the_last_transition_of_a_direction():
    log = FakeMachine.blocked().kernel_log()
    assert transition.kernel_ms(log, "rl_cmdline", applying=True) is not None
    assert transition.kernel_ms(log, "rl_cmdline", applying=False) is None
    assert transition.kernel_ms(log, "rl_sleep", applying=True) is None
    log = (
        "[   10.000000] livepatch: 'x': starting patching transition\n"
        "[   10.500000] livepatch: 'x': starting unpatching transition\n"
        "[   10.750000] livepatch: 'x': unpatching complete\n"
    )
    assert transition.kernel_ms(log, "x", applying=False) == pytest.approx(250)
    assert transition.kernel_ms(log, "x", applying=True) is None
