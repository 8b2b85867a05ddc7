"""After an undo: all code against the shipped image, where that is at hand.

What compares needs numpy, which a machine that only applies bundles need not have: it is imported
once an image was found.
"""

from __future__ import annotations

from pathlib import Path

from ..base.errors import RebootlessError
from ..base.events import Monitor
from ..engine.machine import Machine, release
from ..engine.restored import Comparison
from .shipped import find_files


def compare(
    machine: Machine,
    monitor: Monitor,
    *,
    image: Path | None = None,
    modules: Path | None = None,
) -> Comparison:
    """Compares all code of the running kernel with the shipped one; never fails.

    Where that cannot be done (no image, memory that may not be read) the result says why.
    """
    try:
        image, modules = find_files(release(machine), image, modules)
        from .verifying import verify

        report = verify(image=image, modules=modules, machine=machine, monitor=monitor)
    except RebootlessError as exc:
        return Comparison(None, why=exc.message)
    return Comparison(report.clean, report.places, round(report.seconds, 3))
