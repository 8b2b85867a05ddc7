"""The running kernel's code against the shipped code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..base.events import Monitor, NullMonitor, stage
from ..base.fs import cache_root
from ..base.words import counted
from ..engine.local import LocalMachine
from ..engine.machine import Machine, release
from ..integrity.compare import Verdict
from ..integrity.examine import Examiner
from ..integrity.report import Report
from ..kernel.image import load as load_image
from ..kernel.kallsyms import load_or_decode
from ..kernel.modules import ModuleImage, load_module, module_files, module_name
from ..kernel.symbols import SymbolIndex
from .shipped import find_files


def verify(
    *,
    image: Path | None = None,
    modules: Path | None = None,
    kernel_only: bool = False,
    machine: Machine | None = None,
    monitor: Monitor | None = None,
) -> Report:
    """Compares the code of the running kernel and of its modules with what was shipped.

    `image` is the vmlinuz that was booted and `modules` its lib/modules/RELEASE (default: those
    installed, else those in the cache). `kernel_only` leaves the modules out. Raises NotFoundError
    without an image, WrongKernelError when it is not the one that runs, ResourceError when the
    kernel's memory may not be read (root only; not under lockdown=confidentiality).
    """
    monitor, machine = monitor or NullMonitor(), machine or LocalMachine()
    running = release(machine)
    image, modules = find_files(running, image, modules)
    with stage(monitor, "verify", f"Verifying the code of {running}") as shown:
        started = machine.now()
        loaded = load_image(image)
        symbols = load_or_decode(loaded, cache_root() / "kallsyms" / f"{loaded.build_id}.npz")
        examiner = Examiner(machine, loaded, SymbolIndex(symbols))
        verdicts, skipped = [examiner.kernel()], []
        find = finder(modules)
        for name in () if kernel_only else examiner.loaded():
            shown.detail(name)
            found = examiner.module(name, find(name))
            if isinstance(found, Verdict):
                verdicts.append(found)
            else:
                skipped.append(found)
        seconds = machine.now() - started
        report = Report(running, loaded.build_id, tuple(verdicts), tuple(skipped), seconds)
        shown.result = counted(sum(len(v.differences) for v in verdicts), "difference")
    return report


def finder(modules: Path | None) -> Callable[[str], ModuleImage | None]:
    """Finds shipped modules by name; `updates/` wins over `kernel/`, as for modprobe."""
    files = sorted(module_files(modules), reverse=True) if modules else []
    by_name = {
        module_name(path): path for path in sorted(files, key=lambda p: "updates" in p.parts)
    }

    def find(name: str) -> ModuleImage | None:
        return load_module(by_name[name]) if name in by_name else None

    return find
