"""Symbol versions: the headers are the shipped kernel's, and what is exported stays what it is."""

from __future__ import annotations

from collections.abc import Sequence

from ..base.errors import MismatchError
from ..compile import versions
from ..compile.versions import Versions
from ..diff.delta import Finding
from .job import Job, Unit


def require_shipped(job: Job, units: Sequence[Unit]) -> None:
    """Raises MismatchError where an original unit's CRC is not that of Module.symvers.

    It costs nothing: kbuild has computed the CRCs when it compiled the units. They cover every
    type that an exported symbol leads to.
    """
    for unit in units if job.tree is not None else ():
        assert job.tree is not None
        for name, crc in versions.recorded(job.tree, unit.pair.source).items():
            export = job.kernel.exports.get(name)
            if export is not None and export.crc not in (crc, 0):
                raise MismatchError(
                    f"'{name}' of {unit.pair.source} is declared otherwise than in the shipped "
                    f"kernel: its CRC is {crc:#010x}, and Module.symvers has {export.crc:#010x}",
                    hint="compile with the very source and configuration of the kernel",
                )


def version_findings(job: Job, units: Sequence[Unit]) -> tuple[Finding, ...]:
    """Refuses exported symbols whose CRC changes; for units in which a type or prototype does.

    Where neither changes, no CRC can, save by a type of which the unit knew the name alone.
    """
    if job.tree is None or job.sources or not units:
        return ()
    sources = [unit.pair.source for unit in units]
    found = versions.compute(job.tree, job.patch, sources, job.monitor)
    return tuple(finding for unit in found for finding in changed(unit))


def changed(unit: Versions) -> tuple[Finding, ...]:
    """A refusal for each symbol whose CRC is another one; pure."""
    return tuple(
        Finding(
            "crc-changed",
            name,
            f"the exported symbol '{name}' of {unit.source} changes its version (CRC {crc:#010x} "
            f"becomes {unit.patched[name]:#010x}): what it leads to is not what modules were "
            "compiled for. Leave its prototype and the types that it leads to as they are",
        )
        for name, crc in sorted(unit.original.items())
        if unit.patched.get(name, crc) != crc
    )
