"""Applies a live patch to a running kernel and takes it off again, with any engine.

Everything that can be known beforehand is checked before the kernel is touched: the right kernel
by release and build-id, an engine that can do it, nothing of that name there, no transition going
on, no other patch on the same functions.

    apply   check -> choose an engine -> (load the core) -> load the module -> follow the transition
    undo    check -> enabled=0 -> follow the transition -> remove the module -> look at the code

Whenever this program ends in between, the kernel goes on by itself, `status` shows where it is, and
`undo` brings it back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ..base.errors import (
    KernelRefusedError,
    PatchInputError,
    ResourceError,
    StalledError,
    StateError,
)
from ..base.events import Monitor, Note, NullMonitor
from ..base.fs import read_bytes
from . import choose, core, modinfo, restored, transition
from .base import AUTO, Engine
from .checks import Wanted, check_kernel, check_module, check_needed, check_state, check_undo
from .machine import Machine, ModuleSource, build_id, module_build_id, release
from .modinfo import ModInfo
from .probe import probe
from .refusal import by_core, reasons_in_log
from .status import LivePatch, is_patch_module, livepatches
from .transition import Policy, Transition

REMOVE_TRIES = 25
REMOVE_PAUSE = 0.2


@dataclass(frozen=True)
class Applied:
    """A live patch that is in force.

    `replaced` are patches it took the place of; `waiting` are modules that are not loaded: they
    get patched when they are. `why` tells why that engine was taken.
    """

    name: str
    transition: Transition
    patch: LivePatch
    replaced: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    engine: str = choose.NAMES[0]
    why: str = ""


@dataclass(frozen=True)
class Undone:
    """A live patch that was taken off; `remains` says what could not be removed.

    `still_redirected` are functions whose beginning is as it was while the patch was in force, and
    nobody else has a hold on them: it should be empty. It is where memory may not be read.
    `compared` is what comparing all code with the shipped image found, if that was done.
    """

    name: str
    transition: Transition | None
    remains: tuple[str, ...] = field(default=())
    still_redirected: tuple[str, ...] = ()
    compared: restored.Comparison | None = None


def apply(
    machine: Machine,
    module: ModuleSource,
    *,
    engine: str = AUTO,
    core_module: ModuleSource | None = None,
    wanted: Wanted | None = None,
    policy: Policy | None = None,
    monitor: Monitor | None = None,
    parameters: str = "",
) -> Applied:
    """Loads a live patch module and waits until every task runs the new code.

    `core_module` is loaded when the engine needs it and it is not there yet; it stays. Raises
    WrongKernelError or StateError before anything is loaded, KernelRefusedError when no engine can
    do it or the kernel does not take the module, StalledError when some task holds the transition
    up (by the default policy the kernel is as before then).
    """
    monitor = monitor or NullMonitor()
    wanted = wanted or Wanted()
    content = module if isinstance(module, bytes) else read_bytes(module)
    info = modinfo.parse(content, name=_label(module))
    policy = policy or Policy()
    check_target(machine, info, wanted, label=_label(module))
    chosen, why = _choose(machine, info, wanted, engine, at_hand=core_module is not None)
    before = livepatches(machine)
    loaded = machine.exists(f"/sys/module/{info.name}")
    check_state(info.name, before, wanted, root=chosen.root, module_loaded=loaded)
    if chosen.needs_core and core.load(machine, core_module, abi=wanted.core_abi):
        monitor.emit(Note(f"loaded the core module, for the engine {chosen.name}"))
    words = f"{chosen.parameters} {parameters}".strip()
    moved = _carry(machine, module, info.name, chosen, policy, monitor, words)
    after = livepatches(machine)
    patch = next((p for p in after if p.name == info.name), None)
    if patch is None or not patch.enabled:
        raise StateError(f"{info.name} was undone by someone else while it was being applied")
    replaced = tuple(sorted(_in_force(before) - _in_force(after)))
    for name in replaced:
        remove_when_free(machine, name)
    waiting = tuple(obj.name for obj in patch.objects if obj.patched is False)
    return Applied(info.name, moved, patch, replaced, waiting, chosen.name, why)


def _carry(
    machine: Machine,
    module: ModuleSource,
    name: str,
    engine: Engine,
    policy: Policy,
    monitor: Monitor,
    parameters: str,
) -> Transition:
    """Loads the module and follows its transition; takes back what does not get to its end."""
    try:
        machine.load_module(module, name=name, parameters=parameters)
        if not machine.exists(engine.path(name)):
            _check_taken_back(machine, name, engine)
        return transition.follow(
            machine, name, engine=engine, applying=True, policy=policy, monitor=monitor
        )
    except StalledError:
        _remove_if_off(machine, name, engine)
        raise
    except KeyboardInterrupt:
        if policy.take_back:
            transition.take_back(
                machine, name, engine=engine, applying=True, policy=policy, monitor=monitor
            )
            _remove_if_off(machine, name, engine)
        raise


def _check_taken_back(machine: Machine, name: str, engine: Engine) -> None:
    """A module that was loaded and shows no patch: the engine gave up, or it is no patch."""
    said, hint = by_core(reasons_in_log(machine.kernel_log(), name))
    if engine.needs_core and said:
        raise StalledError(
            f"{name} could not be applied: {said}. The engine {engine.name} gave up: {name} is not "
            "applied, as before",
            hint=hint,
        )
    raise KernelRefusedError(
        f"module {name} was loaded, but the kernel shows no live patch of that name",
        hint="its init function has to register it (klp_enable_patch)",
    )


def _choose(
    machine: Machine, info: ModInfo, wanted: Wanted, asked: str, *, at_hand: bool
) -> tuple[Engine, str]:
    facts = probe(
        machine,
        wanted.functions,
        known_untraceable=wanted.untraceable,
        info=info,
        core_at_hand=at_hand,
        patch_abi=wanted.core_abi,
    )
    return choose.choose(facts, asked)


def check_target(machine: Machine, info: ModInfo, wanted: Wanted, *, label: str) -> None:
    """Checks that a module is a live patch for this kernel and the modules that are loaded.

    Raises PatchInputError or WrongKernelError.
    """
    if not info.is_patch:
        raise PatchInputError(f"{label} is a kernel module, but not a live patch")
    check_kernel(info, wanted, running=release(machine), running_id=build_id(machine))
    check_needed(info, frozenset(n for n in info.depends if machine.exists(f"/sys/module/{n}")))
    for name, wanted_id in wanted.modules:
        check_module(info.name, name, wanted_id, loaded_id=module_build_id(machine, name))


def undo(
    machine: Machine,
    name: str,
    *,
    policy: Policy | None = None,
    monitor: Monitor | None = None,
) -> Undone:
    """Takes a live patch off, whichever engine applied it, and removes its module.

    Raises StateError when there is no such patch or another one is on top of it, StalledError when
    a task holds it up (it stays applied then, by the default policy).
    """
    policy = policy or Policy()
    present = livepatches(machine)
    patch = next((p for p in present if p.name == name), None)
    if patch is not None:
        check_undo(patch, present)
        before = restored.look(machine, patch)
        moved = _back(machine, patch, policy, monitor)
        remains = remove_when_free(machine, name)
        still = restored.still_redirected(machine, before, livepatches(machine))
        return Undone(name, moved, remains, tuple(map(str, still)))
    if not is_patch_module(machine, name):
        names = ", ".join(p.name for p in present) or "none"
        raise StateError(
            f"no live patch {name} is applied (applied: {names})",
            hint="`rebootless list` shows the patches by name",
        )
    return Undone(name, None, remove_when_free(machine, name))


def _back(
    machine: Machine, patch: LivePatch, policy: Policy, monitor: Monitor | None
) -> Transition:
    engine = choose.engine_of(patch)
    try:
        if patch.enabled:
            try:
                machine.write(f"{patch.path}/enabled", "0")
            except ResourceError as exc:
                log = machine.kernel_log() if engine.needs_core else ""
                said, hint = by_core(reasons_in_log(log, patch.name))
                raise KernelRefusedError(
                    f"the kernel does not undo {patch.name}: {said or exc.message}",
                    hint=hint or exc.hint or "`rebootless status` shows what else is in force",
                ) from exc
        return transition.follow(
            machine, patch.name, engine=engine, applying=False, policy=policy, monitor=monitor
        )
    except KeyboardInterrupt:
        if policy.take_back:
            transition.take_back(
                machine, patch.name, engine=engine, applying=False, policy=policy, monitor=monitor
            )
        raise


def _in_force(patches: Iterable[LivePatch]) -> set[str]:
    """The names of those that are on; one that is off is shown until the kernel has freed it."""
    return {patch.name for patch in patches if patch.enabled}


def _remove_if_off(machine: Machine, name: str, engine: Engine) -> None:
    path = engine.path(name)
    if not transition.in_transition(machine, path) and not transition.is_on(machine, path):
        remove_when_free(machine, name)


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
