"""The examples of docs/patch-author-guide.md: built, applied to a real kernel, undone.

One guest for all: each test leaves it without a patch. What the guide shows must be what is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.base.errors import RebootlessError
from rebootless.bundle import archive
from rebootless.compile.tree import Tree
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.machine import GuestMachine
from rebootless.lab.vm import Vm, VmConfig
from rebootless.provider.base import KernelFiles

pytestmark = pytest.mark.vm

REPLACING = frozenset({"pipe_state_2"})
EXAMPLES = (
    "pipe_limit",
    "kmsg_shadow",
    "limits_lock",
    "hostname_syscall",
    "pipe_state_1",
    "pipe_state_2",
    "timer_list_marks",
)
CALLBACKS = """
#include <rebootless.h>

static int first_pre_patch(struct klp_object *object)
{
	pr_info("NAME: pre_patch %s\\n", object->name ?: "vmlinux");
	return RESULT;
}

static void first_post_patch(struct klp_object *object)
{
	pr_info("NAME: post_patch\\n");
}

static void first_pre_unpatch(struct klp_object *object)
{
	pr_info("NAME: pre_unpatch\\n");
}

static void first_post_unpatch(struct klp_object *object)
{
	pr_info("NAME: post_unpatch\\n");
}

REBOOTLESS_PRE_PATCH(first_pre_patch);
REBOOTLESS_POST_PATCH(first_post_patch);
REBOOTLESS_PRE_UNPATCH(first_pre_unpatch);
REBOOTLESS_POST_UNPATCH(first_post_unpatch);
"""
REFUSING = 'strcmp(init_utsname()->nodename, "refuse") ? 0 : -ENODEV'
ENDS = {
    "fs/proc/uptime.c": "fs_initcall(proc_uptime_init);\n",
    "fs/proc/version.c": "fs_initcall(proc_version_init);\n",
    "drivers/net/dummy.c": "MODULE_ALIAS_RTNL_LINK(DRV_NAME);\n",
}


def with_callbacks(path: str, name: str, result: str = "0") -> dict[str, tuple[str, str]]:
    text = CALLBACKS.replace("NAME", name).replace("RESULT", result)
    return {path: (ENDS[path], ENDS[path] + text)}


@dataclass
class Field:
    """The guest and the bundles that it can take."""

    machine: GuestMachine
    guest: Guest
    bundles: dict[str, Path]

    def apply(self, name: str) -> None:
        pipeline.apply(self.bundles[name], machine=self.machine)

    def undo(self, name: str) -> None:
        pipeline.undo(name, machine=self.machine, verify=False)

    def read(self, path: str) -> str:
        return self.guest.check(f"cat {path}").strip()

    def log(self, text: str) -> int:
        """How many lines of the kernel log have a text."""
        return self.machine.kernel_log().count(text)


@pytest.fixture(scope="module")
def bundles(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Every example, and patches of this test, built for the stock kernel."""
    folder = tmp_path_factory.mktemp("guide")
    examples = resources.files("rebootless") / "examples"
    patches = {}
    for name in EXAMPLES:
        patches[name] = folder / f"{name}.patch"
        patches[name].write_bytes((examples / f"{name}.patch").read_bytes())
    for name, edits in {
        "chain": with_callbacks("fs/proc/uptime.c", "one")
        | with_callbacks("fs/proc/version.c", "two", REFUSING)
        | with_callbacks("drivers/net/dummy.c", "late"),
    }.items():
        patches[name] = edit_patch(stock_tree.orig, edits, folder / f"{name}.patch")
    built = {}
    for name, patch in patches.items():
        result = pipeline.build(
            [patch],
            kernel=stock_release,
            name=name,
            replace=name in REPLACING,
            output=folder / f"{name}.rlp",
            workdir=folder / name,
        )
        built[name] = result.bundle_path
        if name in EXAMPLES:
            assert not [w for w in result.warnings if not w.accepted], "the header accepts all"
    return built


@pytest.fixture(scope="module")
def shared_field(
    bundles: dict[str, Path],
    stock_kernel: KernelFiles,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Field]:
    """One guest for the module."""
    stored = {name: f"/lab/patches/{name}.ko" for name in bundles}
    files = {
        stored[name]: (archive.read(bundle).modules[name], 0o644)
        for name, bundle in bundles.items()
    }
    image = GuestImage(stock_kernel.modules, carry=("dummy",), files=files)
    log = tmp_path_factory.mktemp("guest") / "console.log"
    with Vm(VmConfig(stock_kernel.image, cpus=2), image, log) as vm:
        guest = Guest(vm)
        yield Field(GuestMachine(guest, stored), guest, bundles)
        problems = ("WARNING:", "BUG:", "Oops", "Call Trace")
        assert not [p for p in problems if p in GuestMachine(guest).kernel_log()]


@pytest.fixture
def field(shared_field: Field) -> Iterator[Field]:
    """The guest; no patch may be left in it."""
    yield shared_field
    assert shared_field.machine.glob(["/sys/kernel/livepatch/*"]) == []


def test_data_changed_by_a_callback(field: Field) -> None:
    size = "/proc/sys/fs/pipe-max-size"
    assert field.read(size) == "1048576"
    field.apply("pipe_limit")
    assert field.read(size) == "262144"
    field.undo("pipe_limit")
    assert field.read(size) == "1048576"
    field.guest.check(f"echo 524288 >{size}")
    field.apply("pipe_limit")
    assert field.read(size) == "524288", "what the administrator set stays"
    field.undo("pipe_limit")
    assert field.read(size) == "524288"
    field.guest.check(f"echo 1048576 >{size}")


def test_structure_extended_by_a_shadow_variable(field: Field) -> None:
    write = "dd if=/dev/zero bs=900 count=6 of=/dev/kmsg 2>/dev/null"
    told = "dd wrote 5400 bytes to /dev/kmsg"
    field.guest.check(write)
    assert field.log(told) == 0
    # Open before the patch and closed while it is there; open while it is there, closed after.
    hold = "exec 3>/dev/kmsg; touch /tmp/{0}; while [ ! -e /tmp/{1} ]; do sleep 0.1; done"
    ready = "while [ ! -e /tmp/{0} ]; do sleep 0.1; done"
    early = hold.format("early", "go") + "; yes | head -c 5400 | dd bs=900 >&3; exec 3>&-; "
    field.guest.background(early + "touch /tmp/early-done")
    field.guest.check(ready.format("early"))
    field.apply("kmsg_shadow")
    field.guest.check("touch /tmp/go; " + ready.format("early-done"))
    assert field.log("bytes to /dev/kmsg") == 0, "it had no counter"
    field.guest.check(write)
    assert field.log(told) == 1
    field.guest.background(hold.format("late", "end") + "; exec 3>&-; touch /tmp/late-done")
    field.guest.check(ready.format("late"))
    field.undo("kmsg_shadow")
    field.guest.check("touch /tmp/end; " + ready.format("late-done"))
    field.guest.check(write)
    assert field.log("bytes to /dev/kmsg") == 1


def test_lock_order(field: Field) -> None:
    """Limits are read while somebody changes them; a pair never is half new."""
    flip = "while [ ! -e /tmp/stop ]; do ulimit -n 100; ulimit -n 200; done"
    field.apply("limits_lock")
    pid = field.guest.background(flip)
    watch = (
        "for i in $(seq 30); do grep 'Max open files' /proc/%d/limits; done"
        " | awk '{ print $4, $5 }' | sort -u"
    )
    seen = set(field.guest.check(watch % pid).splitlines())
    assert seen and seen <= {"100 100", "200 200"}
    assert len(field.read("/proc/self/limits").splitlines()) == 17
    field.guest.check("touch /tmp/stop")
    field.undo("limits_lock")
    assert len(field.read("/proc/self/limits").splitlines()) == 17


def test_system_call(field: Field) -> None:
    bad = "hostname \"$(printf 'bad\\tname')\""
    name = "/proc/sys/kernel/hostname"
    assert field.guest.run(bad).status == 0 and field.read(name) == "bad\tname"
    field.guest.check("hostname good")
    field.apply("hostname_syscall")
    assert field.guest.run(bad).status != 0 and field.read(name) == "good"
    field.guest.check("hostname better")
    assert field.read(name) == "better"
    field.undo("hostname_syscall")
    assert field.guest.run(bad).status == 0
    field.guest.check("hostname guest")


def test_system_state_is_handed_over(field: Field) -> None:
    pages = "/proc/sys/fs/pipe-user-pages-soft"
    assert field.read(pages) == "16384"
    field.apply("pipe_state_1")
    assert field.read(pages) == "8192"
    field.apply("pipe_state_2")
    assert field.read(pages) == "4096"
    with pytest.raises(RebootlessError, match="system state of a patch that is applied"):
        field.apply("pipe_state_1")
    assert field.read(pages) == "4096"
    field.undo("pipe_state_2")
    assert field.read(pages) == "16384", "what was there before the first of them"


def test_ignored_and_forced_functions(field: Field) -> None:
    field.apply("timer_list_marks")
    assert field.log("timer_list: no task is in timer_list_start() any more") == 1
    assert "online CPUs: 2" in field.read("/proc/timer_list")
    patched = field.guest.check("ls /sys/kernel/livepatch/timer_list_marks/vmlinux").split()
    assert [p.partition(",")[0] for p in patched if "," in p] == [
        "timer_list_show",
        "timer_list_start",
    ]
    field.guest.check("echo q >/proc/sysrq-trigger")
    assert field.log("Timer List Version") == 1 and field.log("online CPUs: ") == 0
    field.undo("timer_list_marks")
    assert "online CPUs" not in field.read("/proc/timer_list")


def test_callbacks_of_two_units_and_of_a_module_that_loads_later(field: Field) -> None:
    field.apply("chain")
    field.guest.check("insmod $(find /lib/modules /lab -name 'dummy.ko*')")
    field.guest.check("rmmod dummy")
    field.undo("chain")
    told = [line.split("] ")[-1] for line in field.machine.kernel_log().splitlines()]
    prefixes = ("one: ", "two: ", "late: ")
    assert [line for line in told if line.startswith(prefixes)] == [
        "one: pre_patch vmlinux",
        "two: pre_patch vmlinux",
        "one: post_patch",
        "two: post_patch",
        "late: pre_patch dummy",
        "late: post_patch",
        "late: pre_unpatch",
        "late: post_unpatch",
        "two: pre_unpatch",
        "one: pre_unpatch",
        "two: post_unpatch",
        "one: post_unpatch",
    ]


def test_callback_that_refuses(field: Field) -> None:
    """The patch does not load, and the unit whose pre_patch has run is told."""
    texts = ["one: pre_patch", "two: pre_patch", "one: post_unpatch"]
    others = ["two: post_unpatch", "one: post_patch", "two: post_patch"]
    before = {text: field.log(text) for text in texts + others}
    field.guest.check("hostname refuse")
    with pytest.raises(RebootlessError, match="pre_patch callback refused"):
        field.apply("chain")
    field.guest.check("hostname guest")
    more = {text: field.log(text) - before[text] for text in texts + others}
    assert len({more[text] for text in texts}) == 1, "busybox tries two system calls"
    assert more[texts[0]] > 0 and not any(more[text] for text in others)
