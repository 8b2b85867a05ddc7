"""Kernels that have no livepatch: configured and built here, once, and kept in the cache.

They are made of the stock kernel's own source. Everything that a lab guest does not need is left
out, so that a build takes a few minutes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from rebootless.base.fs import atomic_write, cache_root, filling_directory, locked, remove_tree
from rebootless.base.proc import run
from rebootless.base.workdir import fingerprint
from rebootless.compile import untar
from rebootless.kernel.config import parse
from rebootless.provider.base import KernelFiles
from rebootless.provider.local import LocalProvider

# What a guest of the lab needs of a kernel: two serial ports, an initramfs, modules.
GUEST = """
64BIT=y SMP=y NR_CPUS=8 PRINTK=y EARLY_PRINTK=y TTY=y SERIAL_8250=y SERIAL_8250_CONSOLE=y
SERIAL_8250_NR_UARTS=4 SERIAL_8250_RUNTIME_UARTS=4 X86_MPPARSE=y
BLK_DEV_INITRD=y RD_GZIP=y BINFMT_ELF=y BINFMT_SCRIPT=y MULTIUSER=y POSIX_TIMERS=y
PROC_FS=y PROC_SYSCTL=y PROC_KCORE=y SYSFS=y DEVTMPFS=y TMPFS=y SHMEM=y DEBUG_FS=y UNIX98_PTYS=y
FUTEX=y EPOLL=y SIGNALFD=y TIMERFD=y EVENTFD=y AIO=y FILE_LOCKING=y ADVISE_SYSCALLS=y
MEMBARRIER=y HIGH_RES_TIMERS=y NO_HZ_IDLE=y BUG=y SLUB=y
MODULES=y MODULE_UNLOAD=y MODULE_FORCE_UNLOAD=n KALLSYMS=y KALLSYMS_ALL=y IKCONFIG=y
IKCONFIG_PROC=y STACKTRACE=y KERNEL_GZIP=y
"""
# On by default, and in no test's way: half of the build's time.
SPARED = """
PCI=n ACPI=n VT=n INPUT=n SERIO=n HID=n CPU_FREQ=n CPU_IDLE=n LEGACY_PTYS=n KVM_GUEST=n
PERF_EVENTS_INTEL_UNCORE=n PERF_EVENTS_INTEL_RAPL=n PERF_EVENTS_INTEL_CSTATE=n
PROCESSOR_SELECT=y CPU_SUP_HYGON=n CPU_SUP_CENTAUR=n CPU_SUP_ZHAOXIN=n SCHED_MC=n
RD_BZIP2=n RD_LZMA=n RD_XZ=n RD_LZO=n RD_LZ4=n RD_ZSTD=n IA32_EMULATION=n X86_5LEVEL=n
"""
# What makes patching it as hard as a distribution's: rewritten code, mitigations, kprobes.
HARD = """
UNWINDER_ORC=y JUMP_LABEL=y CPU_MITIGATIONS=y RETPOLINE=y RETHUNK=y
CC_OPTIMIZE_FOR_PERFORMANCE=y STACKPROTECTOR=y STACKPROTECTOR_STRONG=y HYPERVISOR_GUEST=y
PARAVIRT=y PREEMPT_VOLUNTARY=y STRICT_KERNEL_RWX=y STRICT_MODULE_RWX=y RANDOMIZE_BASE=y
RELOCATABLE=y BINFMT_MISC=m
"""
WITHOUT_LIVEPATCH = "LIVEPATCH=n"
FLAVOURS = {
    "small": "FTRACE=n FUNCTION_TRACER=n KPROBES=y",
    "traced": "FTRACE=y FUNCTION_TRACER=y DYNAMIC_FTRACE=y KPROBES=n",
}
LAYOUT = "small-1"
BUILD_SECONDS = 3600  # on a busy machine; an idle one takes four minutes


@dataclass(frozen=True)
class SmallKernel:
    """A kernel built here: its files, as they would be given to `rebootless build`."""

    release: str
    folder: Path
    source: Path

    @property
    def image(self) -> Path:
        return self.folder / "bzImage"

    @property
    def modules(self) -> Path:
        return self.folder / "lib/modules" / self.release

    def provider(self) -> LocalProvider:
        """The kernel as one of the user's own."""
        return LocalProvider(
            self.source,
            self.folder / "config",
            self.image,
            self.folder / "Module.symvers",
            self.modules,
        )


def options(flavour: str) -> str:
    """The configuration's lines, one for each option."""
    words = " ".join((GUEST, SPARED, HARD, WITHOUT_LIVEPATCH, FLAVOURS[flavour])).split()
    lines = [f'LOCALVERSION="-{flavour}"', "LOCALVERSION_AUTO=n", *words]
    return "".join(f"CONFIG_{line}\n" for line in lines)


def small_kernel(stock: KernelFiles, flavour: str) -> SmallKernel:
    """The kernel of a flavour, made of the source of the stock kernel; from the cache if it is."""
    wanted = options(flavour)
    source = stock.source.path
    key = fingerprint(LAYOUT, wanted, stock.version, stock.compiler_text)[:12]
    folder = cache_root() / "small" / f"{flavour}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f".{folder.name}.lock"), timeout=BUILD_SECONDS):
        if not folder.exists():
            with filling_directory(folder) as target:
                _build(stock, wanted, target)
    release = next((folder / "lib/modules").iterdir()).name
    return SmallKernel(release, folder, source)


def _build(stock: KernelFiles, wanted: str, target: Path) -> None:
    # beside it: a build that was interrupted goes on where it was
    tree = target.with_name(f"{target.name}.tree")
    make = ["make", "-C", str(tree), "-s", "-j2", f"CC={stock.compiler}"]
    if not (tree / "configured").exists():
        _configure(stock, wanted, tree, make)
    run([*make, "bzImage", "modules"], timeout=BUILD_SECONDS)
    run([*make, f"INSTALL_MOD_PATH={target}", "DEPMOD=true", "modules_install"])
    for path in ("arch/x86/boot/bzImage", "Module.symvers", "System.map"):
        shutil.copyfile(tree / path, target / Path(path).name)
    shutil.copyfile(tree / ".config", target / "config")
    for link in (target / "lib/modules").glob("*/[bs]*"):
        if link.is_symlink():
            link.unlink()
    shutil.rmtree(tree)


def _configure(stock: KernelFiles, wanted: str, tree: Path, make: list[str]) -> None:
    remove_tree(tree)
    tree.mkdir()
    untar.unpack(stock.source, tree, ["Documentation/devicetree"])
    run([*make, "tinyconfig"])
    config = tree / ".config"
    atomic_write(config, config.read_text() + wanted)
    run([*make, "olddefconfig"])
    _check(wanted, config.read_text())
    atomic_write(tree / "configured", "")


def _check(wanted: str, made: str) -> None:
    """That kbuild has taken every option: one whose needs are missing is dropped silently."""
    config = parse(made)
    lost = [
        line
        for line in wanted.split()
        for name, _, value in [line.removeprefix("CONFIG_").partition("=")]
        if (config.get(name) or "n") != value.strip('"')
    ]
    assert not lost, f"the configuration has lost {' '.join(lost)}"
