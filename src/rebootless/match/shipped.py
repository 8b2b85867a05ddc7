"""One view of the shipped code, for the linked vmlinux and for a relocatable module.

Everything has a *place*, one number. In vmlinux it is the link-time address. A module is not
linked yet, so its sections are laid out one after another in an address range of our own, and
every undefined symbol gets a slot of its own far away; then "field + place" means the same in both.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ..elf.constants import Reloc
from ..kernel.image import KernelImage
from ..kernel.symbols import SymbolIndex

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

_COUNTER = re.compile(r"\.\d+(?=\.|$)")
# Plain numbers: numpy is slow to compare with an enum's value, and isin slower than two equalities.
R64, PC32, PLT32, R32, PC64 = (
    int(kind) for kind in (Reloc.R64, Reloc.PC32, Reloc.PLT32, Reloc.R32, Reloc.PC64)
)


class Named(NamedTuple):
    """A place by name: `offset` bytes into symbol `name` at livepatch position `sympos`.

    `sympos` is None when no position names it (see ModuleImage.sympos) and for external symbols.
    """

    name: str
    sympos: int | None
    offset: int
    external: bool


class Shipped(Protocol):
    """What the matcher asks of a shipped kernel or module."""

    @property
    def name(self) -> str:
        """ "vmlinux", or the module's name."""
        ...

    def candidates(self, name: str) -> tuple[int, ...]:
        """The places of every symbol called exactly `name`."""
        ...

    def folded_candidates(self, name: str) -> tuple[int, ...]:
        """The places of every symbol whose name is `name` up to compiler counters."""
        ...

    def is_weak(self, name: str) -> bool:
        """Whether a symbol of that name is shipped and weak."""
        ...

    def names_at(self, place: int) -> tuple[str, ...]:
        """The names of the symbols at exactly `place`."""
        ...

    def name_at(self, place: int, prefer: str = "") -> Named | None:
        """The best name for `place`: `prefer` if it is one, else one equal up to counters."""
        ...

    def content(self, place: int, size: int) -> memoryview | None:
        """The bytes there, or None outside of what the file holds."""
        ...

    def available(self, place: int, limit: int) -> memoryview:
        """Up to `limit` bytes from there to the end of the section (empty outside)."""
        ...

    def targets(self, place: int, offsets: I64, types: U32) -> tuple[U64, Bool]:
        """What each relocated field refers to (S + A), and whether that could be told.

        A negative offset stands for no field.
        """
        ...

    def jump_labels(self, place: int, size: int) -> tuple[int, ...]:
        """The offsets of the jump-label sites among the `size` bytes at `place`."""
        ...

    def jump_entry(self, place: int) -> tuple[int, int] | None:
        """Target and key (with its flag bits) of the jump label at `place`, or None."""
        ...

    def stray_relocation(self, place: int, size: int, offsets: I64) -> int | None:
        """The first offset that is relocated in the shipped file, and is not among `offsets`."""
        ...

    def section_name(self, place: int) -> str:
        """The name of the section that holds `place`, or ""."""
        ...

    def table(self, section: str) -> tuple[int, int] | None:
        """Place and size of a special section, or None if there is none that is known."""
        ...


# Where the kernel has the special sections: between two symbols.
TABLE_BOUNDS = {
    "__ex_table": ("__start___ex_table", "__stop___ex_table"),
    "__bug_table": ("__start___bug_table", "__stop___bug_table"),
    "__jump_table": ("__start___jump_table", "__stop___jump_table"),
    ".static_call_sites": ("__start_static_call_sites", "__stop_static_call_sites"),
    ".altinstructions": ("__alt_instructions", "__alt_instructions_end"),
    ".parainstructions": ("__parainstructions", "__parainstructions_end"),
}

JUMP_ENTRY = np.dtype([("code", "<i4"), ("target", "<i4"), ("key", "<i8")])


@dataclass(frozen=True)
class JumpTable:
    """The jump labels of a shipped file: place of the site -> (target, key with flags)."""

    entries: dict[int, tuple[int, int]]

    @cached_property
    def _sites(self) -> list[int]:
        return sorted(self.entries)

    def within(self, place: int, size: int) -> tuple[int, ...]:
        """The offsets of the sites among the `size` bytes at `place`."""
        first = bisect.bisect_left(self._sites, place)
        last = bisect.bisect_left(self._sites, place + size)
        return tuple(s - place for s in self._sites[first:last])


@lru_cache(maxsize=1 << 18)
def folded(name: str) -> str:
    """A name without the compiler's counters: `x.123` -> `x`, `f.isra.0` -> `f.isra`."""
    return _COUNTER.sub("", name) if "." in name else name


def field_targets(place: int, code: memoryview, offsets: I64, types: U32) -> U64:
    """Reads relocated fields of linked code as S + A (modulo 2**64)."""
    raw = np.frombuffer(code, np.uint8)
    words = raw[offsets[:, None] + np.arange(4)].reshape(-1).view(np.int32)
    values: U64 = words.astype(np.int64).astype(np.uint64)
    unsigned = types == R32
    values[unsigned] &= np.uint64(0xFFFFFFFF)
    wide = (types == R64) | (types == PC64)
    if wide.any():
        values[wide] = raw[offsets[wide][:, None] + np.arange(8)].reshape(-1).view(np.uint64)
    relative = (types == PC32) | (types == PLT32) | (types == PC64)
    values[relative] += np.uint64(place) + offsets[relative].astype(np.uint64)
    return values


def best_name(names: Sequence[str], prefer: str) -> str:
    """Of the aliases at one place: the preferred name, else its namesake, else the first."""
    if prefer in names:
        return prefer
    wanted = folded(prefer)
    return next((n for n in names if folded(n) == wanted), names[0])


@dataclass(frozen=True)
class ShippedVmlinux:
    """The kernel image and its kallsyms."""

    image: KernelImage
    symbols: SymbolIndex
    name: str = "vmlinux"

    def candidates(self, name: str) -> tuple[int, ...]:
        return self.symbols.addresses(name)

    @cached_property
    def _folded(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for position, name in enumerate(self.symbols.table.names):
            if "." in name:
                found.setdefault(folded(name), []).append(position)
        return found

    def folded_candidates(self, name: str) -> tuple[int, ...]:
        wanted = folded(name)
        more = (int(self.symbols.table.addresses[p]) for p in self._folded.get(wanted, ()))
        return tuple(sorted({*self.symbols.addresses(wanted), *more}))

    def is_weak(self, name: str) -> bool:
        types = self.symbols.table.types
        return any(chr(types[p]) in "WwVv" for p in self.symbols.positions(name))

    def names_at(self, place: int) -> tuple[str, ...]:
        return self.symbols.at(place)

    def name_at(self, place: int, prefer: str = "") -> Named | None:
        names, start = self.names_at(place), place
        if not names:
            cover = self.symbols.covering(place)
            if cover is None:
                return None
            _, start, _ = cover
            names = self.names_at(start)
        name = best_name(names, prefer)
        return Named(name, self.symbols.sympos(name, start), place - start, False)

    def content(self, place: int, size: int) -> memoryview | None:
        data = self.available(place, size)
        return data if len(data) == size else None

    def available(self, place: int, limit: int) -> memoryview:
        section = self.image.section_at(place)
        if section is None:
            return memoryview(b"")
        return section.data[place - section.addr : place - section.addr + limit]

    def targets(self, place: int, offsets: I64, types: U32) -> tuple[U64, Bool]:
        ends = offsets + np.where((types == R64) | (types == PC64), 8, 4)
        code = self.available(place, int(ends.max()) if len(offsets) else 0)
        known = (offsets >= 0) & (ends <= len(code))
        values = np.zeros(len(offsets), np.uint64)
        values[known] = field_targets(place, code, offsets[known], types[known])
        return values, known

    def stray_relocation(self, place: int, size: int, offsets: I64) -> int | None:
        return None  # linked: no relocations are left

    @cached_property
    def _jumps(self) -> JumpTable:
        extent = self.table("__jump_table")
        if extent is None:
            return JumpTable({})
        raw = self.available(*extent)
        entries = np.frombuffer(raw[: len(raw) // 16 * 16], JUMP_ENTRY)
        at = np.uint64(extent[0]) + np.arange(len(entries), dtype=np.uint64) * 16
        code, target, key = (
            (entries[name].astype(np.int64).astype(np.uint64) + at + shift).tolist()
            for name, shift in (("code", 0), ("target", 4), ("key", 8))
        )
        return JumpTable(dict(zip(code, zip(target, key, strict=True), strict=True)))

    def jump_labels(self, place: int, size: int) -> tuple[int, ...]:
        return self._jumps.within(place, size)

    def jump_entry(self, place: int) -> tuple[int, int] | None:
        return self._jumps.entries.get(place)

    def section_name(self, place: int) -> str:
        section = self.image.section_at(place)
        return section.name if section else ""

    def table(self, section: str) -> tuple[int, int] | None:
        places = [self.symbols.addresses(name) for name in TABLE_BOUNDS.get(section, ())]
        if len(places) != 2 or not all(places):
            return None
        return places[0][0], places[1][0] - places[0][0]
