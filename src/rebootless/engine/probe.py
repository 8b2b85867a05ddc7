"""Probes a machine for what decides which engine can apply a patch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import core
from .base import EngineFacts
from .machine import Machine, read_text
from .modinfo import ModInfo
from .status import ROOT, PatchedFunction

FTRACE_ENABLED = "/proc/sys/kernel/ftrace_enabled"
TRACEABLE = (
    "/sys/kernel/tracing/available_filter_functions",
    "/sys/kernel/debug/tracing/available_filter_functions",
)


def probe(
    machine: Machine,
    functions: Sequence[PatchedFunction] = (),
    *,
    known_untraceable: Sequence[PatchedFunction] = (),
    info: ModInfo | None = None,
    core_at_hand: bool = False,
    patch_abi: int | None = None,
) -> EngineFacts:
    """Looks at the kernel, the core module, and the patch (`info`; None: any patch).

    `known_untraceable` holds also where the kernel's own list cannot be read.
    """
    switch = read_text(machine, FTRACE_ENABLED)
    found = core.state(machine)
    listed = untraceable(machine, functions)
    return EngineFacts(
        livepatch=machine.exists(ROOT),
        ftrace=switch is not None or machine.exists(ROOT),  # livepatch is built upon it
        ftrace_enabled=None if switch is None else switch != "0",
        untraceable=tuple(dict.fromkeys([*known_untraceable, *(listed or ())])) or listed,
        core_loaded=found.loaded,
        core_abi=found.abi,
        core_at_hand=core_at_hand,
        patch_abi=patch_abi,
        takes_engine=info is None or takes_engine(info),
    )


def takes_engine(info: ModInfo) -> bool:
    """Whether a patch module has the parameter that names the engine."""
    return "engine:charp" in info.tags.get("parmtype", ())


def untraceable(
    machine: Machine, functions: Sequence[PatchedFunction]
) -> tuple[PatchedFunction, ...] | None:
    """Those of `functions` that ftrace does not list; None where the list cannot be read.

    Modules that are not loaded are not listed yet, and are left out.
    """
    path = next((path for path in TRACEABLE if machine.exists(path)), None)
    if path is None or not functions:
        return None
    here = [f for f in functions if _is_here(machine, f.object)]
    lines = machine.matching_lines(path, sorted({f.name for f in here}))
    return missing(here, lines)


def missing(
    functions: Iterable[PatchedFunction], lines: Iterable[str]
) -> tuple[PatchedFunction, ...]:
    """The functions that no line 'NAME [MODULE]' lists; pure.

    Among namesakes one line is taken to stand for each: the list has no addresses.
    """
    listed = set()
    for line in lines:
        name, *module = line.split()[:2]
        listed.add((module[0].strip("[]") if module else "vmlinux", name))
    return tuple(f for f in functions if (f.object, f.name) not in listed)


def _is_here(machine: Machine, owner: str) -> bool:
    return owner == "vmlinux" or machine.exists(f"/sys/module/{owner}")
