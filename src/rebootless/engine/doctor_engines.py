"""The doctor's checks of the engines: which can apply a patch here, and which is taken."""

from __future__ import annotations

from .base import Engine, EngineFacts
from .choose import by_name, decide, hint_for
from .doctor_apply import OTHER_KERNEL
from .doctor_facts import Check, Facts, no, ok, warning

NO_MODULES = "this kernel loads no modules"


def engine_facts(facts: Facts) -> EngineFacts:
    """What decides, for a patch of ordinary functions whose bundle brings the core module."""
    has_ftrace = facts.livepatch_folder or facts.ftrace_enabled is not None
    return EngineFacts(
        livepatch=facts.livepatch_folder,
        ftrace=has_ftrace,
        ftrace_enabled=None if facts.ftrace_enabled is None else facts.ftrace_enabled != "0",
        core_loaded=facts.core.loaded,
        core_abi=facts.core.abi,
        core_at_hand=True,
    )


def livepatch(facts: Facts) -> Check:
    """The kernel's own engine."""
    found = _check(facts, by_name("livepatch"))
    if found.status == "ok":
        more = "driven by the core module" if facts.core.loaded else "tries once each second"
        return ok(found.name, f"{found.why} ({more})")
    return found


def per_task(facts: Facts) -> Check:
    """The engine that moves task by task."""
    return _check(facts, by_name("per-task"))


def atomic(facts: Facts) -> Check:
    """The engine that stops everything for a moment."""
    return _check(facts, by_name("atomic"))


def choice(facts: Facts) -> Check:
    """The engine that `--engine auto` takes for most patches, and why."""
    if facts.on("MODULES") is False:
        return no("chosen engine", NO_MODULES, OTHER_KERNEL)
    decided = decide(engine_facts(facts))
    if not decided.engine:
        return no("chosen engine", decided.why, hint_for(decided.why))
    return ok("chosen engine", f"{decided.engine}: {decided.why}")


def _check(facts: Facts, engine: Engine) -> Check:
    why_not = engine.usable(engine_facts(facts))
    if facts.on("MODULES") is False:
        why_not = NO_MODULES
    name = f"engine {engine.name}"
    return warning(name, why_not) if why_not else ok(name, engine.promise)
