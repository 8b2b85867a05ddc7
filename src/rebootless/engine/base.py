"""What an engine is: one way to put a patch module's functions into the running kernel.

The patch module is the same for all, and so is what its folder in sysfs looks like. An engine says
whether it can work on a kernel and what it needs; `patching` does the rest for each of them alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ..base.errors import ResourceError
from .machine import Machine
from .status import PatchedFunction

AUTO = "auto"


@dataclass(frozen=True)
class EngineFacts:
    """What decides which engine can apply a patch; what is not known is None.

    `untraceable` are those of the patch's functions that ftrace cannot redirect. `core_loaded` and
    `core_at_hand` tell of the core module; `core_abi` is the loaded one's, `patch_abi` what the
    patch was made for. `takes_engine`: the patch module has the parameter that names an engine.
    """

    livepatch: bool
    ftrace: bool
    ftrace_enabled: bool | None = None
    untraceable: tuple[PatchedFunction, ...] | None = None
    core_loaded: bool = False
    core_abi: int | None = None
    core_at_hand: bool = False
    patch_abi: int | None = None
    takes_engine: bool = True


class Engine(ABC):
    """One engine. `root` is the folder of sysfs with its patches."""

    name: str
    root: str
    needs_core: bool
    promise: str  # in a line, for people

    @abstractmethod
    def usable(self, facts: EngineFacts) -> str:
        """Why it cannot apply the patch here; '' when it can. Pure."""

    @property
    @abstractmethod
    def parameters(self) -> str:
        """What the patch module is loaded with."""

    def path(self, name: str) -> str:
        """The folder of a patch in sysfs."""
        return f"{self.root}/{name}"

    def begun(self, machine: Machine, name: str) -> None:  # noqa: B027 (most have nothing to do)
        """A transition of patch `name` has begun: drives it where that is asked for from outside.

        Raises nothing: what cannot be driven ends by itself.
        """

    def wakes_unasked(self, machine: Machine, name: str) -> bool:
        """Whether the kernel wakes the tasks that hold patch `name` up, whatever the policy is."""
        return False

    @abstractmethod
    def signal(self, machine: Machine, name: str) -> bool:
        """Wakes the tasks that hold a transition up; whether this kernel has a switch for it."""


def switched(machine: Machine, path: str) -> bool:
    """Writes 1 to a file that may not be there; whether it was taken."""
    if not machine.exists(path):
        return False
    try:
        machine.write(path, "1")
    except ResourceError:  # the transition ended meanwhile
        return False
    return True
