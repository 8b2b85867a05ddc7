"""A test of a live patch as values: what is to be tried, and the guest that is made for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..base.fs import os_failure
from ..engine import core
from ..engine.base import AUTO
from ..engine.checks import Wanted
from ..engine.machine import Machine
from ..engine.restored import Comparison
from ..engine.transition import Policy
from .image import GuestImage, ModuleStore
from .vm import VmConfig

CHECK = "/lab/check"
DISK_MODULES = ("virtio_pci", "virtio_blk")
DISK_SIZE = 128 << 20  # bytes, of which only what is written takes room


@dataclass(frozen=True)
class Scenario:
    """The pieces of a test.

    `patches` are live patch modules in the order to apply; `load_before` and `load_late` are
    kernel modules to load before the first is applied and after the last is; `more_modules` are
    files of such that `modules_dir` does not have; unless they `must_load`, those that find no
    hardware in the guest are left out. A check has to fail before and after unless told otherwise
    (`fails_before`, `fails_after`); with `load_late` it is not run before, since what it checks is
    not there. `allowed` are regular expressions for lines
    of the kernel log that are no failure. `engine` applies the patches, with the core module
    `core` if it needs that. `compare` compares all code of the guest's kernel with the shipped
    image, after the undo. Times are in seconds.
    """

    kernel: Path
    patches: tuple[bytes, ...]
    modules_dir: Path | None = None
    more_modules: tuple[Path, ...] = ()
    check: str = ""
    fails_before: bool = True
    fails_after: bool = True
    load_before: tuple[str, ...] = ()
    load_late: tuple[str, ...] = ()
    must_load: bool = True
    workload: bool = True
    workload_seconds: float = 2.0
    undo: bool = True
    wanted: Wanted = field(default_factory=Wanted)
    engine: str = AUTO
    core: bytes | None = None
    policy: Policy = field(default_factory=Policy)
    compare: Callable[[Machine], Comparison] | None = None
    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    cmdline: str = ""
    cpus: int = 2
    memory_mib: int = 512
    boot_timeout: float = 120.0
    check_timeout: float = 60.0


def patch_path(name: str) -> str:
    """Where a patch module lies in the guest."""
    return f"/lab/patches/{name}.ko"


def make_disk(plan: Scenario, log: Path) -> Path | None:
    """The file of a disk that the guest's memory comes by, if all code is to be compared.

    None without the driver that it needs. Raises ResourceError.
    """
    if plan.compare is None or plan.modules_dir is None:
        return None
    store = ModuleStore(plan.modules_dir)
    if not all(name in store.paths or name in store.builtin for name in DISK_MODULES):
        return None
    disk = log.with_suffix(".disk")
    try:
        disk.parent.mkdir(parents=True, exist_ok=True)
        with disk.open("wb") as file:
            file.truncate(DISK_SIZE)
    except OSError as exc:
        raise os_failure("write", disk, exc) from exc
    return disk


def config_of(plan: Scenario, disk: Path | None) -> VmConfig:
    """How the guest is booted."""
    return VmConfig(
        plan.kernel,
        memory_mib=plan.memory_mib,
        cpus=plan.cpus,
        cmdline=plan.cmdline,
        boot_timeout=plan.boot_timeout,
        disk=disk,
    )


def image_of(plan: Scenario, names: list[str], disk: Path | None) -> GuestImage:
    """What is in the guest; `names` are those of the patches."""
    files = dict(plan.files)
    files[CHECK] = (plan.check.encode(), 0o755)
    for name, blob in zip(names, plan.patches, strict=True):
        files[patch_path(name)] = (blob, 0o644)
    if plan.core is not None:
        files[patch_path(core.MODULE)] = (plan.core, 0o644)
    return GuestImage(
        plan.modules_dir,
        load=DISK_MODULES if disk else (),
        carry=(*plan.load_before, *plan.load_late),
        more_modules=plan.more_modules,
        files=files,
    )
