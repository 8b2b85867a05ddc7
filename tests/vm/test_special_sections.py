"""Special sections in a running kernel: one patch with entries of every kind, on stock kernels.

Its functions report through /proc/version what the kernel made of them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.bundle import archive
from rebootless.compile.tree import Tree
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.machine import GuestMachine
from rebootless.lab.vm import Vm, VmConfig
from rebootless.provider.base import KernelFiles

pytestmark = pytest.mark.vm

NAME = "rl_special"
SOURCES = Path(__file__).parent / "sources"
TRACE = "/sys/kernel/tracing"
CONTROL = "/sys/kernel/debug/dynamic_debug/control"
Edits = Mapping[str, tuple[str, str]]


@pytest.fixture(scope="module")
def bundle(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: Callable[[Path, Edits, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The patch: three units, one of which tests a static key that is read-only after boot."""
    folder = tmp_path_factory.mktemp("special")
    head = "static int version_proc_show(struct seq_file *m, void *v)\n{\n"
    top, show = ((SOURCES / f"special_{part}.c").read_text() for part in ("top", "show"))
    rename = "\ttrace_task_rename(tsk, buf);\n"
    skipped = "\t/* Skip all tests if size is zero. */\n"
    edits = {
        "fs/proc/version.c": (head, f"{top}\n{head}{show}"),
        "fs/exec.c": (rename, f"\tif (buf[0] == 'Z')\n\t\tpr_info(\"rl renames\\n\");\n{rename}"),
        "mm/usercopy.c": (skipped, f'\tpr_info_once("rl checks a copy\\n");\n{skipped}'),
    }
    patch = edit_patch(stock_tree.orig, edits, folder / "special.patch")
    result = pipeline.build(
        [patch],
        kernel=stock_release,
        name=NAME,
        output=folder / "special.rlp",
        workdir=folder / "work",
    )
    return result.bundle_path


class Lab:
    """A guest with the patch in it."""

    def __init__(self, guest: Guest, bundle: Path) -> None:
        self.guest, self.bundle = guest, bundle
        self.machine = GuestMachine(guest, {NAME: f"/lab/{NAME}.ko"})

    def apply(self) -> None:
        pipeline.apply(self.bundle, machine=self.machine)

    def undo(self) -> None:
        pipeline.undo(NAME, machine=self.machine, verify=False)

    def set(self, path: str, value: object) -> None:
        self.guest.check(f"echo '{value}' >{path}")

    def read(self) -> dict[str, str]:
        """What the patched function says: a word, and the rest of its line."""
        text = self.guest.check("cat /proc/version")
        assert text.count("Linux version") == 1
        return dict(re.findall(r"^rl (\w+) (.*)$", text, re.M))

    def log(self) -> str:
        return self.guest.check("dmesg")


@pytest.fixture
def boot(
    bundle: Path, stock_kernel: KernelFiles, tmp_path: Path
) -> Callable[[str], contextlib.AbstractContextManager[Lab]]:
    @contextlib.contextmanager
    def start(cmdline: str) -> Iterator[Lab]:
        files = {f"/lab/{NAME}.ko": (archive.read(bundle).modules[NAME], 0o644)}
        config = VmConfig(stock_kernel.image, cpus=2, cmdline=cmdline)
        with Vm(config, GuestImage(stock_kernel.modules, files=files), tmp_path / "log") as vm:
            yield Lab(Guest(vm), bundle)

    return start


def test_every_kind_works_in_a_patched_kernel(
    boot: Callable[[str], contextlib.AbstractContextManager[Lab]],
) -> None:
    with boot("hardened_usercopy=off") as lab:
        lab.set("/proc/sys/kernel/task_delayacct", 1)  # its key is on when the patch loads
        lab.set(f"{TRACE}/events/task/task_rename/enable", 1)
        lab.apply()
        said = lab.read()
        exceptions_and_alternatives(said)
        assert said["way"] == "1" and "own" not in said and said["second"] == "on"
        warnings(lab)
        static_keys(lab)
        tracepoints(lab)
        debug_messages(lab)
        static_calls(lab)
        assert "rl checks a copy" not in lab.log(), "the kernel's own copy is told not to check"
        lab.undo()
        for value in (0, 1):  # nothing of the patch is left in the lists of these keys
            lab.set("/proc/sys/kernel/task_delayacct", value)
            lab.set("/proc/sys/kernel/bpf_stats_enabled", value)
        lab.set("/sys/kernel/debug/sched/preempt", "full")
        assert not re.search(r"\b(BUG|Oops|general protection)\b", lab.log())


def exceptions_and_alternatives(said: Mapping[str, str]) -> None:
    assert said["fault"] == "-14 steal 0", "a bad address gives -EFAULT and no oops"
    assert said["copy"] == "64", "nothing of 64 bytes could be copied"
    assert said["page"] == "1", "clear_page() has cleared the page"
    assert said["guest"] == "1 weight 16 tsc 1"


def warnings(lab: Lab) -> None:
    lab.read()  # the second time it warns
    lab.read()
    found = re.findall(r"WARNING: .* at (\S+) (\S+)\+\S+ \[(\w+)\]", lab.log())
    ((place, function, module),) = found
    assert re.fullmatch(r"fs/proc/version\.c:\d+", place)
    assert (function, module) == ("version_proc_show", NAME)
    assert "\nrl reads 2" in re.sub(r"(?m)^\[[^]]*\] ", "", lab.log())


def static_keys(lab: Lab) -> None:
    """Of the kernel, exported or not; of the patch itself, which changes them in its third read."""
    said = lab.read()
    assert said["delayacct"] == "on" and "bpf" not in said
    assert said["own"] == "on" and "second" not in said, "changed by the patch"
    assert said["way"] == "2", "so is its static call"
    lab.set("/proc/sys/kernel/task_delayacct", 0)
    lab.set("/proc/sys/kernel/bpf_stats_enabled", 1)
    said = lab.read()
    assert "delayacct" not in said and said["bpf"] == "on"
    lab.set("/proc/sys/kernel/task_delayacct", 1)
    assert lab.read()["delayacct"] == "on"


def tracepoints(lab: Lab) -> None:
    """The tracepoint was on before the patch; it goes off and on again in the patched function."""
    for enabled, name in ((1, "Zero"), (0, "Zed"), (1, "Zoe")):
        lab.set(f"{TRACE}/events/task/task_rename/enable", enabled)
        lab.guest.check(f"sh -c 'echo {name} >/proc/$$/comm'")
        traced = f"newcomm={name}" in lab.guest.check(f"cat {TRACE}/trace")
        assert traced == bool(enabled)
    assert lab.log().count("rl renames") == 3, "it was the patched function"


def debug_messages(lab: Lab) -> None:
    assert "rl debug" not in lab.log()
    lab.set(CONTROL, f"module {NAME} +p")
    lab.read()
    assert lab.log().count("rl debug") == 1
    lab.set(CONTROL, "func version_proc_show -p")
    lab.read()
    assert lab.log().count("rl debug") == 1


def static_calls(lab: Lab) -> None:
    """cond_resched() is a static call; another preemption model changes the patched code."""
    codes = []
    for model in ("voluntary", "full", "none", "full"):
        lab.set("/sys/kernel/debug/sched/preempt", model)
        codes.append(lab.read()["resched"])
    assert codes[0] == codes[2] and codes[1] == codes[3] and codes[0] != codes[1]


def test_read_only_key_follows_the_machine_that_it_is_on(
    boot: Callable[[str], contextlib.AbstractContextManager[Lab]],
) -> None:
    """The same patch on a machine that booted without the parameter, twice."""
    with boot("") as lab:
        lab.apply()
        lab.guest.check("cat /etc/nothing 2>/dev/null; ls / >/dev/null")
        assert "rl checks a copy" in lab.log()
        lab.undo()
        lab.apply()
        lab.undo()
        assert not re.search(r"\b(BUG|Oops|WARNING)\b", lab.log())
