"""The special sections' entries of the included code, and what those need in turn."""

from __future__ import annotations

from typing import Protocol

from ..base.errors import ElfError
from ..elf.constants import SectionFlag
from ..elf.model import Section
from .atoms import Atom, Entries, Kind, Refs, Unit, is_inside
from .constants import loaded, variable_of
from .delta import KernelRef, Piece, PieceKind, PieceRef, PieceReloc, TableEntries
from .names import is_sanitizer_data
from .tables import ALTERNATIVES, CONSTANTS, TABLES

PLAIN_FLAGS = int(SectionFlag.WRITE | SectionFlag.ALLOC | SectionFlag.EXECINSTR)


class Closure(Protocol):
    """What is needed of the closure of included code: see include.py."""

    pieces: list[Piece | None]
    piece_of: dict[int, int]

    @property
    def patched(self) -> Unit: ...
    def target(self, user: Atom, refs: Refs, k: int) -> PieceRef | KernelRef: ...
    def variable(self, name: str) -> PieceRef | KernelRef: ...
    def drain(self) -> None: ...
    def find(self, code: str, symbol: str, message: str) -> None: ...


def add_tables(closure: Closure) -> tuple[TableEntries, ...]:
    """Includes the special sections' entries of the included code.

    An entry may need code that has entries itself (a replacement, the default of a static
    call), in any section: so first all is collected that entries need, then they are built.
    """
    tables = closure.patched.tables
    before = -1
    while before != len(closure.piece_of):
        before = len(closure.piece_of)
        for entries in tables:
            user = _table_atom(closure, entries)
            for n in _chosen(closure, entries):
                for k in entries.relocs_of(n):
                    closure.target(user, entries.refs, k)
        closure.drain()
    counts = [
        TableEntries(entries.section.name, count)
        for entries in sorted(tables, key=lambda e: e.section.name != ALTERNATIVES)
        if (count := _add_table(closure, entries))
    ]
    _check_unknown_sections(closure)
    return tuple(sorted(counts, key=lambda t: t.section))


def _chosen(closure: Closure, entries: Entries) -> list[int]:
    return [n for n, owner in enumerate(entries.owner.tolist()) if owner in closure.piece_of]


def _table_atom(closure: Closure, entries: Entries) -> Atom:
    index = entries.section.index
    return next(a for a in closure.patched.atoms if a.section == index)


def _check_unknown_sections(closure: Closure) -> None:
    """A table of a kind that is not known here, with entries for included code.

    An entry with a name counts if it is about a place within a function: a pointer to a function as
    a whole may keep to the original, which leads to the new one.
    """
    unit = closure.patched
    for atom in unit.atoms:
        if atom.kind not in (Kind.DATA, Kind.RODATA) or atom.section not in unit.refs:
            continue
        if atom.index in closure.piece_of or unit.is_passive(atom):
            continue
        if is_sanitizer_data(unit.section(atom).name):  # of code that is left out
            continue
        refs = unit.refs_of(atom)
        for target, addend in zip(refs.atom.tolist(), refs.addend.tolist(), strict=True):
            if target not in closure.piece_of:
                continue
            name, section = unit.atoms[target].name, unit.section(atom).name
            if not atom.symbols or is_inside(unit.atoms[target], addend):
                closure.find(
                    "unsupported-section",
                    section,
                    f"section '{section}' has entries for '{name}', and what they mean is not "
                    "known: patch a function that calls it",
                )


def _settle_constants(closure: Closure, entries: Entries, chosen: list[int]) -> None:
    """Constants that the kernel fills in at boot become loads; they need no table."""
    variable = variable_of(entries)
    for n in chosen:
        owner, place = int(entries.owner[n]), int(entries.place[n])
        piece = closure.pieces[closure.piece_of[owner]]
        assert piece is not None
        settled = loaded(piece, place, closure.variable(variable)) if variable else None
        if settled is None:
            closure.find(
                "boot-constant",
                piece.name,
                f"'{piece.name}' has a constant that the kernel writes into its code at boot "
                f"(section '{entries.section.name}'), which it does not do for modules: patch a "
                "function that calls it",
            )
        else:
            closure.pieces[closure.piece_of[owner]] = settled


def _add_table(closure: Closure, entries: Entries) -> int:
    section, chosen = entries.section, _chosen(closure, entries)
    if not chosen:
        return 0
    if section.name.startswith(CONSTANTS):
        _settle_constants(closure, entries, chosen)
        return len(chosen)
    user = _table_atom(closure, entries)
    data, relocs = bytearray(), []
    for n in chosen:
        for k in entries.relocs_of(n):
            target = closure.target(user, entries.refs, k)
            at = len(data) + int(entries.refs.offset[k]) - n * entries.size
            kind, addend = int(entries.refs.type[k]), int(entries.refs.addend[k])
            relocs.append(PieceReloc(at, kind, target, addend))
        data += entries.data(n)
    _append_table(closure, section, entries.size, bytes(data), tuple(relocs))
    companion = TABLES[section.name].companion
    if companion:
        _add_companion(closure, companion, chosen, entries)
    return len(chosen)


def _add_companion(closure: Closure, name: str, chosen: list[int], entries: Entries) -> None:
    section = closure.patched.elf.section_by_name.get(name)
    size = section.size // len(entries) if section else 0
    if section is None or not size or section.size != size * len(entries):
        raise ElfError(
            f"{closure.patched.elf.name}: section '{name}' has not one entry for each of section "
            f"{entries.section.label}"
        )
    data = b"".join(bytes(section.data[n * size : (n + 1) * size]) for n in chosen)
    _append_table(closure, section, size, data, ())


def _append_table(
    closure: Closure, section: Section, size: int, data: bytes, relocs: tuple[PieceReloc, ...]
) -> None:
    closure.pieces.append(
        Piece(
            PieceKind.TABLE,
            section.name,
            section.name,
            section.type,
            section.flags & PLAIN_FLAGS,
            section.align,
            size,
            data,
            len(data),
            (),
            relocs,
        )
    )
