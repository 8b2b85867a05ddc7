"""The special sections that belong to code, one entry each in one table.

An entry of such a section describes a place in a function: an exception fixup, a bug site, a
jump label... When a function goes into the patch, its entries go along. The size of an entry is
never a constant here: it follows from the section's size and from how many relocations each entry
has, so a kernel that widens `struct alt_instr` needs no change. (The last entry may lack its
padding, hence the rounding up.)
"""

from __future__ import annotations

from dataclasses import dataclass

from ..elf.model import ElfFile, Section


@dataclass(frozen=True)
class Table:
    """One special section: how to find entries, and what of an entry is code behaviour.

    `relocs` is the number of relocations an entry has; the first is the place in the code.
    `compared` says that entries are part of what a function does, so a difference is a change;
    `ignored_bytes` is the range of an entry that is not (the line number of a bug entry), and
    `ignores_targets` says that what the further relocations point at is not (its file name).
    `companion` is a section without relocations whose n-th entry goes with ours.
    """

    section: str
    relocs: int
    compared: bool = False
    ignored_bytes: tuple[int, int] = (0, 0)
    ignores_targets: bool = False
    companion: str | None = None
    keyed: bool = False  # the last relocation of an entry names a static key or static call


TABLES: dict[str, Table] = {
    table.section: table
    for table in (
        Table("__bug_table", 2, compared=True, ignored_bytes=(8, 10), ignores_targets=True),
        Table("__ex_table", 2, compared=True),
        Table("__jump_table", 3, compared=True, keyed=True),
        Table(".static_call_sites", 2, compared=True, keyed=True),
        Table(".altinstructions", 2, compared=True),
        Table(".parainstructions", 1, compared=True),
        Table(".smp_locks", 1),
        Table(".retpoline_sites", 1),
        Table(".return_sites", 1),
        Table(".call_sites", 1),
        Table(".orc_unwind_ip", 1, companion=".orc_unwind"),
        Table("__mcount_loc", 1),
        Table("__patchable_function_entries", 1),
    )
}
COMPANIONS = frozenset(t.companion for t in TABLES.values() if t.companion)

# Code without symbols that tables or functions point into; cut into snippets where they point.
SNIPPET_SECTIONS = frozenset({".altinstr_replacement", ".altinstr_aux"})


def entry_size(elf: ElfFile, section: Section, table: Table) -> int:
    """The size in bytes of one entry of `section`, or 0 if the section is empty.

    Some entries have an extra relocation (an exception entry with data), so the relocation count
    only gives a first estimate; the true size divides the distances between entry starts.
    """
    count = len(elf.relocations(section)) // table.relocs
    if count == 0:
        return 0
    return -(-section.size // count)
