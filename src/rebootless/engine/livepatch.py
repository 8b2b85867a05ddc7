"""Applies a live patch to a running kernel and takes it off again.

Everything that can be known beforehand is checked before the kernel is touched: the right kernel
by release and build-id, live patching present, nothing of that name there, no transition going
on, no other patch on the same functions.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import (
    KernelRefusedError,
    PatchInputError,
    StalledError,
    StateError,
    WrongKernelError,
)
from ..base.events import Monitor, NullMonitor
from ..base.fs import read_bytes
from . import modinfo, transition
from .machine import Machine, ModuleSource, build_id, module_build_id, release
from .modinfo import ModInfo
from .status import ROOT, LivePatch, PatchedFunction, livepatches
from .transition import Policy, Transition

REMOVE_TRIES = 25
REMOVE_PAUSE = 0.2


@dataclass(frozen=True)
class Wanted:
    """What a live patch was made for; empty fields are not checked.

    `functions` are those it changes; with `replace` it takes the place of all other patches.
    `modules` are (name, build-id) of the modules that it changes.
    """

    build_id: str = ""
    functions: tuple[PatchedFunction, ...] = ()
    replace: bool = False
    modules: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Applied:
    """A live patch that is in force.

    `replaced` are patches it took the place of; `waiting` are modules that are not loaded: they
    get patched when they are.
    """

    name: str
    transition: Transition
    patch: LivePatch
    replaced: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True)
class Undone:
    """A live patch that was taken off; `remains` says what could not be removed."""

    name: str
    transition: Transition | None
    remains: tuple[str, ...] = field(default=())


def apply(
    machine: Machine,
    module: ModuleSource,
    *,
    wanted: Wanted | None = None,
    policy: Policy | None = None,
    monitor: Monitor | None = None,
    parameters: str = "",
) -> Applied:
    """Loads a live patch module and waits until every task runs the new code.

    Raises WrongKernelError or StateError before anything is loaded, KernelRefusedError when the
    kernel does not take the module, StalledError when some task holds the transition up (by the
    default policy the kernel is as before then).
    """
    monitor = monitor or NullMonitor()
    wanted = wanted or Wanted()
    content = module if isinstance(module, bytes) else read_bytes(module)
    info = modinfo.parse(content, name=_label(module))
    policy = policy or Policy()
    before = preflight(machine, info, wanted, label=_label(module))
    try:
        machine.load_module(module, name=info.name, parameters=parameters)
        if not machine.exists(f"{ROOT}/{info.name}"):
            raise KernelRefusedError(
                f"module {info.name} was loaded, but the kernel shows no live patch of that name",
                hint="its init function has to call klp_enable_patch()",
            )
        moved = transition.follow(machine, info.name, applying=True, policy=policy, monitor=monitor)
    except StalledError:
        _remove_if_off(machine, info.name)
        raise
    except KeyboardInterrupt:
        if policy.take_back:
            transition.take_back(machine, info.name, applying=True, policy=policy, monitor=monitor)
            _remove_if_off(machine, info.name)
        raise
    after = livepatches(machine)
    patch = next((p for p in after if p.name == info.name), None)
    if patch is None or not patch.enabled:
        raise StateError(f"{info.name} was undone by someone else while it was being applied")
    gone = {p.name for p in before} - {p.name for p in after}
    replaced = tuple(sorted(gone))
    for name in replaced:
        remove_when_free(machine, name)
    waiting = tuple(obj.name for obj in patch.objects if obj.patched is False)
    return Applied(info.name, moved, patch, replaced, waiting)


def preflight(
    machine: Machine, info: ModInfo, wanted: Wanted, *, label: str
) -> tuple[LivePatch, ...]:
    """Checks that a patch may be loaded; gives the patches that are there now.

    Raises PatchInputError, WrongKernelError, KernelRefusedError or StateError.
    """
    if not info.is_livepatch:
        raise PatchInputError(f"{label} is a kernel module, but not a live patch")
    check_kernel(info, wanted, running=release(machine), running_id=build_id(machine))
    check_needed(info, frozenset(n for n in info.depends if machine.exists(f"/sys/module/{n}")))
    for name, wanted_id in wanted.modules:
        check_module(info.name, name, wanted_id, loaded_id=module_build_id(machine, name))
    if not machine.exists(ROOT):
        raise KernelRefusedError(
            f"the kernel of {machine.name} has no live patching ({ROOT} does not exist)",
            hint="it was built without CONFIG_LIVEPATCH, or sysfs is not mounted",
        )
    present = livepatches(machine)
    loaded = machine.exists(f"/sys/module/{info.name}")
    check_state(info.name, present, wanted, module_loaded=loaded)
    return present


def check_kernel(info: ModInfo, wanted: Wanted, *, running: str, running_id: str) -> None:
    """Compares release and build-id; pure. Raises WrongKernelError."""
    if info.release and info.release != running:
        raise WrongKernelError(
            f"{info.name} was built for {info.release}, and the running kernel is {running}",
            hint=f"build it for {running}",
        )
    if wanted.build_id and wanted.build_id.lower() != running_id.lower():
        raise WrongKernelError(
            f"{info.name} was built for the {running} kernel with build-id {wanted.build_id}; the "
            f"running one has {running_id or 'none'}",
            hint="the release is the same but the kernel is another build: build for that one",
        )


def check_needed(info: ModInfo, present: Set[str]) -> None:
    """Whether the modules that a patch refers to plainly are there; pure. Raises StateError."""
    missing = [name for name in info.depends if name not in present]
    if missing:
        raise StateError(
            f"{info.name} needs the module {missing[0]}, which is not loaded: it follows a static "
            "key of it",
            hint=f"load it first: modprobe {missing[0]}",
        )


def check_module(patch: str, module: str, wanted_id: str, *, loaded_id: str) -> None:
    """Compares the build-id of a loaded module (one that is not loaded has none); pure.

    A module of the same name may come from elsewhere (DKMS). Raises WrongKernelError.
    """
    if wanted_id and loaded_id and wanted_id.lower() != loaded_id.lower():
        raise WrongKernelError(
            f"{patch} was built for the module {module} with build-id {wanted_id}; the loaded one "
            f"has {loaded_id}",
            hint=f"the loaded {module} is not the one that the kernel's package ships",
        )


def check_state(
    name: str, present: Sequence[LivePatch], wanted: Wanted, *, module_loaded: bool
) -> None:
    """Looks for what is in the way of patch `name`; pure. Raises StateError."""
    for patch in present:
        if patch.name == name:
            raise StateError(f"{name} is already {patch.state}", hint=f"undo {name} first")
        if patch.transition:
            raise StateError(
                f"the kernel is busy {patch.state} {patch.name}",
                hint="wait for its end; `rebootless status` names the tasks that hold it",
            )
    if module_loaded:
        raise StateError(
            f"a module named {name} is loaded, and is not in force as a live patch",
            hint=f"undo {name} removes it (after a forced transition only a reboot does)",
        )
    taken = {f.key: patch.name for patch in present if patch.enabled for f in patch.functions}
    clashes = [f for f in wanted.functions if f.key in taken]
    if clashes and not wanted.replace:
        raise StateError(
            f"{taken[clashes[0].key]} already patches {', '.join(map(str, clashes))}",
            hint=f"undo {taken[clashes[0].key]} first, or build one patch of both with replace",
        )


def undo(
    machine: Machine,
    name: str,
    *,
    policy: Policy | None = None,
    monitor: Monitor | None = None,
) -> Undone:
    """Takes a live patch off and removes its module.

    Raises StateError when there is no such patch, StalledError when a task holds it up (it stays
    applied then, by the default policy).
    """
    policy = policy or Policy()
    present = livepatches(machine)
    patch = next((p for p in present if p.name == name), None)
    moved: Transition | None = None
    if patch is None:
        if not is_livepatch_module(machine, name):
            names = ", ".join(p.name for p in present) or "none"
            raise StateError(
                f"no live patch {name} is applied (applied: {names})",
                hint="`rebootless list` shows the patches by name",
            )
    else:
        busy = next((p for p in present if p.transition and p.name != name), None)
        if busy is not None:
            raise StateError(
                f"the kernel is busy {busy.state} {busy.name}", hint="wait for its end"
            )
        try:
            if patch.enabled:
                machine.write(f"{ROOT}/{name}/enabled", "0")
            moved = transition.follow(machine, name, applying=False, policy=policy, monitor=monitor)
        except KeyboardInterrupt:
            if policy.take_back:
                transition.take_back(machine, name, applying=False, policy=policy, monitor=monitor)
            raise
    return Undone(name, moved, remove_when_free(machine, name))


def _remove_if_off(machine: Machine, name: str) -> None:
    if not machine.exists(f"{ROOT}/{name}"):
        remove_when_free(machine, name)


def is_livepatch_module(machine: Machine, name: str) -> bool:
    """Whether a loaded module is a live patch (taint K), in force or not."""
    taint = machine.read_bytes(f"/sys/module/{name}/taint")
    return taint is not None and b"K" in taint


def remove_when_free(machine: Machine, name: str) -> tuple[str, ...]:
    """Removes a module whose patch is off; gives what remains, with the reason.

    The kernel lets go of the module shortly after the transition's end, from a worker.
    """
    for attempt in range(REMOVE_TRIES):
        if not machine.exists(f"/sys/module/{name}"):
            return ()
        try:
            machine.remove_module(name)
            return ()
        except KernelRefusedError as exc:
            reason = exc.message
            if attempt + 1 < REMOVE_TRIES:
                machine.sleep(REMOVE_PAUSE)
    return (reason,)


def _label(module: ModuleSource) -> str:
    return str(module) if isinstance(module, Path) else "the module"
