"""Code as a loader leaves it in memory: shipped bytes at running addresses, addresses filled in."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..base.errors import ElfError
from ..kernel.image import KernelImage
from ..kernel.kallsyms import KERNEL_BASE
from ..kernel.kaslr import Relocations
from ..kernel.symbols import SymbolIndex

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
NO_BYTES: U8 = np.empty(0, np.uint8)
NO_PLACES: U64 = np.empty(0, np.uint64)


@dataclass(frozen=True)
class Placed:
    """A section at its running address; `stays` says that it is code which is kept after boot."""

    name: str
    address: int
    data: U8
    stays: bool

    @property
    def end(self) -> int:
        """The address behind it."""
        return self.address + len(self.data)


@dataclass(frozen=True)
class Names:
    """Symbols by running address, ascending."""

    addresses: U64
    names: Sequence[str]

    def covering(self, address: int) -> tuple[str, int, int]:
        """The (name, start, end) of the symbol that covers an address; ("", 0, 0) before all."""
        last = int(np.searchsorted(self.addresses, np.uint64(address), "right"))
        if last == 0:
            return "", 0, 0
        start = int(self.addresses[last - 1])
        first = int(np.searchsorted(self.addresses, np.uint64(start), "left"))
        end = int(self.addresses[last]) if last < len(self.addresses) else start
        return self.names[first], start, end

    @cached_property
    def by_name(self) -> dict[str, int]:
        """The first address of each name."""
        found: dict[str, int] = {}
        for name, address in zip(self.names, self.addresses.tolist(), strict=True):
            found.setdefault(name, address)
        return found

    @cached_property
    def starts(self) -> frozenset[int]:
        """Every address that has a name."""
        return frozenset(self.addresses.tolist())


@dataclass(frozen=True)
class Code:
    """One object ('vmlinux' or a module) as it should be in memory.

    `blind` are the addresses of 32-bit fields whose right content is not known.
    """

    name: str
    sections: tuple[Placed, ...]
    names: Names
    blind: U64 = field(default_factory=lambda: NO_PLACES)

    @cached_property
    def _placed(self) -> tuple[list[int], list[Placed]]:
        placed = sorted((s for s in self.sections if len(s.data)), key=lambda s: s.address)
        return [s.address for s in placed], placed

    def section(self, name: str) -> Placed | None:
        """The section of that name."""
        return next((s for s in self.sections if s.name == name), None)

    def read(self, address: int, size: int) -> U8:
        """`size` bytes at a running address; fewer, or none, where the object has no such bytes."""
        starts, placed = self._placed
        index = bisect.bisect_right(starts, address) - 1
        if index < 0:
            return NO_BYTES
        at = address - placed[index].address
        return placed[index].data[at : at + size]

    def between(self, first: str, last: str) -> tuple[U8, int]:
        """The bytes from one symbol to another, and their address; none when there are no such."""
        start, end = self.names.by_name.get(first, 0), self.names.by_name.get(last, 0)
        return self.read(start, end - start) if 0 < start < end else NO_BYTES, start


def of_kernel(image: KernelImage, symbols: SymbolIndex, moves: Relocations, shift: int) -> Code:
    """The kernel proper, `shift` bytes above where it is linked."""
    start, end = (_address(symbols, n) for n in ("_stext", "_etext"))
    sections = []
    for section in image.elf.sections:
        if not section.is_alloc or section.addr < KERNEL_BASE or section.name == ".BTF":
            continue
        data = moves.moved(np.frombuffer(section.data, np.uint8), section.addr, shift)
        stays = section.is_exec and start <= section.addr < end
        sections.append(Placed(section.name, section.addr + shift, data, stays))
    table = symbols.table
    moving = table.addresses >= np.uint64(KERNEL_BASE)
    first = int(np.argmax(moving))
    return Code(
        "vmlinux",
        tuple(sections),
        Names(table.addresses[first:] + np.uint64(shift), table.names[first:]),
    )


def _address(symbols: SymbolIndex, name: str) -> int:
    found = symbols.addresses(name)
    if not found:
        raise ElfError(f"the kernel's symbol table has no '{name}'")
    return found[0]
