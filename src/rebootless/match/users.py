"""What in a shipped kernel or module calls a function, or holds its address.

Calls by code that runs at boot or load only do not count, but an address that it takes does: it has
been stored somewhere. In linked code a call is a field whose value leads to the function; 4 bytes
that do so by chance, behind a byte that looks like a call, are too rare to matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..elf.constants import Reloc, SectionType
from ..elf.insn import is_branch
from ..elf.model import Section
from .shipped import Shipped, ShippedVmlinux
from .shipped_module import ShippedModule

BOOT_CODE = (".init.text", ".exit.text")
# Read at boot or load only, or lists of functions that say nothing about how they are called.
NOT_CODE = (
    ".init.", ".exit.", ".altinstr", "__mcount_loc", "__ksymtab", "_kprobe_blacklist",
    "_error_injection", ".discard", ".orc", ".rela",
)  # fmt: skip
CALL, JUMP, FIELD = 0xE8, 0xE9, 4
Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class User:
    """A function or variable, by name and place; `calls` tells a call or jump from an address."""

    name: str
    place: int
    calls: bool


def users_of(shipped: Shipped, place: int) -> tuple[User, ...]:
    """Everything that refers to the function at `place`, each once, by place (0.1 s in vmlinux)."""
    if isinstance(shipped, ShippedVmlinux):
        found = _in_image(shipped, place)
    elif isinstance(shipped, ShippedModule):
        found = _in_module(shipped, place)
    else:
        return ()
    users = {_user(shipped, at, calls) for at, calls in found}
    return tuple(sorted((u for u in users if u.place != place), key=lambda u: (u.place, u.calls)))


def _user(shipped: Shipped, at: int, calls: bool) -> User:
    named = shipped.name_at(at)
    return User(named.name, at - named.offset, calls) if named else User(hex(at), at, calls)


def _lasts(section: Section) -> bool:
    return (
        section.is_alloc
        and section.type != SectionType.NOBITS
        and (section.name.startswith(BOOT_CODE) or not section.name.startswith(NOT_CODE))
    )


def _in_image(shipped: ShippedVmlinux, place: int) -> Iterator[tuple[int, bool]]:
    """Where the linked kernel refers to `place`."""
    for section in shipped.image.elf.sections:
        if not _lasts(section):
            continue
        if section.is_exec:
            if not section.name.startswith(BOOT_CODE):
                yield from ((section.addr + at, True) for at in _branches(section, place))
            pattern, step = (place & 0xFFFFFFFF).to_bytes(4, "little"), 1
        else:
            pattern, step = place.to_bytes(8, "little"), 8
        data = bytes(section.data)
        at = data.find(pattern)
        while at >= 0:
            if at % step == 0:
                yield section.addr + at, False
            at = data.find(pattern, at + 1)


def _branches(section: Section, place: int) -> list[int]:
    """The offsets of the fields of calls and jumps to `place`."""
    raw = np.frombuffer(section.data, np.uint8)
    if len(raw) <= FIELD:
        return []
    ends = len(raw) - FIELD
    head = raw[:ends]
    opcodes = np.nonzero((head == CALL) | (head == JUMP) | (head & 0xF0 == 0x80))[0]
    fields: Places = opcodes.astype(np.int64) + 1
    # The low byte first: it leaves one in 256 to be read in full.
    wanted = place - section.addr - FIELD
    fields = fields[raw[fields] == ((wanted - fields) & 0xFF)]
    words = raw[fields[:, None] + np.arange(FIELD)].reshape(-1).view(np.int32)
    fields = fields[words.astype(np.int64) == wanted - fields]
    return [at for at in fields.tolist() if is_branch(section.data, at)]


def _in_module(shipped: ShippedModule, place: int) -> Iterator[tuple[int, bool]]:
    """Where a module's relocations refer to `place`."""
    for section in shipped.elf.sections:
        refs = shipped.elf.relocations(section)
        base = shipped.base_of(section.index)
        if not len(refs) or base is None or not _lasts(section):
            continue
        relative = np.isin(refs.type, (Reloc.PC32, Reloc.PLT32))
        if not section.is_exec and bool(relative.all()):
            continue
        targets = shipped.places[refs.symbol].astype(np.int64) + refs.addend
        targets += np.where(relative, FIELD, 0)
        for k in np.nonzero((targets == place) & (section.is_exec | ~relative))[0].tolist():
            at = int(refs.offset[k])
            calls = bool(relative[k]) and is_branch(section.data, at)
            if not (calls and section.name.startswith(BOOT_CODE)):
                yield base + at, calls
