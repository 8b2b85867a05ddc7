"""What a hand-written patch says of itself, out of its object (kmod/rebootless_patch.h)."""

from __future__ import annotations

from dataclasses import dataclass

from ..base.errors import ElfError
from ..elf.model import ElfFile

SECTION = ".rebootless.patch"


@dataclass(frozen=True)
class PatchRecord:
    """The function `new` of the object takes the place of `old` in `object`."""

    object: str
    old: str
    new: str


@dataclass(frozen=True)
class SymbolRecord:
    """The undefined symbol `identifier` means `name` in `object`; `position` 0: it is unique."""

    object: str
    identifier: str
    name: str
    position: int


@dataclass(frozen=True)
class Records:
    """All records of an object."""

    patches: tuple[PatchRecord, ...]
    symbols: tuple[SymbolRecord, ...]


def read_records(elf: ElfFile) -> Records:
    """The records of an object; empty for an ordinary one. Raises ElfError for malformed ones."""
    patches: list[PatchRecord] = []
    symbols: list[SymbolRecord] = []
    for section in elf.sections_named(SECTION):
        for raw in filter(None, bytes(section.data).split(b"\0")):
            match raw.decode(errors="replace").split("|"):
                case ["patch", owner, old, new]:
                    patches.append(PatchRecord(_object(owner), old, new))
                case ["symbol", owner, identifier, name, position] if position.isdigit():
                    record = SymbolRecord(_object(owner), identifier, name, int(position))
                    symbols.append(record)
                case ["unit", _]:
                    pass
                case _:
                    raise ElfError(f"{elf.name}: '{raw.decode(errors='replace')}' is no record")
    return Records(tuple(patches), tuple(symbols))


def _object(name: str) -> str:
    """A module is named with underscores, whatever its file is called."""
    return name.strip().replace("-", "_")
