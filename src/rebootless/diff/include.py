"""What goes into the patch: the closure of changed and new functions, as `Piece`s.

Inside the closure a direct call reaches the new code. A *pointer* to a patched function keeps
pointing at the original, where ftrace redirects it: the kernel compares such pointers, and they
outlive the patch module. Everything that is unchanged is referred to in the running kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..elf.constants import Binding, Reloc, SectionFlag, SectionType
from ..elf.insn import is_branch
from ..elf.model import Section
from .correlate import Correlation
from .delta import (
    Finding,
    KernelRef,
    Piece,
    PieceKind,
    PieceRef,
    PieceReloc,
    PieceSymbol,
    TableEntries,
)
from .names import cold_parent, is_init_text, is_special_static
from .normalize import NO_ATOM, POOLED, Atom, Kind, Refs, Unit, table_entries
from .tables import TABLES

_PLAIN_FLAGS = int(SectionFlag.WRITE | SectionFlag.ALLOC | SectionFlag.EXECINSTR)
_PIECE_KIND = {
    Kind.FUNCTION: PieceKind.FUNCTION,
    Kind.SNIPPET: PieceKind.TABLE,
    Kind.DATA: PieceKind.DATA,
    Kind.RODATA: PieceKind.DATA,
    Kind.STRING: PieceKind.CONSTANT,
    Kind.CONSTANT: PieceKind.CONSTANT,
    Kind.TABLE: PieceKind.TABLE,
}


@dataclass(frozen=True)
class Inclusion:
    """The pieces, by which atoms they came from, and what was found on the way."""

    pieces: tuple[Piece, ...]
    piece_of: dict[int, int]
    new_data: tuple[str, ...]
    special: tuple[TableEntries, ...]
    findings: tuple[Finding, ...]


def include(
    orig: Unit,
    patched: Unit,
    correlation: Correlation,
    roots: Iterable[int],
    copied_data: frozenset[int],
) -> Inclusion:
    """Collects everything that the patched atoms `roots` need.

    `copied_data` are correlated constants whose content changed: they are taken along as new.
    """
    includer = _Includer(orig, patched, correlation, copied_data)
    for root in roots:
        includer.add(root)
    includer.drain()
    special = includer.add_tables()
    pieces = tuple(p for p in includer.pieces if p is not None)
    return Inclusion(
        pieces,
        includer.piece_of,
        tuple(sorted(includer.new_data)),
        special,
        tuple(includer.findings),
    )


class _Includer:
    def __init__(
        self,
        orig: Unit,
        patched: Unit,
        correlation: Correlation,
        copied_data: frozenset[int],
    ) -> None:
        self.orig, self.patched = orig, patched
        self.correlation = correlation
        self.copied_data = copied_data
        self.pieces: list[Piece | None] = []
        self.piece_of: dict[int, int] = {}
        self.new_data: set[str] = set()
        self.findings: list[Finding] = []
        self._queue: list[int] = []
        self._by_content: dict[tuple[Kind, bytes], int] = {}

    def add(self, index: int) -> int:
        """Includes an atom (once) and returns its piece's index; its content follows in drain."""
        known = self.piece_of.get(index)
        if known is not None:
            return known
        atom = self.patched.atoms[index]
        if atom.kind in POOLED:
            content = (atom.kind, self.patched.data(atom))
            if content in self._by_content:
                self.piece_of[index] = self._by_content[content]
                return self.piece_of[index]
            self._by_content[content] = len(self.pieces)
        self.piece_of[index] = len(self.pieces)
        self.pieces.append(None)
        self._queue.append(index)
        return self.piece_of[index]

    def drain(self) -> None:
        """Builds the pieces of all atoms added so far, and of those that they need."""
        while self._queue:
            index = self._queue.pop()
            self.pieces[self.piece_of[index]] = self._build(self.patched.atoms[index])

    def _build(self, atom: Atom) -> Piece:
        unit = self.patched
        section = unit.section(atom)
        refs = unit.refs_of(atom)
        relocs = tuple(
            PieceReloc(
                int(refs.offset[k]) - atom.start,
                int(refs.type[k]),
                self._target(atom, refs, k),
                int(refs.addend[k]),
            )
            for k in range(len(refs.offset))
        )
        pooled = atom.kind in POOLED
        return Piece(
            _PIECE_KIND[atom.kind],
            atom.name,
            _output_section(atom, section),
            int(SectionType.PROGBITS) if pooled else section.type,
            int(SectionFlag.ALLOC) if pooled else section.flags & _PLAIN_FLAGS,
            section.align if atom.kind is not Kind.SNIPPET else 1,
            0,
            b"" if section.type == SectionType.NOBITS else unit.data(atom),
            atom.size,
            self._symbols(atom),
            relocs,
        )

    def _symbols(self, atom: Atom) -> tuple[PieceSymbol, ...]:
        table = self.patched.elf.symbols
        is_new = self.correlation.to_orig[atom.index] == NO_ATOM
        return tuple(
            PieceSymbol(
                table.names[s],
                int(table.value[s]) - atom.start,
                int(table.size[s]),
                int(table.type[s]),
                bool(is_new and table.binding[s] != Binding.LOCAL),
            )
            for s in atom.symbols
        )

    def _target(self, user: Atom, refs: Refs, k: int) -> PieceRef | KernelRef:
        """Where the k-th of `refs`, which `user` holds, is to point."""
        index = int(refs.atom[k])
        if index == NO_ATOM:
            return self._external(int(refs.symbol[k]))
        atom = self.patched.atoms[index]
        if atom.kind is Kind.FUNCTION:
            return self._function_target(user, atom, refs, k)
        if atom.kind in (Kind.DATA, Kind.RODATA):
            return self._data_target(user, atom)
        if atom.kind is Kind.TABLE:
            self._find("unsupported-reference", user.name, f"refers to the section {atom.name}")
        return PieceRef(self.add(index))

    def _external(self, symbol: int) -> KernelRef:
        table = self.patched.elf.symbols
        name = table.names[symbol]
        known = self.orig.elf.symbols.by_name.get(name, ())
        return KernelRef(
            name,
            known[0] if known else None,
            defined=False,
            is_global=True,
            is_weak=table.binding[symbol] == Binding.WEAK,
        )

    def _function_target(self, user: Atom, atom: Atom, refs: Refs, k: int) -> PieceRef | KernelRef:
        original = int(self.correlation.to_orig[atom.index])
        if original == NO_ATOM or _is_cold_part_of(atom, user):
            return PieceRef(self.add(atom.index))
        if atom.index not in self.piece_of:
            return self._in_kernel(original)
        section = self.patched.section(user)
        relative = section.is_exec and int(refs.type[k]) in (Reloc.PC32, Reloc.PLT32)
        at_start = int(refs.addend[k]) == (-4 if relative else 0)
        direct = relative and is_branch(section.data, int(refs.offset[k]))
        pointer = at_start and not direct and user.kind is not Kind.TABLE
        return self._in_kernel(original) if pointer else PieceRef(self.piece_of[atom.index])

    def _data_target(self, user: Atom, atom: Atom) -> PieceRef | KernelRef:
        section = self.patched.section(atom)
        original = int(self.correlation.to_orig[atom.index])
        if is_special_static(atom.name, section.name) or atom.index in self.copied_data:
            return PieceRef(self.add(atom.index))
        if original != NO_ATOM:
            if self.orig.atoms[original].symbols:
                return self._in_kernel(original)
            if atom.kind is Kind.RODATA:
                return PieceRef(self.add(atom.index))  # a switch table: it belongs to its user
            self._find("anonymous-data", user.name, f"uses unnamed data in {section.name}")
        elif section.name.startswith(".data..percpu"):
            self._find(
                "percpu-data",
                atom.name,
                f"new per-CPU variable '{atom.name}' cannot be added by a live patch",
            )
        elif is_init_text(section.name) or section.name.startswith(".init."):
            self._find("init-data", atom.name, f"'{atom.name}' is __init data, freed after boot")
        elif atom.symbols:
            self.new_data.add(atom.name)
        return PieceRef(self.add(atom.index))

    def _in_kernel(self, original: int) -> KernelRef:
        atom = self.orig.atoms[original]
        symbol = atom.symbols[0]
        table = self.orig.elf.symbols
        binding = int(table.binding[symbol])
        return KernelRef(
            table.names[symbol],
            symbol,
            defined=True,
            is_global=binding != Binding.LOCAL,
            is_weak=binding == Binding.WEAK,
        )

    def _find(self, code: str, symbol: str, message: str) -> None:
        finding = Finding(code, symbol, message)
        if finding not in self.findings:
            self.findings.append(finding)

    def add_tables(self) -> tuple[TableEntries, ...]:
        """Includes the special sections' entries of the included code.

        Alternatives come first: their replacements are code that other tables describe too.
        """
        counts = []
        order = sorted(
            (s for s in self.patched.elf.sections if s.name in TABLES),
            key=lambda s: s.name != ".altinstructions",
        )
        for section in order:
            count = self._add_table(section)
            self.drain()
            if count:
                counts.append(TableEntries(section.name, count))
        return tuple(sorted(counts, key=lambda t: t.section))

    def _add_table(self, section: Section) -> int:
        size, owners, _, refs = table_entries(self.patched, section)
        if size == 0:
            return 0
        firsts = np.nonzero(refs.offset % size == 0)[0].tolist()
        chosen = [n for n, owner in enumerate(owners.tolist()) if owner in self.piece_of]
        if not chosen:
            return 0
        user = next(a for a in self.patched.atoms if a.section == section.index)
        data, relocs = bytearray(), []
        for n in chosen:
            start = int(refs.offset[firsts[n]])
            stop = firsts[n + 1] if n + 1 < len(firsts) else len(refs.offset)
            for k in range(firsts[n], stop):
                target = self._target(user, refs, k)
                at = len(data) + int(refs.offset[k]) - start
                relocs.append(PieceReloc(at, int(refs.type[k]), target, int(refs.addend[k])))
            data += bytes(section.data[start : start + size]).ljust(size, b"\0")
        self._append_table(section, size, bytes(data), tuple(relocs))
        companion = TABLES[section.name].companion
        if companion:
            self._add_companion(companion, chosen, len(firsts))
        return len(chosen)

    def _add_companion(self, name: str, chosen: list[int], entries: int) -> None:
        section = self.patched.elf.section_by_name[name]
        size = section.size // entries
        data = b"".join(bytes(section.data[n * size : (n + 1) * size]) for n in chosen)
        self._append_table(section, size, data, ())

    def _append_table(
        self, section: Section, size: int, data: bytes, relocs: tuple[PieceReloc, ...]
    ) -> None:
        self.pieces.append(
            Piece(
                PieceKind.TABLE,
                section.name,
                section.name,
                section.type,
                section.flags & _PLAIN_FLAGS,
                section.align,
                size,
                data,
                len(data),
                (),
                relocs,
            )
        )


def _is_cold_part_of(atom: Atom, user: Atom) -> bool:
    parent = cold_parent(atom.name)
    return parent is not None and parent == user.name


def _output_section(atom: Atom, section: Section) -> str:
    if atom.kind is Kind.FUNCTION:
        prefix = ".text.unlikely." if section.name.startswith(".text.unlikely") else ".text."
        return prefix + (atom.name or "anonymous")
    if atom.kind in POOLED:
        return f".rodata.str.{section.align}" if atom.kind is Kind.STRING else section.name
    return section.name
