"""Livepatch positions of names that only the patched code refers to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..elf.constants import Binding
from ..kernel.modules import ModuleImage
from ..kernel.symbols import SymbolIndex
from .resolve import VMLINUX


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
            types = self.symbols.table.types
            chosen = [n for n, p in enumerate(everyone, 1) if chr(int(types[p])).isupper()]
        else:
            module = self.module()
            if module is None:
                return ()
            everyone = module.namesakes(name)
            binding = module.elf.symbols.binding
            chosen = [n for n, i in enumerate(everyone, 1) if binding[i] != Binding.LOCAL]
        return tuple(0 if len(everyone) == 1 else n for n in chosen)
