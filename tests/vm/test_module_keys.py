"""Static keys and tracepoints of modules in a running kernel, and debug messages in their patches.

Two patches share one guest: one of a module of ours that follows another one's exported key, and
one of the stock module `watchdog`, which softdog drives, in a function with private tracepoints.
"""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.base.errors import KernelRefusedError, StateError
from rebootless.base.proc import run
from rebootless.bundle import archive
from rebootless.compile.tree import Tree, make_command
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage, module_path
from rebootless.lab.machine import GuestMachine
from rebootless.lab.vm import Vm, VmConfig
from rebootless.pipeline import ExternalModule
from rebootless.pipeline.artifact import BuildResult
from rebootless.provider.base import KernelFiles

pytestmark = pytest.mark.vm

SOURCE = Path(__file__).parent / "keyed"
DOG = "drivers/watchdog/watchdog_dev.c"
PING = "\twd_data->last_hw_keepalive = now;\n\n"
NEW_PING = f'{PING}\tpr_info("rl pings\\n");\n\tpr_debug("rl debugs\\n");\n'
TRACE = "/sys/kernel/tracing"
Edits = Mapping[str, tuple[str, str]]


@pytest.fixture(scope="module")
def installed(stock_tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both modules as their maker builds them."""
    folder = tmp_path_factory.mktemp("dkms") / "keyed-1.0"
    shutil.copytree(SOURCE, folder)
    with stock_tree.locked():
        where = (stock_tree.orig, stock_tree.release, stock_tree.compiler)
        run(make_command(*where, f"M={folder}", "modules", flags=()), timeout=300)
    return {name: folder / f"{name}.ko" for name in ("rl_switch", "rl_keyed")}


@pytest.fixture(scope="module")
def keyed(
    installed: Mapping[str, Path], stock_release: str, tmp_path_factory: pytest.TempPathFactory
) -> BuildResult:
    """The patch of the module that follows the key."""
    folder = tmp_path_factory.mktemp("keyed")
    before = (SOURCE / "rl_keyed.c").read_text()
    after = before.replace('"the key is o', '"patched: the key is o')
    paths = ("a/rl_keyed.c", "b/rl_keyed.c")
    lines = difflib.unified_diff(before.splitlines(True), after.splitlines(True), *paths)
    (folder / "keyed.patch").write_text("".join(lines))
    return pipeline.build(
        [folder / "keyed.patch"],
        kernel=stock_release,
        external=ExternalModule(SOURCE, tuple(map(str, installed.values()))),
        name="rl_follow",
        output=folder / "keyed.rlp",
        workdir=folder / "work",
    )


@pytest.fixture(scope="module")
def dog(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: Callable[[Path, Edits, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> BuildResult:
    """The patch of the stock module."""
    folder = tmp_path_factory.mktemp("dog")
    return pipeline.build(
        [edit_patch(stock_tree.orig, {DOG: (PING, NEW_PING)}, folder / "dog.patch")],
        kernel=stock_release,
        name="rl_dog",
        output=folder / "dog.rlp",
        workdir=folder / "work",
    )


@dataclass(frozen=True)
class Lab:
    """A guest with both patches and all modules in it; none is loaded."""

    guest: Guest
    machine: GuestMachine

    def insert(self, *names: str) -> None:
        for name in names:
            self.guest.check(f"insmod {self.machine.stored.get(name, module_path(name))}")

    def says(self) -> str:
        return self.guest.check("cat /proc/rl_keyed").strip()

    def switch(self, on: bool) -> None:
        self.guest.check(f"echo {on:d} >/sys/module/rl_switch/parameters/on")


@pytest.fixture(scope="module")
def lab(
    keyed: BuildResult,
    dog: BuildResult,
    installed: Mapping[str, Path],
    stock_kernel: KernelFiles,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lab]:
    files = {name: path.read_bytes() for name, path in installed.items()}
    for result in (keyed, dog):
        files |= archive.read(result.bundle_path).modules
    stored = {name: f"/lab/{name}.ko" for name in files}
    image = GuestImage(
        stock_kernel.modules,
        carry=("softdog",),
        files={stored[name]: (content, 0o644) for name, content in files.items()},
    )
    log = tmp_path_factory.mktemp("lab") / "log"
    with Vm(VmConfig(stock_kernel.image, cpus=2), image, log) as vm:
        yield Lab(Guest(vm), GuestMachine(Guest(vm), stored))


def test_the_author_is_told(keyed: BuildResult, dog: BuildResult) -> None:
    found = {(w.code, w.symbol) for w in keyed.warnings}
    assert ("module-needed", "rl_switch_key") in found
    found = {(w.code, w.symbol) for w in dog.warnings if w.code == "tracepoint-dropped"}
    assert found == {("tracepoint-dropped", f"watchdog_{name}") for name in ("ping", "start")}


def test_a_key_that_another_module_exports(lab: Lab, keyed: BuildResult) -> None:
    with pytest.raises(StateError, match="needs the module rl_switch") as refused:
        pipeline.apply(keyed.bundle_path, machine=lab.machine)
    assert "modprobe rl_switch" in str(refused.value.hint)
    with pytest.raises(KernelRefusedError, match="rl_switch_key"):
        lab.machine.load_module(b"", name="rl_follow")  # so says the kernel itself
    lab.insert("rl_switch", "rl_keyed")
    lab.switch(True)
    assert lab.says() == "the key is on"
    pipeline.apply(keyed.bundle_path, machine=lab.machine)
    for on in (True, False, True):
        lab.switch(on)
        assert lab.says() == f"patched: the key is {'on' if on else 'off'}"
    with pytest.raises(KernelRefusedError, match="in use"):
        lab.machine.remove_module("rl_switch")
    pipeline.undo("rl_follow", machine=lab.machine, verify=False)
    for on in (False, True):  # nothing of the patch is left in the key's list
        lab.switch(on)
        assert lab.says() == f"the key is {'on' if on else 'off'}"
    for name in ("rl_keyed", "rl_switch"):
        lab.machine.remove_module(name)
    assert not re.search(r"\b(BUG|Oops|WARNING|general protection)\b", lab.guest.check("dmesg"))


def test_tracepoints_and_debug_messages(lab: Lab, dog: BuildResult) -> None:
    """Private tracepoints are quiet in the patched function, and in no other one."""
    lab.insert("watchdog", "softdog")
    lab.guest.check(f"echo 1 >{TRACE}/events/watchdog/watchdog_start/enable")

    def fed() -> tuple[int, str]:
        """How often the tracepoint fires, and what is logged, when the dog is fed."""
        lab.guest.check(f"echo >{TRACE}/trace; dmesg -c >/dev/null; echo V >/dev/watchdog")
        events = lab.guest.check(f"cat {TRACE}/trace").count("watchdog_start:")
        return events, lab.guest.check("dmesg")

    assert fed()[0] == 2, "it is opened, which starts it, and written to, which pings it"
    pipeline.apply(dog.bundle_path, machine=lab.machine)
    events, log = fed()
    assert events == 1 and "rl pings" in log and "rl debugs" not in log
    lab.guest.check("echo 'module rl_dog +p' >/sys/kernel/debug/dynamic_debug/control")
    events, log = fed()
    assert events == 1 and log.count("rl debugs") == 1
    pipeline.undo("rl_dog", machine=lab.machine, verify=False)
    events, log = fed()
    assert events == 2 and "rl pings" not in log
