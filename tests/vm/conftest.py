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
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

import rebootless
from rebootless.base.events import NullMonitor
from rebootless.base.fs import filling_directory, locked
from rebootless.base.proc import run
from rebootless.compile import core as cores
from rebootless.compile import tree as trees
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.machine import GuestMachine
from rebootless.lab.vm import Vm, VmConfig
from rebootless.provider.base import KernelFiles

sys.path.insert(0, str(Path(__file__).parent))  # for the helpers; tests are imported by path

from small_kernel import SmallKernel
from small_kernel import small_kernel as small_kernel_of

KMOD = Path(rebootless.__file__).parent / "kmod"
MODULE_SOURCES = Path(__file__).parent / "modules"
PATCHES = (
    *("rl_cmdline", "rl_replace", "rl_missing", "rl_warns", "rl_sleep", "rl_dummy"),
    *("rl_halves", "rl_halves_patch", "rl_threads", "rl_tick_patch", "rl_wait_patch"),
    "rl_probe",
    "rl_poke",
    "rl_epoll",
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
def small_built(stock_kernel: KernelFiles) -> SmallKernel:
    """The kernel without livepatch and without ftrace; built when the cache does not have it."""
    return small_kernel_of(stock_kernel, "small")


@pytest.fixture(scope="session")
def traced_built(stock_kernel: KernelFiles) -> SmallKernel:
    """The kernel without livepatch that has ftrace."""
    return small_kernel_of(stock_kernel, "traced")


def _as_stock(built: SmallKernel) -> StockKernel:
    tree = trees.prepare(built.provider().fetch(), NullMonitor())
    headers = cores.Headers.of_tree(tree)
    return StockKernel(built.release, built.image, built.modules, tree.make, tree.locked, headers)


@pytest.fixture(scope="session")
def small_kernel(small_built: SmallKernel) -> StockKernel:
    """A kernel without livepatch and without ftrace."""
    return _as_stock(small_built)


@pytest.fixture(scope="session")
def traced_kernel(traced_built: SmallKernel) -> StockKernel:
    """A kernel without livepatch that has ftrace."""
    return _as_stock(traced_built)


@pytest.fixture(scope="session")
def boot_small(tmp_path_factory: pytest.TempPathFactory) -> BootGuest:
    """Boots a small kernel with the core module at hand: `with boot_small(small_kernel) as lab:`.

    `blobs` are patch modules by name, for `lab.machine.load_module(b"", name=NAME)`; `carry` are
    names of the kernel's own modules.
    """

    @contextlib.contextmanager
    def boot_guest(
        kernel: StockKernel,
        blobs: Mapping[str, bytes] | None = None,
        carry: tuple[str, ...] = (),
        **options: object,
    ) -> Iterator[Lab]:
        with kernel.lock():
            core = cores.build_core(kernel.headers, NullMonitor()).path.read_bytes()
        modules = {cores.NAME: core, **(blobs or {})}
        stored = {name: f"/lab/patches/{name}.ko" for name in modules}
        files = {path: (modules[name], 0o644) for name, path in stored.items()}
        image = GuestImage(kernel.modules, carry=carry, files=files)
        log = tmp_path_factory.mktemp("small") / "console.log"
        with Vm(VmConfig(kernel.image, **options), image, log) as vm:  # type: ignore[arg-type]
            guest = Guest(vm)
            yield Lab(vm, guest, GuestMachine(guest, stored))

    return boot_guest


@pytest.fixture(scope="session")
def patches(kernel: StockKernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The test patches, built for the kernel under test by the worker that needs them first."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder = root / "rl"
    with locked(root / ".rl.lock", timeout=1800):
        if not folder.exists():
            with filling_directory(folder) as target:
                shutil.copytree(MODULE_SOURCES, target, dirs_exist_ok=True)
                for header in KMOD.glob("rebootless_*.h"):
                    shutil.copy(header, target)
                with kernel.lock():
                    run(kernel.command(f"M={target}", "modules"), timeout=300)
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
