"""Which engine is taken and why; the core's engines over a recorded tree; the boot store."""

from __future__ import annotations

import dataclasses
import errno
from pathlib import Path

import pytest
from engine_fake import RELEASE, FakeMachine, module_blob

from rebootless.base.errors import (
    KernelRefusedError,
    PatchInputError,
    ResourceError,
    StalledError,
    StateError,
    WrongKernelError,
)
from rebootless.base.events import Event, Warned
from rebootless.engine import boot, choose, core, patching, probe, status, transition
from rebootless.engine.base import EngineFacts
from rebootless.engine.checks import Wanted
from rebootless.engine.livepatch import DRIVE, SIGNAL
from rebootless.engine.modinfo import ModInfo
from rebootless.engine.status import CORE_ROOT, ROOT, PatchedFunction
from rebootless.engine.transition import OnTimeout, Policy

CMDLINE = PatchedFunction("vmlinux", "cmdline_proc_show")
DEBIAN = EngineFacts(livepatch=True, ftrace=True, ftrace_enabled=True, core_at_hand=True)
CORE = module_blob("rebootless_core", livepatch=False)
PATCH = module_blob("fix", engines=True)


class Heard:
    """A monitor that keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.warnings.append(event.text)


def but(**changes: object) -> EngineFacts:
    return dataclasses.replace(DEBIAN, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("facts", "engine", "why"),
    [
        (DEBIAN, "livepatch", "the kernel has it"),
        (but(core_at_hand=False, takes_engine=False), "livepatch", "the kernel has it"),
        (but(livepatch=False), "per-task", "not livepatch, since the kernel has no live patching"),
        (but(livepatch=False, ftrace=False), "atomic", "not per-task, since the kernel has no ftr"),
        (but(untraceable=(CMDLINE,)), "atomic", "ftrace cannot redirect cmdline_proc_show"),
        (but(livepatch=False, core_at_hand=False), "", "there is no core module"),
        (but(ftrace_enabled=False), "", "switched off"),
        (but(livepatch=False, takes_engine=False), "", "build it again"),
        (
            but(livepatch=False, core_loaded=True, core_abi=1, patch_abi=2),
            "",
            "has interface 1, and the patch was made for 2",
        ),
    ],
)
def test_the_choice_follows_from_the_facts(facts, engine, why):
    choice = choose.decide(facts)
    assert choice.engine == engine
    assert why in choice.why
    if engine:
        assert choose.choose(facts)[0].name == engine
    else:
        with pytest.raises(KernelRefusedError, match="no engine can apply") as caught:
            choose.choose(facts)
        assert caught.value.hint


def test_what_was_asked_for_is_taken_or_refused():
    assert choose.choose(DEBIAN, "atomic")[0].name == "atomic"
    with pytest.raises(KernelRefusedError, match=r"'per-task' cannot.*switched off") as caught:
        choose.choose(but(ftrace_enabled=False), "per-task")
    assert "sysctl kernel.ftrace_enabled=1" in (caught.value.hint or "")
    with pytest.raises(PatchInputError, match="no engine 'magic'"):
        choose.choose(DEBIAN, "magic")


def test_functions_that_ftrace_lists_by_their_object():
    wanted = [CMDLINE, PatchedFunction("ext4", "ext4_free"), PatchedFunction("vmlinux", "gone")]
    lines = ["cmdline_proc_show", "ext4_free [xfs]"]
    assert probe.missing(wanted, lines) == (wanted[1], wanted[2])
    lines = ["cmdline_proc_show", "ext4_free [ext4]", "gone"]
    assert probe.missing(wanted, lines) == ()


def test_the_core_is_loaded_when_the_engine_needs_it_and_stays():
    machine = FakeMachine.plain()
    applied = patching.apply(machine, PATCH, engine="per-task", core_module=CORE)
    assert machine.loaded == ["rebootless_core", "fix"]
    assert (applied.engine, applied.patch.engine, applied.patch.root) == (
        "per-task",
        "per-task",
        CORE_ROOT,
    )
    assert applied.transition.kernel_ms == 2.5
    assert applied.transition.stats["attempts"] == 3
    with pytest.raises(StateError, match="in use by fix"):
        core.unload(machine)
    assert patching.undo(machine, "fix").remains == ()
    assert not machine.exists("/sys/module/fix")
    assert core.state(machine) == core.CoreState(True, "1")
    core.unload(machine)
    assert not machine.exists("/sys/module/rebootless_core")


def test_an_engine_that_needs_the_core_is_refused_without_one():
    machine = FakeMachine.plain()
    with pytest.raises(KernelRefusedError, match="no core module") as caught:
        patching.apply(machine, PATCH, engine="atomic")
    assert "engine build" in (caught.value.hint or "")
    with pytest.raises(KernelRefusedError, match="made for the kernel's own livepatch only"):
        patching.apply(machine, module_blob("old"), engine="atomic", core_module=CORE)
    other = module_blob("rebootless_core", release="6.1.0-1-amd64")
    with pytest.raises(WrongKernelError, match=f"built for 6.1.0-1-amd64.*{RELEASE}"):
        patching.apply(machine, PATCH, engine="atomic", core_module=other)
    assert machine.loaded == []


def test_another_module_is_not_taken_for_the_core():
    machine = FakeMachine.plain()
    with pytest.raises(PatchInputError, match="should be the core module is the module fix"):
        patching.apply(machine, PATCH, engine="atomic", core_module=PATCH)
    assert machine.loaded == []


def test_another_core_that_is_loaded_is_told():
    machine = FakeMachine.plain()
    core.load(machine, CORE)
    with pytest.raises(KernelRefusedError, match="interface 1, and the patch was made for 2"):
        patching.apply(machine, PATCH, engine="atomic", wanted=Wanted(core_abi=2))
    with pytest.raises(StateError, match="interface 1, and 2 is needed"):
        core.load(machine, CORE, abi=2)


def test_where_names_are_is_told_to_the_core_on_kernels_without_kprobes():
    machine = FakeMachine.plain()
    info = ModInfo({"parmtype": ("kallsyms:ulong",)}, 0)
    machine.files["/proc/kallsyms"] = b"ffffffff81000010 T kallsyms_lookup_name\n"
    assert core.parameters(machine, info) == "kallsyms=0xffffffff81000010"
    machine.files["/proc/kallsyms"] += b"ffffffff81000020 T register_kprobe\n"
    assert core.parameters(machine, info) == ""
    machine.files["/proc/kallsyms"] = b"0000000000000000 T kallsyms_lookup_name\n"
    assert core.parameters(machine, info) == ""


def test_a_core_transition_names_its_own_blockers():
    machine = FakeMachine.plain()
    machine.moves_after = None
    policy = Policy(wait=2, on_timeout=OnTimeout.LEAVE, signal_after=1)
    with pytest.raises(StalledError, match="1 task: 77/78 stuck task in pipe_read"):
        patching.apply(machine, PATCH, engine="per-task", core_module=CORE, policy=policy)
    assert machine.written == [(f"{CORE_ROOT}/fix/signal", "1")]
    found = status.status(machine)
    assert [(p.name, p.engine, p.state, p.left) for p in found.livepatches] == [
        ("fix", "per-task", "applying", 1)
    ]
    assert [(b.pid, b.tid, b.in_function, b.patch) for b in found.blockers] == [
        (77, 78, "pipe_read", "fix")
    ]


def test_never_signal_means_never():
    machine = FakeMachine.plain()
    machine.moves_after = 30
    policy = Policy(signal_after=None)
    heard = Heard()
    patching.apply(
        machine, PATCH, engine="per-task", core_module=CORE, policy=policy, monitor=heard
    )
    assert machine.written == []
    assert not heard.warnings


@pytest.mark.parametrize("driven", [False, True])
def test_never_signal_is_no_policy_of_mainline_without_the_core(driven):
    machine = FakeMachine.plain()
    if driven:
        machine.files |= {DRIVE: b"0\n", SIGNAL: b"0\n"}
    heard = Heard()
    patching.apply(machine, PATCH, policy=Policy(signal_after=None), monitor=heard)
    assert heard.warnings == ([] if driven else [transition.WAKES_UNASKED])


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (b"77\t78\tpipe_read\tstuck task\n", "held by 1 task: 77"),
        (b"", r"f has been changed at its entry by somebody else .a kprobe"),
    ],
)
def test_an_engine_that_gives_up_is_a_stall_and_its_module_goes(held, says):
    machine = FakeMachine.plain()
    machine.log = [
        "[ 9.0] rebootless: f has been changed at its entry by somebody else (a kprobe?)"
    ]
    machine.moves_after = None
    sleep = machine.sleep

    def once(seconds):
        sleep(seconds)
        if machine.files.get(f"{CORE_ROOT}/fix/enabled") == b"1\n":
            machine.files[f"{CORE_ROOT}/fix/held"] = held
            if machine.clock > 1:
                machine.gives_up("fix")

    machine.sleep = once
    with pytest.raises(StalledError, match=rf"{says}.*atomic gave up.*not applied"):
        patching.apply(machine, PATCH, engine="atomic", core_module=CORE)
    assert not machine.exists("/sys/module/fix")


def test_mainline_is_driven_and_signalled_by_a_core_that_is_loaded():
    machine = FakeMachine.plain()
    core.load(machine, CORE)
    machine.files |= {DRIVE: b"0\n", SIGNAL: b"0\n"}
    machine.moves_after = 4
    applied = patching.apply(machine, PATCH, policy=Policy(signal_after=2))
    assert applied.engine == "livepatch"
    assert applied.transition.signalled
    assert machine.written == [(DRIVE, "1"), (SIGNAL, "1")]


def test_two_roots_are_one_list_and_conflicts_cross_them():
    machine = FakeMachine.plain()
    patching.apply(machine, module_blob("one", engines=True), engine="atomic", core_module=CORE)
    wanted = Wanted(functions=(CMDLINE,), replace=True)
    with pytest.raises(StateError, match=r"one already patches cmdline_proc_show .by the en"):
        patching.apply(machine, PATCH, engine="livepatch", wanted=wanted)
    patching.apply(machine, PATCH, engine="livepatch")
    assert [(p.name, p.root) for p in status.livepatches(machine)] == [
        ("fix", ROOT),
        ("one", CORE_ROOT),
    ]


def test_a_patch_below_another_is_not_undone():
    machine = FakeMachine.plain()
    patching.apply(machine, module_blob("low", engines=True), engine="atomic", core_module=CORE)
    patching.apply(machine, module_blob("top", engines=True), engine="atomic")
    machine.files[f"{CORE_ROOT}/low/stack_order"] = b"1\n"
    machine.files[f"{CORE_ROOT}/top/stack_order"] = b"2\n"
    with pytest.raises(StateError, match=r"top was applied on top of low.*cmdline_proc_show"):
        patching.undo(machine, "low")
    patching.undo(machine, "top")
    patching.undo(machine, "low")


def test_a_module_that_a_killed_undo_left_is_shown_and_undone():
    machine = FakeMachine.plain()
    machine.directories |= {"/sys/module/fix", "/sys/module/other"}
    machine.files["/sys/module/fix/parameters/engine"] = b"atomic\n"
    machine.files["/sys/module/other/taint"] = b"OE\n"
    assert status.status(machine).leftovers == ("fix",)
    assert patching.undo(machine, "fix").transition is None
    assert status.status(machine).leftovers == ()


def test_held_lines_are_read_with_odd_names():
    text = "1\t2\t-\ta\tb\nx\t2\tf\tc\n3\t3\tf\t\n\n"
    assert [str(b) for b in status.parse_held(text, "p")] == ["1/2 a\tb (running)", "3  in f"]


def test_an_installed_bundle_keeps_its_engine(tmp_path: Path):
    bundle = tmp_path / "x.rlp"
    bundle.write_bytes(b"bundle")
    for engine in ("atomic", "auto"):
        boot.install(
            bundle,
            name="x",
            release=RELEASE,
            engine=engine,
            root=tmp_path,
            program="/bin/rebootless",
        )
        assert [i.engine for i in boot.installed(root=tmp_path)] == [engine]
    boot.install(
        bundle,
        name="x",
        release=RELEASE,
        engine="per-task",
        root=tmp_path,
        program="/bin/rebootless",
    )
    assert boot.core_path(RELEASE, tmp_path) is None
    module = boot.install_core(bundle, release=RELEASE, root=tmp_path)
    assert boot.core_path(RELEASE, tmp_path) == module
    boot.uninstall("x", release=RELEASE, root=tmp_path)
    assert [p.name for p in (tmp_path / "var/lib/rebootless" / RELEASE).iterdir()] == [module.name]


LOG = """\
[  10.0] rebootless: old_function has a kprobe at its entry
[  10.1] rebootless: 'old': is not applied (-16)
[  11.0] rebootless: 'fix': starting patching transition
"""


@pytest.mark.parametrize(
    ("line", "says", "hint"),
    [
        (
            "'fix': x is off (kernel.ftrace_enabled is 0)",
            "is off",
            "sysctl kernel.ftrace_enabled=1",
        ),
        (
            "f cannot be redirected: another live patch holds it",
            "another live patch",
            "undo the oth",
        ),
        ("f has a kprobe at its entry", "kprobe at its entry", "remove the kprobe"),
        ("a patch was made for another version of this module (2; this is 1)", "2; ", "unload"),
        ("'fix': something new", "something new", "doctor"),
    ],
)
def test_what_the_core_says_is_told_with_what_mends_it(line, says, hint):
    machine = FakeMachine.plain()
    core.load(machine, CORE)
    machine.log = f"{LOG}[  12.0] rebootless: {line}\n".splitlines()
    machine.refuses = errno.EBUSY
    with pytest.raises(KernelRefusedError) as caught:
        patching.apply(machine, PATCH, engine="atomic")
    assert says in caught.value.message
    assert "EBUSY" in caught.value.message
    assert hint in (caught.value.hint or "")
    assert "old_function" not in caught.value.message  # of another module's load


@pytest.mark.parametrize(
    ("engine", "says"),
    [("atomic", "'fix': 'f' is patched by 'b'"), ("livepatch", "cannot write /sys/kernel/livep")],
)
def test_an_undo_that_is_refused_is_told(engine, says):
    machine = FakeMachine.plain()
    patching.apply(machine, PATCH, engine=engine, core_module=CORE)

    def refuse(path, text):
        raise ResourceError(f"cannot write {path}")

    machine.write = refuse
    machine.log = ["[ 9.0] rebootless: 'fix': 'f' is patched by 'b' as well, which came later"]
    with pytest.raises(KernelRefusedError, match=f"does not undo fix: {says}"):
        patching.undo(machine, "fix")
