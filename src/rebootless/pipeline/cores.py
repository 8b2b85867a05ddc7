"""The core module: made for a kernel, loaded into the running one; which engines can work here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import CompileError, NotFoundError, StateError
from ..base.events import Monitor, NullMonitor, Warned
from ..bundle import archive
from ..engine import boot as boot_store
from ..engine import choose
from ..engine import core as core_engine
from ..engine.base import AUTO
from ..engine.local import LocalMachine
from ..engine.machine import Machine, release
from ..engine.probe import probe

if TYPE_CHECKING:  # the compiler's side is imported late: it is not on every machine
    from ..compile.core import CoreModule, Headers
    from ..compile.tree import Tree


def core_for(tree: Tree, monitor: Monitor) -> CoreModule | None:
    """The core module for a bundle; None, with a warning, where it does not compile."""
    from ..compile.core import Headers, build_core

    try:
        return build_core(Headers.of_tree(tree), monitor)
    except (CompileError, NotFoundError) as exc:
        monitor.emit(Warned(f"the bundle is only for the engine livepatch: {exc.message}"))
        return None


def engine_build(
    kernel: str | None = None,
    *,
    install: bool = False,
    root: Path = Path("/"),
    machine: Machine | None = None,
    monitor: Monitor | None = None,
) -> dict[str, Any]:
    """Compiles the core module for a kernel (by default the running one), or finds it compiled.

    Taken are the headers that are installed, else the prepared source of the cache, which is made
    if need be. With `install` it is kept under `root`, where `apply`, `boot` and `engine_load` find
    it. Raises CompileError, NotFoundError, ResourceError.
    """
    from ..compile.core import build_core

    monitor = monitor or NullMonitor()
    wanted = kernel or release(machine or LocalMachine())
    made = build_core(_headers(wanted, monitor), monitor)
    place = boot_store.install_core(made.path, release=wanted, root=root) if install else made.path
    return {"schema": 1, "release": wanted, "path": str(place), "abi": made.abi}


def _headers(release: str, monitor: Monitor) -> Headers:
    from ..compile.core import Headers

    installed = Headers.installed(release)
    if installed is not None:
        return installed
    from ..compile.tree import prepare
    from .kernel import find

    return Headers.of_tree(prepare(find(release, monitor=monitor), monitor))


def engine_load(
    *,
    root: Path = Path("/"),
    machine: Machine | None = None,
    monitor: Monitor | None = None,
) -> dict[str, Any]:
    """Loads the core module; one that is not installed is compiled.

    Raises StateError when it is loaded, KernelRefusedError, and what `engine_build` raises.
    """
    machine = machine or LocalMachine()
    running = release(machine)
    core_engine.check_not_loaded(core_engine.state(machine))
    path = boot_store.core_path(running, root)
    if path is None:
        path = Path(engine_build(running, machine=machine, monitor=monitor)["path"])
    core_engine.load(machine, path)
    return engine_status(machine=machine, root=root)


def engine_remove(
    kernel: str | None = None, *, root: Path = Path("/"), machine: Machine | None = None
) -> dict[str, Any]:
    """Removes the core module that was installed for a kernel (by default the running one).

    One that is loaded stays loaded. Raises StateError when there is none, or a bundle that is
    installed for the kernel has no other.
    """
    wanted = kernel or release(machine or LocalMachine())
    needing = [
        item.name
        for item in boot_store.installed(release=wanted, root=root)
        if item.engine != AUTO
        and choose.by_name(item.engine).needs_core
        and archive.read(item.path).core is None
    ]
    if needing and boot_store.core_path(wanted, root) is not None:
        raise StateError(
            f"{', '.join(needing)} cannot be applied at boot without the core module",
            hint=f"`rebootless uninstall {needing[0]}` first",
        )
    gone = boot_store.remove_core(wanted, root=root)
    return {"schema": 1, "release": wanted, "removed": str(gone)}


def engine_unload(*, machine: Machine | None = None) -> dict[str, Any]:
    """Removes the core module. Raises StateError when patches hold it, or it is not there."""
    machine = machine or LocalMachine()
    core_engine.unload(machine)
    return engine_status(machine=machine)


def engine_status(*, root: Path = Path("/"), machine: Machine | None = None) -> dict[str, Any]:
    """The core module in the running kernel, and what each engine could do here for any patch."""
    machine = machine or LocalMachine()
    running = release(machine)
    kept = boot_store.core_path(running, root)
    facts = probe(machine, core_at_hand=kept is not None)
    decided = choose.decide(facts)
    return {
        "schema": 1,
        "release": running,
        "core": {
            **asdict(core_engine.state(machine)),
            "installed": str(kept) if kept else "",
        },
        "engine": decided.engine,
        "why": decided.why,
        "engines": [asdict(option) for option in decided.options],
    }
