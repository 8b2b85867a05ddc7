"""Symbols that become global with the patch: what other units of the patch mean by them."""

from __future__ import annotations

from collections.abc import Iterable

from ..compile.unit import UnitPair
from ..diff.delta import Finding
from ..elf.constants import SHN_UNDEF, Binding, SymbolType
from ..elf.model import ElfFile
from ..elf.reader import read as read_elf
from ..module.positions import KernelPositions
from .job import Unit


def exposed_names(pairs: Iterable[UnitPair]) -> frozenset[str]:
    """The functions and variables that are static in the kernel and global in the patched source.

    A unit may do that and nothing else, so all are looked at, not only those that differ.
    """
    found: set[str] = set()
    for pair in pairs:
        is_static, is_global = (
            _defined(read_elf(path), local=local)
            for path, local in ((pair.orig, True), (pair.patched, False))
        )
        found |= is_static & is_global
    return frozenset(found)


def _defined(elf: ElfFile, *, local: bool) -> set[str]:
    table = elf.symbols
    mask = (table.shndx != SHN_UNDEF) & ((table.binding == Binding.LOCAL) == local)
    mask &= (table.type == SymbolType.FUNC) | (table.type == SymbolType.OBJECT)
    return {table.names[i] for i in mask.nonzero()[0].tolist()}


def taken_names(unit: Unit, positions: KernelPositions) -> list[Finding]:
    """Refusals of new global symbols that the kernel has already, from another unit.

    A function or variable that moves to another file is one: what is not rebuilt keeps to the old.
    """
    known = _defined(unit.orig, local=True) | _defined(unit.orig, local=False)
    names = {
        symbol.name
        for piece in unit.delta.pieces
        for symbol in piece.symbols
        if symbol.is_global and symbol.name not in known
    }
    return [
        Finding(
            "symbol-moved",
            name,
            f"'{name}' is new in {unit.pair.source}, and {unit.pair.module} has it already, from "
            "another unit: what is not rebuilt keeps to that one; leave it where it is, or give "
            "the new one another name",
        )
        for name in sorted(names)
        if positions.positions_of(unit.pair.module, name)
    ]
