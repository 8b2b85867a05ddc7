"""The running kernel: apply, undo, status, and what is installed for the next boot."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..base.errors import PatchInputError, RebootlessError, StateError
from ..base.events import Monitor, NullMonitor, Warned, stage
from ..bundle import archive, naming
from ..bundle.manifest import Manifest
from ..bundle.manifest import PatchedFunction as BundledFunction
from ..engine import boot as boot_store
from ..engine import doctor as doctor_checks
from ..engine import patching
from ..engine.base import AUTO
from ..engine.checks import Wanted
from ..engine.choose import by_name
from ..engine.doctor import Examination
from ..engine.local import LocalMachine
from ..engine.machine import Machine
from ..engine.patching import Applied, Undone
from ..engine.status import Blocker, LivePatch, PatchedFunction
from ..engine.status import livepatches as present_patches
from ..engine.status import status as machine_status
from ..engine.transition import SIGNAL_AFTER, OnTimeout, Policy
from ..lab.report import verdict_of
from .comparing import compare

DEFAULT_WAIT = 60.0


def wanted_of(manifest: Manifest) -> Wanted:
    """What a bundle's module expects of the kernel it is loaded into."""
    return Wanted(
        manifest.kernel.build_id,
        _plain(manifest.functions),
        manifest.replace,
        tuple((o.name, o.build_id) for o in manifest.objects if o.build_id),
        manifest.core.abi if manifest.core else None,
        _plain(manifest.untraceable),
    )


def _plain(functions: Iterable[tuple[str, BundledFunction]]) -> tuple[PatchedFunction, ...]:
    return tuple(PatchedFunction(owner, f.name, f.sympos) for owner, f in functions)


def policy_of(wait: float, signal_after: float | None, on_timeout: str, force: bool) -> Policy:
    """The transition policy for the command line's options; `force` forces on time-out."""
    chosen = OnTimeout.FORCE if force else OnTimeout(on_timeout)
    return Policy(wait=wait, signal_after=signal_after, on_timeout=chosen, take_back=True)


def apply(
    bundle: Path,
    *,
    engine: str = AUTO,
    wait: float = DEFAULT_WAIT,
    signal_after: float | None = SIGNAL_AFTER,
    on_timeout: str = "reverse",
    force: bool = False,
    machine: Machine | None = None,
    monitor: Monitor | None = None,
) -> Applied:
    """Applies a bundle to the running kernel and follows the transition to its end.

    `engine` is 'auto' or a name. The core module that some engines need comes with the bundle, or
    is what `engine build` installed; it stays loaded. Raises BundleError, WrongKernelError,
    StateError, KernelRefusedError, StalledError.
    """
    monitor = monitor or NullMonitor()
    content = archive.read(bundle)
    manifest = content.manifest
    if content.test_log is not None and verdict_of(content.test_log) != "passed":
        monitor.emit(Warned(f"{bundle} did not pass its last test in QEMU (`inspect` shows it)"))
    policy = policy_of(wait, signal_after, on_timeout, force)
    with stage(monitor, "apply", f"Applying {manifest.name}") as shown:
        applied = patching.apply(
            machine or LocalMachine(),
            content.modules[manifest.name],
            engine=engine,
            core_module=content.core or boot_store.core_path(manifest.kernel.release),
            wanted=wanted_of(manifest),
            policy=policy,
            monitor=monitor,
        )
        shown.result = f"transition {applied.transition.outcome} (engine {applied.engine})"
    return applied


def undo(
    name: str,
    *,
    wait: float = DEFAULT_WAIT,
    signal_after: float | None = SIGNAL_AFTER,
    on_timeout: str = "reverse",
    verify: bool = True,
    machine: Machine | None = None,
    monitor: Monitor | None = None,
) -> Undone:
    """Takes an applied patch off and removes its module; `name` may leave out rebootless_.

    With `verify` all code of the kernel is compared with the shipped image afterwards, where that
    is installed or cached (some seconds): `Undone.compared` is what came of it.
    Raises StateError when it is not applied, StalledError when tasks hold the transition.
    """
    monitor = monitor or NullMonitor()
    machine = machine or LocalMachine()
    policy = policy_of(wait, signal_after, on_timeout, force=False)
    name = naming.full_name(name, [p.name for p in present_patches(machine)])
    with stage(monitor, "undo", f"Undoing {name}"):
        undone = patching.undo(machine, name, policy=policy, monitor=monitor)
    return replace(undone, compared=compare(machine, monitor)) if verify else undone


def status(*, verbose: bool = False, machine: Machine | None = None) -> dict[str, Any]:
    """How the kernel is patched, as JSON values; `verbose` adds functions and objects.

    A patch in transition always lists the tasks that hold it, and where they sleep.
    """
    found = machine_status(machine or LocalMachine())
    patches = [
        _patch_facts(p, [b for b in found.blockers if b.patch == p.name], verbose)
        for p in found.livepatches
    ]
    return {
        "schema": found.schema,
        "release": found.release,
        "build_id": found.build_id,
        "supported": found.supported,
        "patches": patches,
        "leftovers": list(found.leftovers),
        "taint": asdict(found.taint),
    }


def _patch_facts(patch: LivePatch, held: list[Blocker], verbose: bool) -> dict[str, Any]:
    """One patch of the status; one in transition with the tasks that hold it."""
    record: dict[str, Any] = {"name": patch.name, "state": patch.state, "engine": patch.engine}
    if patch.transition:
        record["left"] = len(held) if patch.left is None else patch.left
        record["blockers"] = [
            {
                "pid": b.pid,
                "tid": b.tid,
                "comm": b.comm,
                "where": b.in_function or (b.stack[0] if b.stack else b.wchan),
                "stack": list(b.stack),
            }
            for b in held
        ]
    if verbose:
        record["replace"] = patch.replace
        record["functions"] = [
            {"object": f.object, "name": f.name, "sympos": f.sympos} for f in patch.functions
        ]
        record["objects"] = [{"name": o.name, "patched": o.patched} for o in patch.objects]
    return record


def list_patches(*, root: Path = Path("/"), machine: Machine | None = None) -> list[dict[str, Any]]:
    """Every patch that is applied or installed, by name."""
    present = {p.name: p for p in present_patches(machine or LocalMachine())}
    kept = {i.name: i for i in boot_store.installed(root=root)}
    return [
        {
            "name": name,
            "state": present[name].state if name in present else "not applied",
            "engine": present[name].engine if name in present else kept[name].engine,
            "installed": kept[name].release if name in kept else "",
        }
        for name in sorted({*present, *kept})
    ]


def install(bundle: Path, root: Path = Path("/"), *, engine: str = AUTO) -> dict[str, Any]:
    """Has a bundle applied at every boot of its kernel, with an engine or the one that suits.

    Raises BundleError, PatchInputError (no such engine, or one that needs a core module, and the
    bundle has none), ResourceError.
    """
    content = archive.read(bundle)
    manifest = content.manifest
    core = content.core or boot_store.core_path(manifest.kernel.release, root)
    if engine != AUTO and by_name(engine).needs_core and core is None:
        raise PatchInputError(
            f"{bundle} has no core module, which the engine '{engine}' needs",
            hint=f"`rebootless engine build {manifest.kernel.release} --install` makes one",
        )
    done = boot_store.install(
        bundle, name=manifest.name, release=manifest.kernel.release, engine=engine, root=root
    )
    return {
        "schema": 1,
        "name": done.name,
        "release": done.release,
        "path": str(done.path),
        "engine": done.engine,
    }


def uninstall(name: str, root: Path = Path("/")) -> dict[str, Any]:
    """No longer applies a bundle at boot; `name` may leave out rebootless_.

    Raises StateError when it is not installed.
    """
    every = boot_store.installed(root=root)
    name = naming.full_name(name, [i.name for i in every])
    found = [i for i in every if i.name == name]
    if not found:
        there = ", ".join(sorted({i.name for i in every})) or "nothing"
        raise StateError(
            f"'{name}' is not installed (installed: {there})",
            hint="`rebootless list` shows the patches by name",
        )
    removed: list[str] = []
    for item in found:
        paths = boot_store.uninstall(name, release=item.release, root=root)
        removed += [str(path) for path in paths]
    return {"schema": 1, "name": name, "removed": removed}


def boot(root: Path = Path("/"), *, monitor: Monitor | None = None) -> list[dict[str, Any]]:
    """Applies what is installed for the running kernel; one that fails does not stop the others.

    Raises the last failure after all were tried, so that the unit shows as failed.
    """
    monitor = monitor or NullMonitor()
    done: list[dict[str, Any]] = []
    failure: RebootlessError | None = None
    for item in boot_store.installed(release=os.uname().release, root=root):
        try:
            apply(item.path, engine=item.engine, monitor=monitor)
            done.append({"name": item.name, "state": "applied"})
        except RebootlessError as exc:
            failure = exc
            monitor.emit(Warned(f"{item.name}: {exc.message}"))
            done.append({"name": item.name, "state": exc.code})
    if failure is not None:
        raise failure
    return done


def doctor() -> Examination:
    """Whether this machine can be live-patched, and what would mend what stands against it."""
    return doctor_checks.examine(LocalMachine())
