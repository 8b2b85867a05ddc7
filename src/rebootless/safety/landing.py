"""Landing pads: whether the functions that a patch takes the address of can be called by it.

A kernel with IBT begins functions with `endbr64`, and a call through a pointer that leads to
anything else is a fault that ends the kernel. The compiler leaves the pad out where a static
function's address is never taken. When the kernel was linked, objtool listed the functions to which
no pointer leads (.ibt_endbr_seal), and their pads are overwritten at boot or load ("x86/ibt,
objtool: Add IBT validation / fixups"). So a pointer that no code of the kernel has taken before may
lead to a function that is good for direct calls only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..diff.atoms import NO_ATOM, Atom, Kind, Unit
from ..diff.delta import Finding, KernelRef, Piece, PieceKind
from ..elf.constants import PC_RELATIVE, SectionFlag
from ..elf.insn import is_branch
from ..kernel.image import KernelImage
from ..kernel.modules import ModuleImage
from ..kernel.symbols import SymbolIndex
from .entries import ENDBR

SEALED = ".ibt_endbr_seal"
_START, _STOP = "__ibt_endbr_seal", "__ibt_endbr_seal_end"
_ENTRY = 4  # bytes: the distance to a function
_TRAMPOLINE = "__SCT__"  # of a static call: the key holds its address, and it is called directly


@dataclass(frozen=True)
class ImagePads:
    """The landing pads of vmlinux."""

    image: KernelImage
    symbols: SymbolIndex

    @cached_property
    def _sealed(self) -> frozenset[int]:
        start, stop = (self.symbols.addresses(name) for name in (_START, _STOP))
        if len(start) != 1 or len(stop) != 1:
            return frozenset()
        size = (stop[0] - start[0]) // _ENTRY * _ENTRY
        entries = np.frombuffer(self.image.read(start[0], size), "<i4").astype(np.int64)
        places = entries.astype(np.uint64) + np.arange(len(entries), dtype=np.uint64) * _ENTRY
        return frozenset((places + np.uint64(start[0])).tolist())

    def lands(self, name: str, sympos: int) -> bool | None:
        """Whether a pointer may lead to a function; None if it is none, or is not there."""
        places = self.symbols.addresses(name)
        if not max(sympos, 1) <= len(places):
            return None
        place = places[max(sympos, 1) - 1]
        section = self.image.section_at(place)
        if section is None or not section.flags & SectionFlag.EXECINSTR:
            return None
        pad = bytes(section.data[place - section.addr : place - section.addr + len(ENDBR)])
        return pad == ENDBR and place not in self._sealed


@dataclass(frozen=True)
class ModulePads:
    """The landing pads of a shipped module."""

    module: ModuleImage

    @cached_property
    def _sealed(self) -> frozenset[tuple[int, int]]:
        elf, found = self.module.elf, set()
        for section in elf.sections_named(SEALED):
            relocs = elf.relocations(section)
            for symbol, addend in zip(relocs.symbol.tolist(), relocs.addend.tolist(), strict=True):
                place = int(elf.symbols.value[symbol]) + addend
                found.add((int(elf.symbols.shndx[symbol]), place))
        return frozenset(found)

    def lands(self, name: str, sympos: int) -> bool | None:
        """See ImagePads."""
        namesakes = self.module.namesakes(name)
        if not max(sympos, 1) <= len(namesakes):
            return None
        elf = self.module.elf
        symbol = elf.symbols[namesakes[max(sympos, 1) - 1]]
        if symbol.shndx >= len(elf.sections) or not elf.sections[symbol.shndx].is_exec:
            return None
        code, start = elf.sections[symbol.shndx].data, symbol.value
        is_pad = bytes(code[start : start + len(ENDBR)]) == ENDBR
        return is_pad and (symbol.shndx, start) not in self._sealed


def check_pointers(
    pieces: Sequence[Piece], orig: Unit, lands: Callable[[KernelRef], bool | None]
) -> tuple[Finding, ...]:
    """The kernel's functions that `pieces` take the address of, and that no pointer may lead to.

    What the shipped unit takes the address of as well, objtool saw when the kernel was linked.
    """
    known = frozenset(name for _, name, _ in _pointers(orig))
    found: dict[Finding, None] = {}
    for piece in pieces:
        for ref in _taken(piece):
            if ref.name not in known and lands(ref) is False:
                found[_finding(ref.name, piece.name)] = None
    return tuple(found)


def _taken(piece: Piece) -> Iterator[KernelRef]:
    """What of the kernel a piece takes the address of; tables only tell places and targets."""
    is_code = bool(piece.flags & SectionFlag.EXECINSTR)
    if piece.kind is PieceKind.TABLE and not is_code:
        return
    for reloc in piece.relocs:
        if not isinstance(reloc.target, KernelRef) or reloc.target.name.startswith(_TRAMPOLINE):
            continue
        if _is_pointer(is_code, piece.data, reloc.offset, reloc.type, reloc.addend):
            yield reloc.target


def _is_pointer(
    is_code: bool, code: bytes | memoryview, offset: int, kind: int, addend: int
) -> bool:
    """Whether a relocated field is the address of something, and not where code goes on."""
    relative = kind in PC_RELATIVE
    if not is_code:
        return not relative and not addend
    return not is_branch(code, offset) if relative else not addend


def missing_pads(module: Unit) -> tuple[str, ...]:
    """The functions of a linked module that it takes the address of, and that have no pad.

    Each is told with what refers to it: "f (in table)".
    """
    return tuple(
        f"{target.name} (in {user.name})"
        for user, name, target in _pointers(module)
        if target is not None
        and not name.startswith(_TRAMPOLINE)
        and not module.data(target).startswith(ENDBR)
    )


def _pointers(unit: Unit) -> Iterator[tuple[Atom, str, Atom | None]]:
    """(user, name, function) for each symbol whose address the code or data of an object takes;
    the function is None where another object defines it."""
    for atom in unit.atoms:
        if atom.kind is Kind.TABLE or unit.is_passive(atom):
            continue
        refs, section = unit.refs_of(atom), unit.section(atom)
        for k in range(len(refs.offset)):
            offset, kind, index = int(refs.offset[k]), int(refs.type[k]), int(refs.atom[k])
            addend = int(refs.addend[k])
            if index != NO_ATOM and kind in PC_RELATIVE and addend != -4:
                continue  # a place within it
            if not _is_pointer(section.is_exec, section.data, offset, kind, addend):
                continue
            if index == NO_ATOM:
                yield atom, unit.elf.symbols.names[int(refs.symbol[k])], None
            elif (target := unit.atoms[index]).kind is Kind.FUNCTION:
                yield atom, target.name, target


def _finding(name: str, user: str) -> Finding:
    return Finding(
        "no-landing-pad",
        name,
        f"'{user}' takes the address of '{name}', to which no pointer leads in the shipped kernel: "
        "with CONFIG_X86_KERNEL_IBT a call through one would end the kernel; point to a new "
        f"function of the patch that calls '{name}'",
    )
