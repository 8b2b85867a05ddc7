"""The safety stage: every check of `safety/` over the matched units, in one place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..base.events import stage
from ..base.words import counted
from ..compile import reach
from ..compile.unit import PATCHED_STAGE
from ..kernel.modules import foreign_modules, module_name
from ..module.resolve import VMLINUX
from ..safety import Verdict, preflight, quiescence, semantics
from ..safety.code import CodeUnit
from ..safety.copies import check_copies
from ..safety.entries import Entries, ImageEntries, ModuleEntries
from ..safety.tables import TableCheck
from .copies import search
from .external import INSTALLED
from .job import Job, Unit
from .layouts import layouts

Check = Callable[[Job, Sequence[Unit]], Verdict]

DEFAULT_HZ = 250


def _functions(job: Job, units: Sequence[Unit]) -> Verdict:
    """What each changed function is, can be redirected by, and does otherwise."""
    hz = job.kernel.config.get("HZ") or ""
    ticks = int(hz) if hz.isdigit() else DEFAULT_HZ
    verdict = Verdict()
    entries = {unit.pair.module: _shipped(job, unit) for unit in units}
    ftrace = job.kernel.has_ftrace
    for unit in units:
        old, new = CodeUnit(unit.orig), CodeUnit(unit.patched)
        changed = _changed(unit)
        owner = unit.pair.module
        targets = _targets(unit)
        verdict += preflight.check_entries(old, targets, entries[owner], owner, ftrace=ftrace)
        verdict += quiescence.forecast(old, changed, hz=ticks)
        verdict += semantics.compare(old, new, changed)
    return verdict


def _targets(unit: Unit) -> list[preflight.Target]:
    assert unit.match is not None
    names = unit.orig.symbols.names
    found = []
    for change in unit.delta.changed:
        symbol = change.orig_symbol
        proven = unit.match.proven.get(symbol) if symbol is not None else None
        if symbol is not None and proven is not None and proven.sympos is not None:
            found.append(preflight.Target(names[symbol], proven.name, proven.sympos))
    return found


def _shipped(job: Job, unit: Unit) -> Entries:
    if unit.pair.module == VMLINUX:
        return ImageEntries(job.kernel.image, job.kernel.symbols)
    return ModuleEntries(job.kernel.module(unit.pair.module))


def _copies(job: Job, units: Sequence[Unit]) -> Verdict:
    """Code that was not rebuilt and may hold inlined copies of what changed."""
    reached = reach.read(job.work.stage(PATCHED_STAGE))
    if not reached.headers:
        return Verdict()
    files = job.kernel.files
    folders = [INSTALLED / files.release, *([files.modules] if files.modules else [])]
    foreign = {module_name(path): path for folder in folders for path in foreign_modules(folder)}
    searched = search(job, reached, foreign)
    return check_copies(reached, len(units), foreign, searched)


def _tables(job: Job, units: Sequence[Unit]) -> Verdict:
    """Whether the special sections say of the shipped code what the build's say."""
    checks = {u.pair.module: TableCheck(job.kernel.shipped(u.pair.module)) for u in units}
    verdict = Verdict()
    for unit in units:
        assert unit.match is not None
        names = {f.name for f in (*unit.delta.changed, *unit.delta.carried)}
        verdict += checks[unit.pair.module].verify(unit.orig, unit.match, names)
    return verdict


def _changed(unit: Unit) -> dict[str, str]:
    """The changed functions by their names in the original object -> in the patched one."""
    names = unit.orig.symbols.names
    return {
        names[f.orig_symbol]: unit.delta.pieces[f.piece].name
        for f in unit.delta.changed
        if f.orig_symbol is not None
    }


CHECKS: tuple[Check, ...] = (_tables, layouts, _functions, _copies)


def check(job: Job, units: Sequence[Unit]) -> Verdict:
    """What the safety checks say of the whole patch."""
    with stage(job.monitor, "check", "Checking that the patch is safe") as report:
        verdict = Verdict()
        for judge in CHECKS:
            verdict += judge(job, units)
        report.result = counted(len(verdict.warnings), "warning")
    return verdict
