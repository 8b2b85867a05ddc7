"""The special sections of a unit are compared with those of the shipped kernel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rebootless.base.events import NullMonitor
from rebootless.compile.originals import Variant
from rebootless.compile.tree import Tree
from rebootless.compile.unit import build_originals
from rebootless.elf.model import ElfFile
from rebootless.elf.reader import parse, read
from rebootless.match import Status, UnitMatch, match_unit
from rebootless.match.shipped import Shipped
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.provider.base import KernelFiles
from rebootless.safety.tables import COMPARED, TableCheck

UNITS = ("fs/exec.c", "mm/maccess.c")
RELA = 24  # bytes of a relocation; its addend is at 16


@dataclass(frozen=True)
class Built:
    """A unit's object, and what matching says of it."""

    path: Path
    elf: ElfFile
    match: UnitMatch

    @property
    def functions(self) -> set[str]:
        return {f.name for f in self.match.functions if f.status is Status.MATCHED}


@pytest.fixture(scope="module")
def shipped(stock_kernel: KernelFiles) -> Shipped:
    return ShippedKernel(stock_kernel).shipped("vmlinux")


@pytest.fixture(scope="module")
def units(stock_tree: Tree, shipped: Shipped) -> list[Built]:
    paths = build_originals(stock_tree, UNITS, NullMonitor(), variant=Variant())
    elves = [(Path(paths[unit]), read(Path(paths[unit]))) for unit in UNITS]
    return [Built(path, elf, match_unit(elf, shipped)) for path, elf in elves]


def test_the_real_units_agree(units: list[Built], shipped: Shipped) -> None:
    there = {s.name for unit in units for s in unit.elf.sections if s.size}
    assert set(COMPARED) <= there, "otherwise not every kind is tested"
    check = TableCheck(shipped)
    for unit in units:
        assert len(unit.functions) > 3
        assert not check.verify(unit.elf, unit.match, unit.functions).refused


# What of the first entry is another one: a byte of it, or the addend of its n-th relocation.
CHANGES = [
    ("__ex_table", 8, None, "the handler"),
    ("__bug_table", 10, None, "a flag of a trap"),
    (".altinstructions", 8, None, "the feature"),
    (".altinstructions", 10, None, "the length"),
    (".parainstructions", 8, None, "the operation"),
    ("__ex_table", None, 1, "where an exception leads to"),
    ("__ex_table", None, 0, "the place"),
    (".static_call_sites", None, 1, "the key"),
]


@pytest.mark.parametrize(("section", "byte", "reloc", "what"), CHANGES, ids=[c[3] for c in CHANGES])
def test_another_entry_is_refused(
    units: list[Built],
    shipped: Shipped,
    section: str,
    byte: int | None,
    reloc: int | None,
    what: str,
) -> None:
    unit = next(u for u in units if section in u.elf.section_by_name)
    blob = bytearray(unit.path.read_bytes())
    where = unit.elf.section_by_name[section].offset + (byte or 0)
    if reloc is not None:
        rela = unit.elf.section_by_name[f".rela{section}"]
        where = rela.offset + RELA * reloc + 16
    blob[where] ^= 4
    changed = parse(bytes(blob), name="changed.o")
    (finding,) = TableCheck(shipped).verify(changed, unit.match, unit.functions).refused
    assert finding.code == "table-mismatch" and section in finding.message
    assert finding.symbol in unit.functions
    others = unit.functions - {finding.symbol}
    assert not TableCheck(shipped).verify(changed, unit.match, others).refused


def test_line_numbers_do_not_matter(units: list[Built], shipped: Shipped) -> None:
    unit = next(u for u in units if "__bug_table" in u.elf.section_by_name)
    blob = bytearray(unit.path.read_bytes())
    blob[unit.elf.section_by_name["__bug_table"].offset + 8] ^= 0x21
    changed = parse(bytes(blob), name="changed.o")
    assert not TableCheck(shipped).verify(changed, unit.match, unit.functions).refused
