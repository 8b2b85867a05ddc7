"""Symbol versions: the headers are the shipped kernel's, and what is exported stays what it is."""

from __future__ import annotations

from collections.abc import Sequence, Set

from ..base.errors import MismatchError
from ..compile import versions
from ..compile.versions import Versions
from ..diff.delta import Finding
from ..safety import Verdict
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


def version_findings(job: Job, units: Sequence[Unit], harmless: Set[str]) -> Verdict:
    """What becomes of the CRCs of exported symbols; for units in which a type or prototype changes.

    Where neither changes, no CRC can, save by a type of which the unit knew the name alone. A CRC
    is a digest of types that have been compared one by one: of a unit (by its source) in
    `harmless`, whose types and prototypes serve old and new code alike, a changed CRC is only told.
    What is loaded was checked by the old one already, and the running kernel's table keeps it for
    what is loaded later.
    """
    if job.tree is None or job.sources or not units:
        return Verdict()
    sources = [unit.pair.source for unit in units]
    verdict = Verdict()
    for unit in versions.compute(job.tree, job.patch, sources, job.monitor):
        found = changed(unit)
        told = unit.source in harmless
        verdict += Verdict(warnings=found) if told else Verdict(refused=found)
    return verdict


def changed(unit: Versions) -> tuple[Finding, ...]:
    """A finding for each symbol whose CRC is another one; pure."""
    return tuple(
        Finding(
            "crc-changed",
            name,
            f"the exported symbol '{name}' of {unit.source} changes its version (CRC {crc:#010x} "
            f"becomes {unit.patched[name]:#010x}): its prototype, or a type that it leads to, is "
            "not what modules were compiled for; the other findings of the unit say which",
        )
        for name, crc in sorted(unit.original.items())
        if unit.patched.get(name, crc) != crc
    )
