"""Where a function begins in the shipped code: who else begins there, and whether ftrace knows it.

ftrace patches the places that the kernel lists between __start_mcount_loc and __stop_mcount_loc,
and a module in its section __mcount_loc; livepatch can redirect these functions and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from ..elf.constants import Reloc
from ..kernel.image import KernelImage
from ..kernel.modules import ModuleImage
from ..kernel.symbols import SymbolIndex

ENDBR = b"\xf3\x0f\x1e\xfa"  # endbr64, which stands before the call where the kernel has IBT
_TABLE = "__mcount_loc"
_START, _STOP = "__start_mcount_loc", "__stop_mcount_loc"


@dataclass(frozen=True)
class Entry:
    """The entry of one function: all names there; `traced` is None where no list is known."""

    names: tuple[str, ...]
    traced: bool | None


class Entries(Protocol):
    """What preflight asks of a shipped file."""

    def entry(self, name: str, sympos: int) -> Entry | None:
        """The function `name` at livepatch's position `sympos`; None if there is none of it."""
        ...


@dataclass(frozen=True)
class ImageEntries:
    """The entries of vmlinux."""

    image: KernelImage
    symbols: SymbolIndex

    @cached_property
    def _traced(self) -> frozenset[int] | None:
        start, stop = (self.symbols.addresses(name) for name in (_START, _STOP))
        if len(start) != 1 or len(stop) != 1 or stop[0] <= start[0]:
            return None
        table = np.frombuffer(self.image.read(start[0], stop[0] - start[0]), dtype="<u8")
        return frozenset(table.tolist())

    def entry(self, name: str, sympos: int) -> Entry | None:
        """See Entries."""
        places = self.symbols.addresses(name)
        if not max(sympos, 1) <= len(places):
            return None
        place = places[max(sympos, 1) - 1]
        return Entry(
            self.symbols.at(place),
            _is_traced(self._traced, place, lambda: bytes(self.image.read(place, len(ENDBR)))),
        )


@dataclass(frozen=True)
class ModuleEntries:
    """The entries of a module, whose places are (section, offset)."""

    module: ModuleImage

    @cached_property
    def _traced(self) -> frozenset[tuple[int, int]]:
        elf = self.module.elf
        sections = elf.sections_named(_TABLE)
        table = elf.symbols
        found = set()
        for section in sections:
            relocs = elf.relocations(section)
            for k in range(len(relocs)):
                if int(relocs.type[k]) == Reloc.R64:
                    symbol = int(relocs.symbol[k])
                    offset = int(table.value[symbol]) + int(relocs.addend[k])
                    found.add((int(table.shndx[symbol]), offset))
        return frozenset(found)

    def entry(self, name: str, sympos: int) -> Entry | None:
        """See Entries."""
        namesakes = self.module.namesakes(name)
        if not max(sympos, 1) <= len(namesakes):
            return None
        elf = self.module.elf
        symbol = elf.symbols[namesakes[max(sympos, 1) - 1]]
        if symbol.shndx >= len(elf.sections):
            return None
        same = [
            elf.symbols.names[i]
            for i in elf.symbols_in_section[symbol.shndx].tolist()
            if int(elf.symbols.value[i]) == symbol.value
        ]
        code = elf.sections[symbol.shndx].data
        places = frozenset(o for s, o in self._traced if s == symbol.shndx)
        traced = _is_traced(
            places, symbol.value, lambda: bytes(code[symbol.value : symbol.value + len(ENDBR)])
        )
        return Entry(tuple(same), traced)


def _is_traced(
    places: frozenset[int] | None, place: int, first_bytes: Callable[[], bytes]
) -> bool | None:
    if places is None:
        return None
    if place in places:
        return True
    return place + len(ENDBR) in places and first_bytes() == ENDBR
