"""What the engines "atomic" and "per-task" share: our core module, over its tree in sysfs.

    not loaded --load--> loaded, no patches --patch--> in use (rmmod refused) --last undo--> unused

The core stays loaded when its last patch goes: `rebootless engine unload` removes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import KernelRefusedError, PatchInputError, StateError, WrongKernelError
from ..base.fs import read_bytes
from . import modinfo
from .base import Engine, EngineFacts, switched
from .livepatch import without_ftrace
from .machine import Machine, ModuleSource, read_text, release
from .status import CORE, CORE_ROOT, livepatches

MODULE = "rebootless_core"
VERSION = f"{CORE}/version"
KALLSYMS = "/proc/kallsyms"
BUILD_HINT = "`rebootless engine build` makes one for this kernel where its headers are"


@dataclass(frozen=True)
class CoreState:
    """The core module in the running kernel; `abi` is None when it does not tell."""

    loaded: bool
    version: str = ""
    patches: tuple[str, ...] = ()

    @property
    def abi(self) -> int | None:
        """The interface that patch modules must have been made for."""
        found = re.search(r"\d+", self.version)
        return int(found[0]) if found else None


class CoreEngine(Engine):
    """An engine of the core module."""

    root = CORE_ROOT
    needs_core = True

    @property
    def parameters(self) -> str:
        """The patch module hands itself to the core, and names the engine."""
        return f"engine={self.name}"

    def signal(self, machine: Machine, name: str) -> bool:
        """Wakes stragglers now, and at each further attempt."""
        return switched(machine, f"{self.path(name)}/signal")

    def without_core(self, facts: EngineFacts) -> str:
        """What it lacks beside what redirects calls; '' if nothing. Pure."""
        if not facts.takes_engine:
            return "the patch module was made for the kernel's own livepatch only: build it again"
        if facts.core_loaded:
            if None not in (facts.core_abi, facts.patch_abi) and facts.core_abi != facts.patch_abi:
                return (
                    f"the core module that is loaded has interface {facts.core_abi}, and the patch "
                    f"was made for {facts.patch_abi}"
                )
            return ""
        return "" if facts.core_at_hand else "there is no core module for this kernel here"


class PerTask(CoreEngine):
    """kGraft's way: each task moves to the new code when its own stack holds no old one."""

    name = "per-task"
    promise = "each task moves as soon as its own stack is clean, and nothing stops"

    def usable(self, facts: EngineFacts) -> str:
        """It needs the core, and ftrace, which can lead each task elsewhere."""
        return self.without_core(facts) or without_ftrace(facts)


class Atomic(CoreEngine):
    """Ksplice's way: all stops for some microseconds, and every function switches at once."""

    name = "atomic"
    promise = "all tasks switch at one moment, for which the machine stops some microseconds"

    def usable(self, facts: EngineFacts) -> str:
        """It needs the core; where ftrace cannot redirect, it jumps."""
        if lacking := self.without_core(facts):
            return lacking
        switched_off = facts.ftrace and facts.ftrace_enabled is False
        return "ftrace is switched off (kernel.ftrace_enabled=0)" if switched_off else ""


def state(machine: Machine) -> CoreState:
    """Whether the core is loaded, and what holds it."""
    if not machine.exists(f"/sys/module/{MODULE}"):
        return CoreState(False)
    names = tuple(p.name for p in livepatches(machine) if p.root == CORE_ROOT)
    return CoreState(True, read_text(machine, VERSION) or "", names)


def load(machine: Machine, module: ModuleSource | None, *, abi: int | None = None) -> bool:
    """Loads the core unless it is there already; whether it was loaded now.

    `abi` is the interface that is wanted (None: any). Raises StateError when another one is
    loaded, WrongKernelError, KernelRefusedError when the kernel does not take it or there is none.
    """
    found = state(machine)
    if found.loaded:
        check_abi(found, abi)
        return False
    if module is None:
        raise KernelRefusedError(
            f"there is no core module for {release(machine)} here", hint=BUILD_HINT
        )
    content = read_bytes(module) if isinstance(module, Path) else module
    info = modinfo.parse(content, name="the core module")
    if info.name != MODULE:
        raise PatchInputError(
            f"what should be the core module is the module {info.name}",
            hint=BUILD_HINT,
        )
    if info.release and info.release != release(machine):
        raise WrongKernelError(
            f"the core module was built for {info.release}, and the running kernel is "
            f"{release(machine)}",
            hint=BUILD_HINT,
        )
    machine.load_module(module, name=MODULE, parameters=parameters(machine, info))
    check_abi(state(machine), abi)
    return True


def check_abi(found: CoreState, wanted: int | None) -> None:
    """Compares interfaces; pure. Raises StateError."""
    if wanted is not None and found.abi is not None and found.abi != wanted:
        held = f"; undo {', '.join(found.patches)} first" if found.patches else ""
        raise StateError(
            f"the core module that is loaded has interface {found.abi}, and {wanted} is needed",
            hint=f"`rebootless engine unload` makes room for the other one{held}",
        )


def parameters(machine: Machine, info: modinfo.ModInfo) -> str:
    """Where kallsyms_lookup_name() is, for kernels without kprobes, which the core asks otherwise.

    To those who may not load modules the kernel shows addresses as 0, which are not passed on.
    """
    if "kallsyms:ulong" not in info.tags.get("parmtype", ()):
        return ""
    wanted = ("kallsyms_lookup_name", "register_kprobe")
    lines = machine.matching_lines(KALLSYMS, wanted)
    found = {fields[2]: int(fields[0], 16) for line in lines if len(fields := line.split()) == 3}
    address = found.get("kallsyms_lookup_name", 0)
    return f"kallsyms={address:#x}" if address and "register_kprobe" not in found else ""


def check_not_loaded(found: CoreState) -> None:
    """Raises StateError when the core is loaded; pure."""
    if found.loaded:
        raise StateError(
            f"the core module is loaded already (interface {found.version or 'unknown'})",
            hint="`rebootless engine unload` removes it",
        )


def unload(machine: Machine) -> None:
    """Removes the core. Raises StateError when it is not loaded or patches hold it."""
    found = state(machine)
    if not found.loaded:
        raise StateError("the core module is not loaded")
    if found.patches:
        raise StateError(
            f"the core module is in use by {', '.join(found.patches)}",
            hint=f"undo {found.patches[-1]} first",
        )
    machine.remove_module(MODULE)
