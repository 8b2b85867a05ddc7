"""The special sections that belong to code, one entry each in one table.

An entry of such a section describes a place in a function: an exception fixup, a bug site, a
jump label... When a function goes into the patch, its entries go along. The size of an entry is
never a constant here: it follows from where the relocations are, so a kernel that widens
`struct alt_instr` needs no change.

Of `.smp_locks`, kernels use what lies within `.text` of a module, and our functions are in sections
of their own: their lock prefixes stay on a machine with one processor, which only costs time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..base.errors import ElfError
from ..elf.constants import RESERVED_BASE, SHN_UNDEF
from ..elf.model import ElfFile, Section


@dataclass(frozen=True)
class Table:
    """One special section: how to find entries, and what of an entry is code behaviour.

    `relocs` is the least number of relocations an entry has; the first is the place in the code.
    `compared` says that entries are part of what a function does, so a difference is a change;
    `names_source` that, unless there is only one, the last relocation of an entry is to the file's
    name and two bytes of line number follow: those are not a change.
    `companion` is a section without relocations whose n-th entry goes with ours.
    """

    section: str
    relocs: int
    compared: bool = False
    names_source: bool = False
    companion: str | None = None
    keyed: bool = False  # the last relocation of an entry names a static key or static call


CONSTANTS = "runtime_"  # sections about constants, see constants.py: one for each variable


class _Tables(dict[str, Table]):
    """The tables by their section's name."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith(CONSTANTS))

    def __missing__(self, name: str) -> Table:
        if name.startswith(CONSTANTS):
            return Table(name, 1, compared=True)
        raise KeyError(name)


TABLES = _Tables(
    (table.section, table)
    for table in (
        Table("__bug_table", 1, compared=True, names_source=True),
        Table("__ex_table", 2, compared=True),
        Table("__jump_table", 3, compared=True, keyed=True),
        Table(".static_call_sites", 2, compared=True, keyed=True),
        Table(".altinstructions", 2, compared=True),
        Table(".parainstructions", 1, compared=True),
        Table(".smp_locks", 1),
        Table(".retpoline_sites", 1),
        Table(".return_sites", 1),
        Table(".call_sites", 1),
        Table(".cfi_sites", 1),
        Table(".kcfi_traps", 1, compared=True),
        Table(".orc_unwind_ip", 1, companion=".orc_unwind"),
        Table("__mcount_loc", 1),
        Table("_kprobe_blacklist", 1),
    )
)
COMPANIONS = frozenset(t.companion for t in TABLES.values() if t.companion)
ALTERNATIVES = ".altinstructions"

# Code without symbols that tables or functions point into; cut into snippets where they point.
# (.fixup: what exception entries of kernels before 5.16 jump to.)
SNIPPET_SECTIONS = frozenset({".altinstr_replacement", ".altinstr_aux", ".fixup"})
_MAX_RELOCS = 6


def entry_shape(elf: ElfFile, section: Section, table: Table) -> tuple[int, int]:
    """(bytes, relocations) of one entry of `section`; (0, 0) if it has none.

    The smallest number of relocations for which all entries are equally far apart and each begins
    with a place in code. The last entry may lack its padding. Raises ElfError if there is none.
    """
    relocs = elf.relocations(section)
    total = len(relocs)
    if total == 0:
        return 0, 0
    offsets = relocs.offset.astype(np.int64)
    in_code = _points_to_code(elf, relocs.symbol)
    for count in range(table.relocs, _MAX_RELOCS + 1):
        if total % count or int(offsets[0]) or not in_code[::count].all():
            continue
        if total == count:
            if section.size:
                return section.size, count
            continue
        steps = offsets[count:] - offsets[:-count]
        size, entries = int(steps[0]), total // count
        if size > 0 and (steps == size).all() and (entries - 1) * size < section.size:
            return size, count
    raise ElfError(f"{elf.name}: the entries of section {section.label} cannot be told apart")


def _points_to_code(elf: ElfFile, symbols: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    shndx = elf.symbols.shndx[symbols]
    executable = [
        i
        for i in np.unique(shndx).tolist()
        if SHN_UNDEF < i < RESERVED_BASE and elf.sections[i].is_exec
    ]
    return np.isin(shndx, executable)
