"""What a function of an object refers to, and what in the object refers to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

import numpy as np

from ..diff.tables import COMPANIONS, TABLES, entry_shape
from ..elf.constants import PC_RELATIVE, SHN_UNDEF, SymbolType
from ..elf.insn import is_branch
from ..elf.model import I64, ElfFile, Section, Symbol
from .facts import Caller, Reference
from .targets import Use

FENTRY = "__fentry__"
MAX_CALLERS = 60


def by_kind(found: Iterable[Use]) -> tuple[tuple[str, int], ...]:
    """How many relocations there are of each kind."""
    return tuple(sorted(Counter(use.kind for use in found).items()))


def references(
    before: Iterable[Use], after: Iterable[Use], how: Callable[[Use], str]
) -> tuple[Reference, ...]:
    """What the new code refers to, each thing once; `how` tells the way to it."""
    known = {use.target.key.partition("+")[0] for use in before}
    groups: dict[tuple[str, str, str], list[Use]] = {}
    for use in after:
        if use.target.name and use.target.name != FENTRY:
            groups.setdefault((use.target.name, use.target.kind, how(use)), []).append(use)
    return tuple(
        Reference(
            name,
            "function" if any(use.is_call for use in group) else kind,
            way,
            len(group),
            any(use.is_call for use in group),
            kind != "symbol",
            all(use.target.key.partition("+")[0] not in known for use in group),
        )
        for (name, kind, way), group in sorted(groups.items())
    )


def gone(before: Iterable[Use], after: Iterable[Use]) -> tuple[str, ...]:
    """What the original referred to and the new code does not."""
    left = {use.target.key.partition("+")[0] for use in after}
    return tuple(
        sorted({u.target.name for u in before if u.target.key.partition("+")[0] not in left})
    )


def callers(elf: ElfFile, functions: Collection[Symbol]) -> dict[int, tuple[Caller, ...]]:
    """Who in the object refers to each function (by symbol index), tables left out."""
    table = elf.symbols
    homes = {f.shndx for f in functions if f.shndx != SHN_UNDEF}
    own = np.isin(np.arange(len(table)), [f.index for f in functions])
    sections = np.isin(table.shndx, list(homes)) & (table.type == SymbolType.SECTION)
    candidates = own | sections
    found: dict[int, dict[tuple[str, str], None]] = {f.index: {} for f in functions}
    for section in elf.sections:
        if not _has_users(section):
            continue
        relocs = elf.relocations(section)
        for p in np.nonzero(candidates[relocs.symbol])[0].tolist():
            _note(elf, section, p, functions, found)
    return {
        index: tuple(Caller(name, how) for name, how in sorted(users)[:MAX_CALLERS])
        for index, users in found.items()
    }


def _has_users(section: Section) -> bool:
    name = section.name
    return (
        section.is_alloc
        and name not in TABLES
        and name not in COMPANIONS
        and not name.startswith(
            ("__patchable", ".discard", "__ksymtab", "___ksymtab", ".rebootless")
        )
    )


def _note(
    elf: ElfFile,
    section: Section,
    position: int,
    functions: Collection[Symbol],
    found: dict[int, dict[tuple[str, str], None]],
) -> None:
    relocs = elf.relocations(section)
    symbol, kind = int(relocs.symbol[position]), int(relocs.type[position])
    at = int(relocs.offset[position])
    # In code, what follows the field is an instruction's end: 4 bytes, but for an immediate.
    trailing = 4 if section.is_exec and kind in PC_RELATIVE else 0
    place = int(elf.symbols.value[symbol]) + int(relocs.addend[position]) + trailing
    shndx = int(elf.symbols.shndx[symbol])
    target = next(
        (f for f in functions if f.shndx == shndx and f.value <= place < f.value + max(f.size, 1)),
        None,
    )
    user = elf.symbol_at(section.index, at)
    name = user.name if user else section.name
    if target is None or name == target.name or name.startswith(f"{target.name}.cold"):
        return
    is_call = section.is_exec and is_branch(section.data, at)
    found[target.index][(name, "call" if is_call else "pointer")] = None


def table_entries(elf: ElfFile, functions: Collection[Symbol]) -> dict[int, Counter[str]]:
    """How many entries of each special section belong to each function (by symbol index)."""
    found: dict[int, Counter[str]] = {f.index: Counter() for f in functions}
    for section in elf.sections:
        if section.name not in TABLES:
            continue
        _, count = entry_shape(elf, section, TABLES[section.name])
        if not count:
            continue
        relocs = elf.relocations(section)
        symbols = relocs.symbol[::count]
        homes = elf.symbols.shndx[symbols]
        places: I64 = elf.symbols.value[symbols].astype(np.int64) + relocs.addend[::count]
        for f in functions:
            inside = (homes == f.shndx) & (places >= f.value) & (places < f.value + f.size)
            if number := int(inside.sum()):
                found[f.index][section.name] += number
    return found
