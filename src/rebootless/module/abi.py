"""The proof for `struct module`: ours is laid out as in the modules that the kernel ships.

The structure depends on the configuration, and its CRC (`module_layout`) comes from a file, so the
kernel would not notice another layout: it would call the wrong function when the patch is unloaded.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..base.errors import MismatchError
from ..elf.model import ElfFile
from ..kernel.modules import ModuleImage

SECTION = ".gnu.linkonce.this_module"
TRIES = 50  # shipped modules to look at for one that can be unloaded


def check_abi(ours: ElfFile, shipped: Iterable[ModuleImage]) -> None:
    """Compares size and function fields of `struct module`. Raises MismatchError.

    Compared with the first shipped module that has an init and an exit function; with none at
    hand (a kernel of the user's own without its modules) nothing is proven.
    """
    mine = module_layout(ours)
    for module, _ in zip(shipped, range(TRIES), strict=False):
        theirs = module_layout(module.elf)
        if theirs is None or len(theirs[1]) < 2:
            continue
        if mine != theirs:
            raise MismatchError(
                f"struct module is laid out otherwise than in the shipped module {module.name}: "
                f"{_shown(mine)} here, {_shown(theirs)} there",
                hint="the source was prepared with another configuration than the kernel's own",
            )
        return


def module_layout(elf: ElfFile) -> tuple[int, dict[str, int]] | None:
    """(size of struct module, offsets of its init and exit fields); None without the section."""
    section = elf.section_by_name.get(SECTION)
    if section is None:
        return None
    relocs = elf.relocations(section)
    fields = {
        elf.symbols.names[int(symbol)]: int(offset)
        for symbol, offset in zip(relocs.symbol, relocs.offset, strict=True)
    }
    wanted = ("init_module", "cleanup_module")
    return section.size, {name: fields[name] for name in wanted if name in fields}


def _shown(layout: tuple[int, dict[str, int]] | None) -> str:
    if layout is None:
        return "nothing"
    return f"{layout[0]} bytes, " + ", ".join(f"{n} at {o}" for n, o in layout[1].items())
