"""The core module: patches, objects, transitions and what goes wrong, on a real kernel.

The patches are hand-made (core_modules/), each for any engine. One guest serves all tests; each
leaves it as it was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import rebootless
from rebootless.base.proc import run

pytestmark = pytest.mark.vm

HERE = Path(__file__).parent
NAMES = ("rc_base", "rc_over", "rc_whole", "rc_stale", "rc_held", "rc_position", "rc_untraced",
         "rc_slow", "rc_quick")  # fmt: skip
ROOT = "/sys/kernel/rebootless/patches"
FAIL_AT = "/sys/module/rebootless_core/parameters/fail_at"
TRIES = "/sys/module/rebootless_core/parameters/tries"
PACKETS = "/sys/class/net/dummy0/statistics/tx_packets"
EMPTY = 'for f in cpuinfo crypto; do [ -n "$(cat /proc/$f)" ] || echo $f; done'
BOTH = pytest.mark.parametrize("engine", ["atomic", "per-task"])


class Core:
    """A guest with the core in it, and short words for what the tests do there."""

    def __init__(self, guest) -> None:
        self.guest = guest
        self.marks = 0
        self.mark()

    def mark(self) -> None:
        """The log is read from here on."""
        self.marks += 1
        self.guest.check(f"echo core-mark-{self.marks}- >/dev/kmsg")

    def log(self) -> list[str]:
        """What the core and the patches said since the mark, without the time."""
        text = self.guest.check("dmesg").rpartition(f"core-mark-{self.marks}-")[2]
        lines = [line.partition("] ")[2] for line in text.splitlines()[1:]]
        return [line for line in lines if line.startswith(("rebootless: ", "rc_", "rl_"))]

    def said(self, word: str) -> list[str]:
        return [line for line in self.log() if word in line]

    def insert(self, name: str, engine: str, *parameters: str) -> int:
        """The error number, or 0."""
        words = " ".join((f"engine={engine}", *parameters))
        return self.guest.run(f"/lab/insert /lab/patches/{name}.ko {words}").status

    def write(self, name: str, file: str, text: str) -> bool:
        return self.guest.run(f"echo {text} >{ROOT}/{name}/{file}").status == 0

    def read(self, name: str, file: str) -> str:
        return self.guest.check(f"cat {ROOT}/{name}/{file}").rstrip("\n")

    def patches(self) -> list[str]:
        return self.guest.check(f"ls {ROOT}").split()

    def until(self, shell: str) -> None:
        """Waits until a shell condition holds."""
        deadline = time.monotonic() + 60
        while self.guest.run(shell).status != 0:
            assert time.monotonic() < deadline, f"{shell}: {self.log()[-5:]}"

    def settled(self, name: str) -> None:
        self.until(f"[ $(cat {ROOT}/{name}/transition) = 0 ]")

    def gone(self, *names: str) -> None:
        """Waits until patches have gone from sysfs, and removes their modules."""
        for name in names:
            self.until(f"[ ! -e {ROOT}/{name} ]")
            self.until(f"rmmod {name} 2>/dev/null")

    def undo(self, *names: str) -> None:
        for name in names:
            assert self.write(name, "enabled", "0"), self.log()
            self.gone(name)

    def texts(self) -> list[str]:
        """The first word of each file in /proc that is patched, and the packets of dummy."""
        files = f"/proc/version /proc/loadavg {PACKETS}"
        output = self.guest.run(f"for f in {files}; do [ -e $f ] && cat $f; done").output
        return [line.split()[0] for line in output.splitlines()]

    def redirected(self) -> set[str]:
        output = self.guest.check("cat /sys/kernel/tracing/enabled_functions")
        return {line.split()[0] for line in output.splitlines()}

    def waiter(self) -> int:
        """A process that waits in fifo_open(), or in what has taken its place."""
        pid = self.guest.background("[ -e /run/fifo ] || mkfifo /run/fifo; exec cat /run/fifo")
        self.until(f"grep -q fifo_open /proc/{pid}/stack")
        return pid


@pytest.fixture(scope="module")
def shared_core(kernel, boot, tmp_path_factory) -> Iterator[Core]:
    folder = tmp_path_factory.mktemp("core") / "rc"
    shutil.copytree(HERE / "core_modules", folder)
    headers = (Path(rebootless.__file__).parent / "kmod").glob("rebootless_*.h")
    for header in (HERE / "modules/rl_common.h", *headers):
        shutil.copy(header, folder)
    with kernel.lock():
        run(kernel.command(f"M={folder}", "modules"), timeout=300)
    program = folder / "insert"
    run(["gcc", "-static", "-Os", "-o", program, HERE / "programs/insert.c"])
    files = {f"/lab/patches/{n}.ko": ((folder / f"{n}.ko").read_bytes(), 0o644) for n in NAMES}
    files["/lab/insert"] = (program.read_bytes(), 0o755)
    with boot(cpus=2, core=True, files=files) as lab:
        lab.guest.check("insmod /lab/patches/rebootless_core.ko")
        yield Core(lab.guest)


@pytest.fixture
def core(shared_core: Core) -> Iterator[Core]:
    """The guest, which the test leaves without patches and without a warning of the kernel."""
    shared_core.mark()
    yield shared_core
    shared_core.guest.run(f"killall -q cat; echo 0 >{FAIL_AT}")
    assert shared_core.patches() == []
    assert shared_core.redirected() == set()
    modules = shared_core.guest.check("cat /proc/modules")
    assert not [line for line in modules.splitlines() if line.startswith(("rc_", "dummy "))]
    assert int(shared_core.guest.check("cat /proc/sys/kernel/tainted")) & (1 << 9) == 0


@BOTH
def test_a_patch_comes_goes_and_comes_again(core, engine):
    before = core.texts()[:1]
    # files are read all the time, also while they go
    readers = core.guest.background(f"while :; do cat {ROOT}/*/* {ROOT}/*/*/*; done")
    for _ in range(2):
        assert core.insert("rc_base", engine) == 0
        core.settled("rc_base")
        assert core.texts() == ["rc_base", "rc_base"]
        assert core.redirected() == {"version_proc_show", "loadavg_proc_show"}
        core.undo("rc_base")
        assert core.texts()[:1] == before
    core.guest.check(f"kill {readers}")


def test_sysfs_has_the_kernel_s_own_layout(core):
    assert core.insert("rc_base", "atomic") == 0
    found = core.guest.check(f"cd {ROOT}; find rc_base -type d | sort").split()
    assert found == [
        "rc_base",
        "rc_base/dummy",
        "rc_base/dummy/dummy_get_stats64,1",
        "rc_base/vmlinux",
        "rc_base/vmlinux/loadavg_proc_show,1",
        "rc_base/vmlinux/version_proc_show,1",
    ]
    files = ("enabled", "transition", "replace", "stack_order", "engine", "left", "held")
    objects = ("vmlinux/patched", "dummy/patched")
    values = [core.read("rc_base", file) for file in (*files, *objects)]
    assert values == ["1", "0", "0", "1", "atomic", "0", "", "1", "0"]
    stats = dict(line.split() for line in core.read("rc_base", "stats").splitlines())
    assert int(stats["attempts"]) >= 1
    assert int(stats["elapsed_ns"]) > 0
    core.undo("rc_base")


@BOTH
def test_callbacks_come_in_the_kernel_s_order(core, engine):
    core.guest.check("insmod /lib/modules/dummy.ko")
    assert core.insert("rc_base", engine) == 0
    core.settled("rc_base")
    core.undo("rc_base")
    core.guest.check("rmmod dummy")
    assert core.log() == [
        "rc_base: pre_patch vmlinux",
        "rc_base: pre_patch dummy",
        "rebootless: 'rc_base': starting patching transition",
        "rc_base: post_patch vmlinux",
        "rc_base: post_patch dummy",
        "rebootless: 'rc_base': patching complete",
        "rc_base: pre_unpatch vmlinux",
        "rc_base: pre_unpatch dummy",
        "rebootless: 'rc_base': starting unpatching transition",
        "rc_base: post_unpatch vmlinux",
        "rc_base: post_unpatch dummy",
        "rebootless: 'rc_base': unpatching complete",
    ]


def test_a_module_comes_and_goes_while_it_is_patched(core):
    assert core.insert("rc_base", "per-task") == 0
    core.settled("rc_base")
    core.mark()
    for _ in range(2):
        core.guest.check("insmod /lib/modules/dummy.ko")
        assert core.texts()[2:] == ["1001"]
        assert core.read("rc_base", "dummy/patched") == "1"
        core.guest.check("rmmod dummy")
        assert core.read("rc_base", "dummy/patched") == "0"
    assert core.said("rc_base: ")[:4] == [
        "rc_base: pre_patch dummy",
        "rc_base: post_patch dummy",
        "rc_base: pre_unpatch dummy",
        "rc_base: post_unpatch dummy",
    ]
    core.undo("rc_base")


def test_a_module_that_was_in_its_init_before_the_core_came(core):
    """Anybody may be in its code: a patch of it waits for the end of the init, or is refused."""
    go, version = (f"/sys/module/rc_slow/parameters/{name}" for name in ("go", "version"))
    for begin, error in (("true", 16), (f"{{ sleep 0.3; echo 1 >{go}; }}", 0)):
        core.guest.check("rmmod rebootless_core")
        core.guest.background("insmod /lab/patches/rc_slow.ko")
        core.until(f"[ -e {go} ]")
        core.guest.check("insmod /lab/patches/rebootless_core.ko")
        core.mark()
        core.guest.background(begin)
        assert core.insert("rc_quick", "per-task") == error, core.log()
        assert bool(core.said("'rc_slow' has been in its init since before")) == bool(error)
        if error:
            assert core.patches() == []
            assert core.guest.check(f"cat {version}") == "0\n"
            core.guest.check(f"echo 1 >{go}")
            core.until("grep -q 'rc_slow .* Live' /proc/modules")
            assert core.insert("rc_quick", "per-task") == 0
        core.settled("rc_quick")
        assert core.read("rc_quick", "rc_slow/patched") == "1"
        assert core.guest.check(f"cat {version}") == "1\n"
        core.undo("rc_quick")
        assert core.guest.check(f"cat {version}") == "0\n"
        core.guest.check("rmmod rc_slow")


def test_a_module_that_cannot_have_its_patch_is_refused(core):
    assert core.insert("rc_base", "atomic", "refuse=dummy") == 0
    assert core.guest.run("/lab/insert /lib/modules/dummy.ko").status == 1  # EPERM, as it said
    assert core.said("module 'dummy' is refused")
    core.undo("rc_base")
    core.guest.check("insmod /lib/modules/dummy.ko && rmmod dummy")


@BOTH
def test_a_callback_that_refuses_leaves_nothing(core, engine):
    core.guest.check("insmod /lib/modules/dummy.ko")
    assert core.insert("rc_base", engine, "refuse=dummy") == 1
    assert core.said("rc_base: ") == [
        "rc_base: pre_patch vmlinux",
        "rc_base: pre_patch dummy",
        "rc_base: post_unpatch vmlinux",
    ]
    assert core.insert("rc_base", engine) == 0
    core.settled("rc_base")
    core.undo("rc_base")
    core.guest.check("rmmod dummy")


def test_patches_are_stacked_and_undone_from_the_top(core):
    before = core.texts()[:1]
    assert core.insert("rc_base", "per-task") == 0
    core.settled("rc_base")
    assert core.insert("rc_over", "atomic") == 0
    core.guest.check("insmod /lib/modules/dummy.ko")
    assert core.texts() == ["rc_over", "rc_base", "1002"]
    assert core.read("rc_over", "stack_order") == "2"
    assert not core.write("rc_base", "enabled", "0")
    assert core.said("'rc_base': 'version_proc_show' is patched by 'rc_over' as well")
    core.undo("rc_over")
    assert core.texts() == ["rc_base", "rc_base", "1001"]
    core.undo("rc_base")
    assert core.texts()[:1] == before
    assert core.texts()[2:] == ["0"]
    core.guest.check("rmmod dummy")


@BOTH
def test_a_patch_that_replaces_all_others(core, engine):
    core.guest.check("insmod /lib/modules/dummy.ko")
    assert core.insert("rc_base", "atomic") == 0
    assert core.insert("rc_over", "atomic") == 0
    assert core.insert("rc_stale", engine) == 22
    assert core.said("does not know the system states of 'rc_base'")
    core.mark()
    assert core.insert("rc_whole", engine) == 0
    core.gone("rc_base", "rc_over")
    texts = core.texts()
    assert (texts[0], texts[2]) == ("rc_whole", "0")
    assert texts[1] not in ("rc_base", "rc_over")
    assert core.redirected() == {"version_proc_show"}
    # as in the kernel, callbacks of those that are replaced are not called
    assert core.said("rc_base: ") == core.said("rc_over: ") == []
    core.undo("rc_whole")
    core.guest.check("rmmod dummy")


def test_a_jump_is_not_replaced_by_an_engine_that_cannot_take_it_off(core):
    def readme() -> str:
        return core.guest.check("head -n 1 /sys/kernel/tracing/README").strip()

    before = readme()
    assert core.insert("rc_untraced", "atomic") == 0
    core.settled("rc_untraced")
    assert readme() == "rc_untraced"
    assert core.insert("rc_whole", "per-task") == 16  # EBUSY
    assert core.said("tracing_readme_read is redirected by a jump, which engine per-task cannot")
    assert core.patches() == ["rc_untraced"]
    assert readme() == "rc_untraced"
    assert core.insert("rc_whole", "atomic") == 0
    core.gone("rc_untraced")
    assert readme() == before
    core.undo("rc_whole")


def test_a_function_that_the_kernel_s_livepatch_holds(core):
    guest = core.guest
    guest.check("insmod /lab/patches/rl_cmdline.ko")
    core.until("[ $(cat /sys/kernel/livepatch/rl_cmdline/transition) = 0 ]")
    assert core.insert("rl_warns", "atomic") == 16  # EBUSY
    assert core.said("cmdline_proc_show")
    assert guest.check("cat /proc/cmdline") == "rebootless was here\n"
    guest.check("echo 0 >/sys/kernel/livepatch/rl_cmdline/enabled")
    core.until("rmmod rl_cmdline 2>/dev/null")
    # and the other way round
    assert core.insert("rl_cmdline", "atomic") == 0
    assert core.insert("rl_replace", "livepatch") == 16
    assert guest.check("cat /proc/cmdline") == "rebootless was here\n"
    core.undo("rl_cmdline")


def test_the_core_stays_while_it_is_needed(core):
    assert core.insert("rc_base", "per-task") == 0
    core.settled("rc_base")
    assert core.guest.run("rmmod rebootless_core").status != 0
    assert core.guest.run("rmmod rc_base").status != 0
    core.undo("rc_base")
    core.guest.check("rmmod rebootless_core && [ ! -e /sys/kernel/rebootless ]")
    assert core.insert("rc_base", "atomic") == 65  # ENOPKG
    core.guest.check("insmod /lab/patches/rebootless_core.ko")


def test_functions_of_one_name_are_told_apart(core):
    starts = core.guest.check("grep -c ' c_start$' /proc/kallsyms")
    assert int(starts) > 1
    assert core.insert("rc_position", "atomic") == 22  # EINVAL: which one?
    assert core.insert("rc_position", "atomic", f"position={int(starts) + 1}") == 22
    emptied = []
    for position in range(1, int(starts) + 1):
        assert core.insert("rc_position", "atomic", f"position={position}") == 0
        assert core.patches() == ["rc_position"]
        found = core.guest.check(EMPTY)
        emptied += found.split()
        core.undo("rc_position")
    assert sorted(emptied) == ["cpuinfo", "crypto"]


@BOTH
def test_modules_come_and_go_while_a_transition_is_held(core, engine):
    guest = core.guest
    guest.check(f"echo 1000000 >{TRIES}")  # this takes as long as it takes
    pid = core.waiter()
    assert core.insert("rc_held", engine) == 0
    assert core.read("rc_held", "transition") == "1"
    assert core.insert("rc_over", engine) == 16  # one transition at a time
    guest.check("insmod /lib/modules/dummy.ko")
    # the atomic engine switches all at the end, the other has moved us already
    assert core.texts()[2:] == (["0"] if engine == "atomic" else ["1003"])
    held = [line.split("\t") for line in core.read("rc_held", "held").splitlines()]
    functions = {(line[0], line[3]): line[2] for line in held}
    assert functions[f"{pid}", "cat"].startswith("fifo_open")
    guest.check("rmmod dummy && insmod /lib/modules/dummy.ko")
    assert core.write("rc_held", "enabled", "0")  # turned back
    core.gone("rc_held")
    assert core.texts()[2:] == ["0"]
    core.mark()
    assert core.insert("rc_held", engine) == 0
    guest.check("rmmod dummy && insmod /lib/modules/dummy.ko")
    guest.check(f"kill {pid}")
    core.settled("rc_held")
    assert core.texts()[2:] == ["1003"]
    core.undo("rc_held")
    guest.check("rmmod dummy")
    calls = [line for line in core.said("rc_held: ") if "dummy" in line]
    assert [line.split()[1] for line in calls] == [
        # loaded before, unloaded in the transition, loaded in it, undone
        *("pre_patch", "post_unpatch", "pre_patch", "post_patch", "pre_unpatch", "post_unpatch"),
    ]


def test_an_undo_is_taken_back_and_goes_on(core):
    assert core.insert("rc_held", "per-task") == 0
    core.settled("rc_held")
    pid = core.waiter()
    assert core.write("rc_held", "enabled", "0")
    assert core.read("rc_held", "enabled") == "0"
    assert core.read("rc_held", "transition") == "1"
    assert core.write("rc_held", "enabled", "1")
    core.settled("rc_held")
    assert core.read("rc_held", "enabled") == "1"
    assert core.texts()[0] == "rc_held"
    assert not core.write("rc_held", "enabled", "1")
    assert not core.write("rc_held", "force", "1")
    core.guest.check(f"kill {pid}")
    core.undo("rc_held")


def test_the_atomic_engine_gives_up(core):
    core.guest.check(f"echo 3 >{TRIES}")
    pid = core.waiter()
    assert core.insert("rc_held", "atomic") == 0
    core.gone("rc_held")
    assert core.said("patching was tried 3 times and is given up")
    assert core.said(f"held by {pid}/{pid} cat in fifo_open")
    core.guest.check(f"kill {pid}")


FAULTS = f"""
limit() {{ m=$((m+1)); [ $m -lt 100 ] || {{ echo "$n: $1"; exit 1; }}; }}
n=1 failed=0
while :; do
    m=0
    echo $n >{FAIL_AT}
    /lab/insert /lab/patches/rc_base.ko engine=$1 2>/dev/null && worked=1 || worked=0
    left=$(cat {FAIL_AT})
    echo 0 >{FAIL_AT}
    if [ $worked = 0 ]; then
        [ $left = 0 ] || {{ echo "$n: failed by itself"; exit 1; }}
        [ -z "$(ls {ROOT})" ] || {{ echo "$n: sysfs is not as before"; exit 1; }}
        [ -z "$(cat /sys/kernel/tracing/enabled_functions)" ] || {{ echo "$n: ftrace"; exit 1; }}
        ! grep -q rc_ /proc/version || {{ echo "$n: it is in force"; exit 1; }}
        failed=$((failed+1))
    else
        cd {ROOT}/rc_base
        while grep -q 1 transition; do sleep 0.1; limit "does not get through"; done
        grep -q rc_base /proc/version || {{ echo "$n: not in force"; exit 1; }}
        # the same on the way back
        echo $n >{FAIL_AT}
        echo 0 2>/dev/null >enabled
        echo 0 >{FAIL_AT}
        while grep -q 1 enabled 2>/dev/null && limit "is not undone"; do
            grep -q 1 transition && sleep 0.1 || echo 0 >enabled
        done
        cd /
        until rmmod rc_base 2>/dev/null; do sleep 0.1; limit "does not go"; done
        [ $left = 0 ] || break
    fi
    n=$((n+1))
done
echo $failed $n
"""


@BOTH
def test_each_failure_on_the_way_leaves_nothing(core, engine):
    core.guest.check("insmod /lib/modules/dummy.ko")
    core.guest.put_file(FAULTS.encode(), "/run/faults")
    readers = core.guest.background(f"while :; do cat {ROOT}/*/* {ROOT}/*/*/*; done")
    failed, tried = core.guest.check(f"sh /run/faults {engine}", timeout=240).split()[-2:]
    assert int(failed) > 10
    assert int(tried) > int(failed)
    core.guest.check(f"kill {readers}; rmmod dummy")


def test_a_forced_undo_keeps_the_module(shared_core):
    """The last: the module stays for good."""
    core = shared_core
    assert core.insert("rc_held", "per-task") == 0
    core.settled("rc_held")
    pid = core.waiter()
    assert core.write("rc_held", "enabled", "0")
    assert core.read("rc_held", "left") == "1"
    assert core.write("rc_held", "force", "1")
    core.until(f"[ ! -e {ROOT}/rc_held ]")
    assert core.redirected() == set()
    core.guest.check(f"kill {pid}")  # comes back out of the patch's code
    assert core.guest.run("rmmod rc_held").status != 0
    core.guest.check("rmmod rebootless_core")
