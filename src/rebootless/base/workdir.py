"""Numbered stage folders with completion markers: a build can resume, and be looked into.

    work/0-source  1-orig  2-patched  3-delta  4-module

A stage is done when its folder holds a marker whose text equals the stage's inputs; any other
marker, or none, means that the stage runs again, into an empty folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .events import Monitor, Note, NullMonitor
from .fs import atomic_write, locked, os_failure, remove_tree

MARKER = ".complete"


@dataclass(frozen=True)
class Workdir:
    """A directory of stage folders."""

    root: Path

    def stage(self, name: str) -> Path:
        """The folder of stage `name`, e.g. '1-orig'."""
        return self.root / name

    def is_done(self, name: str, inputs: str) -> bool:
        """Whether stage `name` finished earlier with the very same `inputs`."""
        try:
            return (self.stage(name) / MARKER).read_text() == inputs
        except OSError:
            return False

    @contextlib.contextmanager
    def locked(self, monitor: Monitor | None = None) -> Iterator[None]:
        """Holds the folder: a second build in it waits, as it would empty the same stages."""
        shown = monitor or NullMonitor()
        note = Note(f"waiting for another build in {self.root} to end")
        with locked(self.root / ".lock", waiting=lambda: shown.emit(note)):
            yield

    @contextlib.contextmanager
    def running(self, name: str, inputs: str) -> Iterator[Path]:
        """Yields the emptied folder of stage `name`; marks it complete if the block succeeds."""
        folder = self.stage(name)
        try:
            remove_tree(folder)
            folder.mkdir(parents=True)
        except OSError as exc:
            raise os_failure("make", folder, exc) from exc
        try:
            yield folder
        except BaseException as exc:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(exc, OSError):
                raise os_failure("write", folder, exc) from exc
            raise
        atomic_write(folder / MARKER, inputs)


def fingerprint(*parts: str | bytes) -> str:
    """A short hex digest of the parts, for marker texts and cache keys."""
    digest = hashlib.sha256()
    for part in parts:
        blob = part.encode() if isinstance(part, str) else part
        digest.update(len(blob).to_bytes(8, "little"))
        digest.update(blob)
    return digest.hexdigest()[:32]
