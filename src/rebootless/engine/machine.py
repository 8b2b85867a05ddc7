"""The machine whose kernel is patched, as the engine sees it.

All that the engine does goes through this interface, so that the same decisions work on the
machine it runs on (`local.LocalMachine`), in a test guest over its agent
(`rebootless.lab.machine.GuestMachine`), and in unit tests over recorded trees. Reads come in
batches because a round trip into an emulated guest costs tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ..elf import notes

ModuleSource = Path | bytes


class Machine(Protocol):
    """A machine with a kernel. Paths are absolute paths on that machine.

    Reading what does not exist (or has just ended, as processes do) gives None or leaves it out;
    a lack of permission raises ResourceError.
    """

    @property
    def name(self) -> str:
        """What to call the machine in messages."""
        ...

    def read_bytes(self, path: str) -> bytes | None:
        """The content of a file, or None."""
        ...

    def read_many(self, patterns: Sequence[str]) -> dict[str, str]:
        """The text of every file that matches one of the shell patterns, by path."""
        ...

    def glob(self, patterns: Sequence[str]) -> list[str]:
        """The paths that match one of the shell patterns, sorted."""
        ...

    def exists(self, path: str) -> bool:
        """Whether the path exists."""
        ...

    def write(self, path: str, text: str) -> None:
        """Writes to a file that exists (sysfs, procfs). Raises ResourceError with the reason."""
        ...

    def matching_lines(self, path: str, words: Sequence[str]) -> list[str]:
        """The lines of a text file of which one blank-separated field equals one of `words`."""
        ...

    def read_at(self, path: str, spans: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """The bytes at each (offset, size) of a file; None where they cannot be read."""
        ...

    def load_module(self, module: ModuleSource, *, name: str, parameters: str = "") -> None:
        """Loads a module (its bytes, or a file on the machine that runs rebootless).

        Raises KernelRefusedError with the reason as far as the kernel tells it.
        """
        ...

    def remove_module(self, name: str) -> None:
        """Removes a module. Raises KernelRefusedError (in use, not loaded...)."""
        ...

    def kernel_log(self) -> str:
        """The kernel's log, or what of it may be read ('' if nothing)."""
        ...

    def sleep(self, seconds: float) -> None:
        """Waits."""
        ...

    def now(self) -> float:
        """A clock in seconds that only goes forward."""
        ...


def read_text(machine: Machine, path: str) -> str | None:
    """A small text file without the blanks at its ends, or None."""
    blob = machine.read_bytes(path)
    return None if blob is None else blob.decode(errors="replace").strip()


def release(machine: Machine) -> str:
    """The release of the running kernel."""
    return read_text(machine, "/proc/sys/kernel/osrelease") or "unknown"


def build_id(machine: Machine) -> str:
    """The build-id of the running kernel in hex, or '' when the kernel does not tell it."""
    return notes.build_id(machine.read_bytes("/sys/kernel/notes") or b"")


def module_build_id(machine: Machine, name: str) -> str:
    """The build-id of a loaded module in hex, or '' when it is not loaded or has none."""
    blob = machine.read_bytes(f"/sys/module/{name}/notes/.note.gnu.build-id")
    return notes.build_id(blob or b"")
