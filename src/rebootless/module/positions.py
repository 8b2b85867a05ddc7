"""Livepatch positions of names that only the patched code refers to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..elf.constants import Binding
from ..kernel.modules import ModuleImage
from ..kernel.symbols import SymbolIndex
from .resolve import VMLINUX

_NEAR = 40  # symbols looked at on either side for one that says where it is


PERCPU = "A"


@dataclass(frozen=True)
class KernelPositions:
    """Looks names up in the kernel's symbols and in the symbol table of one module.

    Only global symbols count: the patched unit does not define the name, so it can mean no other.
    The position is counted among all namesakes, local ones included, as the kernel counts.
    """

    symbols: SymbolIndex
    module: Callable[[], ModuleImage | None]

    def positions_of(self, object_name: str, name: str) -> tuple[int, ...]:
        """The positions (0: unique) of the global symbols `name` in vmlinux or the module."""
        if object_name == VMLINUX:
            everyone = self.symbols.positions(name)
            types = [chr(int(self.symbols.table.types[p])) for p in everyone]
            chosen = [n for n, t in enumerate(types, 1) if t.isupper() and t != PERCPU]
            # Every per-CPU symbol has the type of an absolute one, global or not.
            chosen = chosen or [n for n, t in enumerate(types, 1) if t == PERCPU]
        else:
            module = self.module()
            if module is None:
                return ()
            everyone = module.namesakes(name)
            binding = module.elf.symbols.binding
            chosen = [n for n, i in enumerate(everyone, 1) if binding[i] != Binding.LOCAL]
        return tuple(0 if len(everyone) == 1 else n for n in chosen)

    def places_of(self, object_name: str, name: str) -> tuple[str, ...]:
        """Where vmlinux or the module has `name`, in words, in the order of positions."""
        if object_name == VMLINUX:
            return tuple(self._place(p) for p in self.symbols.positions(name))
        module = self.module()
        if module is None or module.name != object_name:
            return ()
        table = module.elf.symbols
        return tuple(f"at {int(table.value[i]):#x} of its section" for i in module.namesakes(name))

    def _place(self, position: int) -> str:
        """An address, and the symbols around it, which tell the unit."""
        names, types = self.symbols.table.names, self.symbols.table.types
        near = [
            names[p]
            for step in (-1, 1)
            for p in range(position + step, position + step * _NEAR, step)
            if 0 <= p < len(names) and chr(int(types[p])) in "TD"
        ]
        address = int(self.symbols.table.addresses[position])
        return f"at {address:#x}, near {' and '.join(near[:1] + near[-1:]) or 'nothing global'}"

    def read_only(self, name: str, position: int) -> bool:
        """Whether a symbol of vmlinux is data that is read-only once the kernel has booted.

        `position` is the livepatch position, 0 for a unique name.
        """
        found = self.symbols.addresses(name)
        starts, ends = (
            self.symbols.addresses(f"__{which}_ro_after_init") for which in ("start", "end")
        )
        if len(starts) != 1 or len(ends) != 1 or len(found) < max(position, 1):
            return False
        return starts[0] <= found[max(position, 1) - 1] < ends[0]
