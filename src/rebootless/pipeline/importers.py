"""Who calls what the kernel exports: the modules' files are searched for its names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from ..base.errors import RebootlessError
from ..base.fs import read_bytes
from ..elf.constants import SHN_UNDEF
from ..kernel.modules import load_module, module_files, module_name
from ..match import ShippedModule
from ..match.users import users_of
from .kernel import ShippedKernel


def own_modules(kernel: ShippedKernel) -> dict[str, Path]:
    """The modules that the kernel's package ships, by name."""
    folder = kernel.files.modules
    return {module_name(path): path for path in module_files(folder)} if folder else {}


def importers(
    modules: Mapping[str, Path], symbols: Collection[str]
) -> Iterator[tuple[str, str, str]]:
    """(symbol, function, module) for each function of `modules` that calls one of `symbols`.

    Files that cannot be read, and compressed ones (which would take minutes), are left out. Looking
    through 100 MB takes 0.1 s for each symbol once they are in memory.
    """
    needles = {name: b"\0" + name.encode() + b"\0" for name in symbols}
    for module, path in sorted(modules.items()):
        if path.suffix != ".ko" or not needles:
            continue
        try:
            blob = read_bytes(path)
            wanted = [name for name, needle in needles.items() if needle in blob]
            if not wanted:
                continue
            shipped = ShippedModule(load_module(path))
        except RebootlessError:
            continue
        for name in wanted:
            for function in _callers(shipped, name):
                yield name, function, module


def _callers(shipped: ShippedModule, symbol: str) -> dict[str, None]:
    """The functions of a module that call what it imports as `symbol`."""
    table = shipped.elf.symbols
    places = {
        int(shipped.places[i]) for i in table.by_name.get(symbol, ()) if table.shndx[i] == SHN_UNDEF
    }
    users = (user for place in places for user in users_of(shipped, place))
    return dict.fromkeys(user.name for user in users if user.calls)
