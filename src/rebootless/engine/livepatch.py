"""The engine "livepatch": the kernel's own, with ftrace and a transition task by task.

By itself it tries at once, then each second, and wakes stragglers after 15 seconds. Where our core
module is loaded it drives the transition: tries follow each other quickly, and signals go out when
the policy says so.
"""

from __future__ import annotations

from .base import Engine, EngineFacts, switched
from .machine import Machine
from .status import CORE, MAINLINE, ROOT

DRIVE = f"{CORE}/livepatch/drive"
SIGNAL = f"{CORE}/livepatch/signal"


class Livepatch(Engine):
    """Mainline's livepatch."""

    name = MAINLINE
    root = ROOT
    needs_core = False
    promise = "the kernel's own; each task moves by itself, and nothing stops"

    def usable(self, facts: EngineFacts) -> str:
        """It needs CONFIG_LIVEPATCH, ftrace that is on, and functions that ftrace knows."""
        if not facts.livepatch:
            return "the kernel has no live patching (built without CONFIG_LIVEPATCH)"
        return without_ftrace(facts)

    @property
    def parameters(self) -> str:
        """None: modules made before there were engines have no parameter."""
        return ""

    def begun(self, machine: Machine, name: str) -> None:
        """The core tries it again and again, in quick succession, until it ends."""
        switched(machine, DRIVE)

    def wakes_unasked(self, machine: Machine, name: str) -> bool:
        """Since 5.1, unless the core drives it."""
        return not any(machine.exists(path) for path in self._switches(name))

    def signal(self, machine: Machine, name: str) -> bool:
        """By the core; kernels before 5.1 have a switch of their own."""
        return any(switched(machine, path) for path in self._switches(name))

    def _switches(self, name: str) -> tuple[str, str]:
        return SIGNAL, f"{self.path(name)}/signal"


def without_ftrace(facts: EngineFacts) -> str:
    """What an engine lacks that redirects calls by ftrace; '' if nothing."""
    if not facts.ftrace:
        return "the kernel has no ftrace (built without CONFIG_DYNAMIC_FTRACE)"
    if facts.ftrace_enabled is False:
        return "ftrace is switched off (kernel.ftrace_enabled=0)"
    if facts.untraceable:
        names = ", ".join(map(str, facts.untraceable))
        return f"ftrace cannot redirect {names}"
    return ""
