"""Which engine applies a patch: a pure decision over features that were probed.

1. the kernel's live patching, ftrace knows every function    livepatch
2. ftrace without live patching                               per-task
3. a function or a kernel without ftrace                      atomic, by a jump
"""

from __future__ import annotations

from dataclasses import dataclass

from ..base.errors import KernelRefusedError, PatchInputError
from .base import AUTO, Engine, EngineFacts
from .core import BUILD_HINT, Atomic, PerTask
from .livepatch import Livepatch
from .status import LivePatch

# In the order in which they are taken.
ENGINES: tuple[Engine, ...] = (Livepatch(), PerTask(), Atomic())
NAMES = tuple(engine.name for engine in ENGINES)
HINTS = {
    "kernel.ftrace_enabled": "sysctl kernel.ftrace_enabled=1 switches it on",
    "no core module": BUILD_HINT,
    "has interface": "`rebootless engine unload`, then apply again",
    "ftrace cannot redirect": "`--engine atomic` redirects it by a jump at its entry",
    "build it again": "build the bundle with this version of rebootless",
}


@dataclass(frozen=True)
class Option:
    """One engine: what it promises, and why it cannot apply the patch here ('' if it can)."""

    name: str
    promise: str
    why_not: str


@dataclass(frozen=True)
class Choice:
    """The engine that applies a patch, and why this one; `options` are all engines in order.

    `engine` is '' when none can.
    """

    engine: str
    why: str
    options: tuple[Option, ...]


def by_name(name: str) -> Engine:
    """The engine of that name. Raises PatchInputError."""
    for engine in ENGINES:
        if engine.name == name:
            return engine
    raise PatchInputError(f"there is no engine '{name}'", hint=f"there are {', '.join(NAMES)}")


def engine_of(patch: LivePatch) -> Engine:
    """The engine that a patch in force was applied with."""
    return by_name(patch.engine)


def decide(facts: EngineFacts) -> Choice:
    """The engine that is best for these facts; pure."""
    options = tuple(Option(e.name, e.promise, e.usable(facts)) for e in ENGINES)
    can = [option.name for option in options if not option.why_not]
    if not can:
        return Choice("", "; ".join(f"{o.name}: {o.why_not}" for o in options), options)
    passed = [f"not {o.name}, since {o.why_not}" for o in options[: NAMES.index(can[0])]]
    return Choice(can[0], "; ".join(passed) or "the kernel has it, and it can do all", options)


def choose(facts: EngineFacts, asked: str = AUTO) -> tuple[Engine, str]:
    """The engine to apply a patch with, and why; pure.

    Raises KernelRefusedError when the one that was asked for, or with 'auto' any, cannot.
    """
    if asked == AUTO:
        choice = decide(facts)
        if not choice.engine:
            raise KernelRefusedError(
                f"no engine can apply this patch here: {choice.why}", hint=hint_for(choice.why)
            )
        return by_name(choice.engine), choice.why
    engine = by_name(asked)
    if why_not := engine.usable(facts):
        raise KernelRefusedError(
            f"the engine '{engine.name}' cannot apply this patch here: {why_not}",
            hint=hint_for(why_not),
        )
    return engine, "asked for"


def hint_for(reason: str) -> str:
    """What mends the first of the reasons that something mends; pure."""
    found = (hint for text, hint in HINTS.items() if text in reason)
    return next(found, "`rebootless doctor` tells what each engine needs")
