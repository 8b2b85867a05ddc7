"""What the stages of one build share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..base.events import Monitor
from ..base.workdir import Workdir
from ..compile.tree import Tree
from ..compile.unit import UnitPair
from ..diff import Delta
from ..diff.delta import Finding
from ..elf.model import ElfFile
from ..match import UnitMatch
from ..module.emit import EmittedUnit
from ..module.resolve import VMLINUX
from ..patch.source import SourcePatch
from .kernel import ShippedKernel


@dataclass(frozen=True)
class Unit:
    """A unit that changes, with all that is known of it."""

    pair: UnitPair
    orig: ElfFile
    patched: ElfFile
    delta: Delta
    match: UnitMatch | None = None
    emitted: EmittedUnit | None = None


def by_object(units: Iterable[Unit]) -> dict[str, list[Unit]]:
    """The emitted units that patch something, by object: vmlinux first, then modules by name."""
    found: dict[str, list[Unit]] = {}
    for unit in units:
        if unit.emitted is not None and (unit.emitted.functions or unit.emitted.callbacks):
            found.setdefault(unit.pair.module, []).append(unit)
    return {name: found[name] for name in sorted(found, key=lambda n: (n != VMLINUX, n))}


@dataclass(frozen=True)
class Job:
    """What every stage of one build shares.

    `sources` are C files by name, given or extracted; `tree` is there once it is prepared, `pairs`
    once the units are compiled, also those that the patch leaves as they are.
    """

    name: str
    version: str
    patch: SourcePatch
    kernel: ShippedKernel
    replace: bool
    cves: tuple[str, ...]
    work: Workdir
    monitor: Monitor
    toolchain: str = ""
    sources: Mapping[str, bytes] = field(default_factory=dict)
    tree: Tree | None = None
    pairs: tuple[UnitPair, ...] = ()
    warnings: list[Finding] = field(default_factory=list)
