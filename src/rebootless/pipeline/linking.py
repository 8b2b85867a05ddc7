"""The link: the units' emitted objects become one patch module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..base.errors import MismatchError
from ..base.events import stage
from ..base.fs import read_bytes
from ..compile.tree import Tree
from ..elf.reader import parse as parse_elf
from ..match import Beginning, Shipped, beginning
from ..module.abi import check_abi
from ..module.features import UnitCallbacks, merge_states
from ..module.link import PatchedFunction, PatchedObject, link
from ..module.relocs import MAX_SYMBOL_OLD
from .job import Job, Unit, by_object
from .landing import check_module


def linked(job: Job, units: Sequence[Unit], tree: Tree) -> bytes:
    """The finished patch module. Raises CompileError or MismatchError."""
    emitted = [u.emitted for u in units if u.emitted]
    with (
        stage(job.monitor, "link", "Linking the patch module"),
        job.work.running("4-module", "") as folder,
    ):
        module = link(
            job.name,
            objects=_objects(job, units),
            units=[e.data for e in emitted],
            make=tree.make,
            folder=folder,
            replace=job.replace,
            states=merge_states(u.delta.states for u in units),
            namespaces=frozenset().union(*(e.namespaces for e in emitted)),
            mirrors=[m for e in emitted for m in e.mirrors],
            max_symbol=max_symbol(tree),
            livepatch=job.kernel.has_livepatch,
            symvers=job.kernel.more_symvers,
        )
        finished = parse_elf(module, name=job.name)
        check_abi(finished, job.kernel.some_modules())
        check_module(job.kernel, finished)
        (folder / "final.ko").write_bytes(module)
    return module


def max_symbol(tree: Tree) -> int:
    """KSYM_NAME_LEN - 1 of this kernel: 127 before 6.1, 511 since."""
    header = tree.orig / "include/linux/kallsyms.h"
    found = re.search(rb"#define\s+KSYM_NAME_LEN\s+(\d+)", read_bytes(header))
    return int(found[1]) - 1 if found else MAX_SYMBOL_OLD


def _objects(job: Job, units: Sequence[Unit]) -> list[PatchedObject]:
    """The functions and callbacks of each object."""
    return [
        PatchedObject(
            name,
            tuple(
                f
                for unit in group
                for f in patched_functions(unit, job.kernel.shipped(unit.pair.module))
            ),
            tuple(c for unit in group for c in unit_callbacks(unit)),
        )
        for name, group in by_object(units).items()
    ]


def patched_functions(unit: Unit, shipped: Shipped | None = None) -> Iterator[PatchedFunction]:
    """What a unit patches, with how it begins in `shipped`.

    Raises MismatchError for a function that is not proven.
    """
    assert unit.match is not None and unit.emitted is not None
    for f in unit.emitted.functions:
        proven = unit.match.proven.get(f.orig_symbol)
        if proven is None or proven.sympos is None or proven.offset:
            raise MismatchError(f"'{f.name}' has no provable position in {unit.pair.module}")
        entry = Beginning()
        if shipped is not None:
            entry = beginning(unit.orig, f.orig_symbol, shipped, proven.place)
        yield PatchedFunction(f.symbol, proven.name, proven.sympos, entry.code, entry.mask)


def unit_callbacks(unit: Unit) -> Iterator[UnitCallbacks]:
    """The symbols of a unit's callbacks by kind, if it has any."""
    assert unit.emitted is not None
    if unit.emitted.callbacks:
        yield {c.kind: c.symbol for c in unit.emitted.callbacks}
