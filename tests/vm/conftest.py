"""Real kernels, guests and test patches for the tests that boot.

The kernel is that of tests/conftest.py. To test another one, set REBOOTLESS_TEST_KERNEL to its
release; or set REBOOTLESS_TEST_IMAGE_ROOT to an unpacked image package and REBOOTLESS_TEST_TREE to
a source tree prepared for it, and nothing is fetched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

import rebootless
from rebootless.base.events import NullMonitor
from rebootless.base.proc import run
from rebootless.compile import core as cores
from rebootless.compile import tree as trees
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.machine import GuestMachine
from rebootless.lab.vm import Vm, VmConfig
from rebootless.provider.base import KernelFiles

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers; tests are imported by path

KMOD = Path(rebootless.__file__).parent / "kmod"
MODULE_SOURCES = Path(__file__).parent / "modules"
PATCHES = (
    *("rl_cmdline", "rl_replace", "rl_missing", "rl_warns", "rl_sleep", "rl_dummy"),
    *("rl_halves", "rl_halves_patch", "rl_threads", "rl_tick_patch", "rl_wait_patch"),
    "rl_poke",
)


@dataclass(frozen=True)
class StockKernel:
    """A kernel as its distribution ships it, and what builds modules for it."""

    release: str
    image: Path
    modules: Path
    command: Callable[[str, str], list[str]]  # make with its arguments
    lock: Callable[[], AbstractContextManager[None]]
    headers: cores.Headers


@dataclass
class Lab:
    """A booted guest with all test patches in it."""

    vm: Vm
    guest: Guest
    machine: GuestMachine


BootGuest = Callable[..., AbstractContextManager[Lab]]


def _given_kernel(root: Path, source: Path) -> StockKernel:
    modules = next(iter(sorted((root / "lib/modules").iterdir())))
    release = modules.name
    compiler = os.environ.get("REBOOTLESS_TEST_CC", "gcc-12")
    return StockKernel(
        release,
        root / "boot" / f"vmlinuz-{release}",
        modules,
        lambda *targets: trees.make_command(source, release, compiler, *targets),
        contextlib.nullcontext,
        cores.Headers(release, source, compiler),
    )


@pytest.fixture(scope="session")
def kernel(request: pytest.FixtureRequest) -> StockKernel:
    """The kernel under test."""
    for program in ("qemu-system-x86_64", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed, so NOTHING is tested in QEMU")
    root, source = (os.environ.get(f"REBOOTLESS_TEST_{n}") for n in ("IMAGE_ROOT", "TREE"))
    if root and source:
        return _given_kernel(Path(root), Path(source))
    files: KernelFiles = request.getfixturevalue("stock_kernel")
    tree: trees.Tree = request.getfixturevalue("stock_tree")
    assert files.modules is not None
    return StockKernel(
        files.release,
        files.image,
        files.modules,
        tree.make,
        tree.locked,
        cores.Headers.of_tree(tree),
    )


@pytest.fixture(scope="session")
def patches(kernel: StockKernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The test patches, built for the kernel under test."""
    folder = tmp_path_factory.mktemp("modules") / "rl"
    shutil.copytree(MODULE_SOURCES, folder)
    for header in KMOD.glob("rebootless_*.h"):
        shutil.copy(header, folder)
    with kernel.lock():
        run(kernel.command(f"M={folder}", "modules"), timeout=300)
    return {name: (folder / f"{name}.ko").read_bytes() for name in PATCHES}


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """programs/crowd.c, linked statically: many processes for a guest."""
    program = tmp_path_factory.mktemp("programs") / "crowd"
    run(["gcc", "-static", "-O2", "-o", program, Path(__file__).parent / "programs/crowd.c"])
    return program.read_bytes()


@pytest.fixture(scope="session")
def core_module(kernel: StockKernel) -> bytes:
    """The core module for the kernel under test; compiled when its sources have changed."""
    with kernel.lock():
        return cores.build_core(kernel.headers, NullMonitor()).path.read_bytes()


@pytest.fixture(scope="session")
def boot(
    kernel: StockKernel,
    patches: dict[str, bytes],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> BootGuest:
    """Boots a guest: `with boot(cmdline=..., cpus=...) as lab:`.

    `core=True` puts the core module in: `lab.machine.load_module(b"", name="rebootless_core")`
    loads it from /lab/patches/rebootless_core.ko. A file given as `disk` lets large reads of
    memory go that way.
    """

    @contextlib.contextmanager
    def boot_guest(*, core: bool = False, **options: object) -> Iterator[Lab]:
        blobs = dict(patches)
        if core:
            blobs["rebootless_core"] = request.getfixturevalue("core_module")
        stored = {name: f"/lab/patches/{name}.ko" for name in blobs}
        files = {path: (blobs[name], 0o644) for name, path in stored.items()}
        files |= options.pop("files", {})  # type: ignore[operator]
        disk: Path | None = options.get("disk")  # type: ignore[assignment]
        load = ("virtio_pci", "virtio_blk") if disk else ()
        image = GuestImage(kernel.modules, load=load, carry=("dummy", "loop"), files=files)
        log = tmp_path_factory.mktemp("guest") / "console.log"
        with Vm(VmConfig(kernel.image, **options), image, log) as vm:  # type: ignore[arg-type]
            guest = Guest(vm)
            yield Lab(vm, guest, GuestMachine(guest, stored, disk))

    return boot_guest


@pytest.fixture(scope="module")
def shared_lab(boot: BootGuest) -> Iterator[Lab]:
    """One guest for the tests of a module that leave it as they found it."""
    with boot(cpus=2) as lab:
        yield lab


@pytest.fixture
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The shared guest; no patch may be left in it."""
    yield shared_lab
    shared_lab.guest.run("killall -q sleep")  # one that a failed test left would block the next
    assert shared_lab.machine.glob(["/sys/kernel/livepatch/*"]) == []
    assert "rl_" not in shared_lab.guest.run("cat /proc/modules").output
