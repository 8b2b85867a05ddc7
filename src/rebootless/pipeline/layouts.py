"""The check of types: debug information to BTF, and what changed in it, unit by unit."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from ..base.fs import read_bytes
from ..compile.runner import Job as Run
from ..compile.runner import Outcome, run_all
from ..compile.unit import UnitPair
from ..diff.delta import Finding
from ..diff.names import cold_parent
from ..match.users import users_of
from ..module.resolve import VMLINUX
from ..safety import Verdict
from ..safety.layout import type_findings
from ..safety.prototypes import Outside, prototype_findings
from ..safety.shippedtypes import ShippedTypes, shipped_findings
from ..safety.typechange import TypeChanges
from ..safety.typediff import compare_types
from ..types.btf import Btf
from ..types.btf import parse as parse_btf
from .job import Job, Unit
from .kernel import ShippedKernel
from .versions import require_shipped, version_findings

BTF = ".BTF"
PROGRAMS_AT_ONCE = 2


def layouts(job: Job, units: Sequence[Unit]) -> Verdict:
    """Whether types, prototypes and versions of symbols stay what the running kernel knows.

    Raises MismatchError (a symbol's version is not the shipped one), NotFoundError when pahole is
    missing, ElfError for types that make no sense.
    """
    require_shipped(job, units)
    objects = [path for unit in units for path in (unit.pair.orig, unit.pair.patched)]
    failed = _describe(objects)
    shipped = shipped_types(job.kernel)
    verdict, touched, harmless = Verdict(), [], set()
    for unit in units:
        pair = unit.pair
        if why := failed.get(pair.orig) or failed.get(pair.patched):
            verdict += Verdict(warnings=(_unchecked(pair.source, why),))
            continue
        original = _types(pair.orig)
        if (known := shipped(pair.module)) is not None:
            verdict += Verdict(shipped_findings(pair.source, known.differing(original)))
        changes = compare_types(original, _types(pair.patched))
        elsewhere = functools.partial(_outside, job, units, unit)
        found = type_findings(changes)
        found += Verdict(prototype_findings(changes, unit.orig, unit.delta, elsewhere))
        if changes != TypeChanges():
            touched.append(unit)
        if not found.refused:
            harmless.add(pair.source)
        verdict += found
    return verdict + version_findings(job, touched, harmless)


def shipped_types(kernel: ShippedKernel) -> Callable[[str], ShippedTypes | None]:
    """Tells the types of vmlinux or of a module as they are shipped; None for what lacks them."""

    def of(module: str) -> ShippedTypes | None:
        if module not in kernel.types:
            kernel.types[module] = read(module)
        known: ShippedTypes | None = kernel.types[module]
        return known

    def read(module: str) -> ShippedTypes | None:
        base = None if module == VMLINUX else of(VMLINUX)
        elf = kernel.image.elf if module == VMLINUX else kernel.module(module).elf
        section = elf.section_by_name.get(BTF)
        if section is None or (base is None and module != VMLINUX):
            return None
        types = parse_btf(section.data, name=f"types of {module}", base=base.btf if base else None)
        return ShippedTypes(types, base)

    return of


def _outside(job: Job, units: Sequence[Unit], unit: Unit, symbol: int) -> Outside:
    """Who uses a global function of `unit` in the shipped kernel, and is not patched."""
    proven = unit.match.proven.get(symbol) if unit.match else None
    if proven is None or proven.offset:
        return Outside()
    patched = {
        other.match.proven[f.orig_symbol].place
        for other in units
        if other.match is not None and other.pair.module == unit.pair.module
        for f in (*other.delta.changed, *other.delta.carried)
        if f.orig_symbol in other.match.proven
    }
    names = {f.name for other in units for f in (*other.delta.changed, *other.delta.carried)}
    users = [
        user
        for user in users_of(job.kernel.shipped(unit.pair.module), proven.place)
        if user.place not in patched and cold_parent(user.name) not in names
    ]
    exported = unit.orig.symbols.names[symbol] in job.kernel.exports
    return Outside(
        callers=(*(u.name for u in users if u.calls), *(["any module"] if exported else ())),
        holders=tuple(u.name for u in users if not u.calls),
    )


def _describe(objects: Sequence[Path]) -> dict[Path, str]:
    """Has pahole write the BTF of each object beside it, if it is not there yet (20 ms each).

    Returns why it could not, by object.
    """
    missing = {str(path): path for path in objects if not _btf_of(path).exists()}
    runs = [
        Run(name, path.parent, (("pahole", "-J", f"--btf_encode_detached={_btf_of(path)}", name),))
        for name, path in missing.items()
    ]
    outcomes = run_all(runs, parallel=PROGRAMS_AT_ONCE, finished=_nothing)
    return {
        missing[outcome.job.name]: _reason(outcome.output)
        for outcome in outcomes
        if outcome.failed is not None or not _btf_of(missing[outcome.job.name]).exists()
    }


def _nothing(outcome: Outcome) -> None:
    pass


def _reason(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1] if lines else "pahole found no debug information in it"


def _btf_of(path: Path) -> Path:
    return path.with_suffix(".btf")


def types_of(pair: UnitPair) -> tuple[Btf, Btf]:
    """The types of the original and the patched object. Raises ElfError, NotFoundError."""
    return _types(pair.orig), _types(pair.patched)


def _types(path: Path) -> Btf:
    return parse_btf(read_bytes(_btf_of(path)), name=f"types of {path.name}")


def _unchecked(source: str, why: str) -> Finding:
    return Finding(
        "layout-unchecked",
        source,
        f"the types of {source} could not be compared ({why}): see to it yourself that no struct, "
        "enum or prototype changes",
    )
