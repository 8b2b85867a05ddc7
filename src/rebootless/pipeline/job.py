"""What the stages of one build share."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Job:
    """What every stage of one build shares.

    `sources` are C files by name, given or extracted; `tree` is there once it is prepared.
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
    warnings: list[Finding] = field(default_factory=list)
