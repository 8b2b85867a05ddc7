"""Questions to the kernel's symbol table: where is a name, what is at an address, which of many."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..base.errors import NotFoundError
from .kallsyms import Kallsyms


@dataclass(frozen=True)
class SymbolIndex:
    """Look-ups over a `Kallsyms`; addresses are the link-time ones of the image."""

    table: Kallsyms

    @cached_property
    def _by_name(self) -> dict[str, int | list[int]]:
        """Table positions by name; a plain number for the 99 % that are unique."""
        found: dict[str, int | list[int]] = {}
        for position, name in enumerate(self.table.names):
            known = found.setdefault(name, position)
            if isinstance(known, list):
                known.append(position)
            elif known != position:
                found[name] = [known, position]
        return found

    def positions(self, name: str) -> tuple[int, ...]:
        """The table positions of `name`, ascending (empty when there is none)."""
        found = self._by_name.get(name, ())
        return (found,) if isinstance(found, int) else tuple(found)

    def addresses(self, name: str) -> tuple[int, ...]:
        """Every address of `name`, ascending, one per entry (empty when there is none)."""
        return tuple(int(self.table.addresses[p]) for p in self.positions(name))

    def sympos(self, name: str, address: int) -> int:
        """Livepatch's position of a symbol: 0 when its name is unique, else counted from 1.

        All entries of the name count, local and global, in table order. Raises NotFoundError when
        no entry of the name has that address.
        """
        addresses = self.addresses(name)
        if address not in addresses:
            raise NotFoundError(f"the kernel has no symbol '{name}' at {address:#x}")
        return addresses.index(address) + 1 if len(addresses) > 1 else 0

    def at(self, address: int) -> tuple[str, ...]:
        """The names at exactly `address`, in table order."""
        first, last = self._range(address)
        return self.table.names[first:last]

    def covering(self, address: int) -> tuple[str, int, int] | None:
        """The (name, start, offset) of the symbol that starts last at or before `address`.

        Of several at one address the first in the table is named, as the kernel does in its
        traces. None before the first symbol.
        """
        _, last = self._range(address)
        if last == 0:
            return None
        start = int(self.table.addresses[last - 1])
        first, _ = self._range(start)
        return self.table.names[first], start, address - start

    def end_of(self, address: int) -> int | None:
        """Where the symbol that covers `address` ends: the next higher symbol address, or None."""
        _, last = self._range(address)
        return int(self.table.addresses[last]) if last < len(self.table) else None

    def _range(self, address: int) -> tuple[int, int]:
        wanted = np.uint64(address & 0xFFFFFFFFFFFFFFFF)
        first = np.searchsorted(self.table.addresses, wanted, "left")
        return int(first), int(np.searchsorted(self.table.addresses, wanted, "right"))
