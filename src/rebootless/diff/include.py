"""What goes into the patch: the closure of changed and new functions, as `Piece`s.

Inside the closure a direct call reaches the new code. A *pointer* to a patched function keeps
pointing at the original, where ftrace redirects it: the kernel compares such pointers, and they
outlive the patch module. Everything that is unchanged is referred to in the running kernel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..elf.constants import (
    SHN_UNDEF,
    Binding,
    Reloc,
    SectionFlag,
    SectionType,
)
from ..elf.insn import is_branch
from ..elf.model import Section
from .atoms import NO_ATOM, POOLED, Atom, Kind, Refs, Unit, is_inside
from .compare import target_name
from .correlate import Correlation
from .delta import (
    Finding,
    FunctionChange,
    KernelRef,
    Piece,
    PieceKind,
    PieceRef,
    PieceReloc,
    PieceSymbol,
    TableEntries,
)
from .entries import PLAIN_FLAGS, add_tables
from .names import (
    PERCPU,
    cold_parent,
    fold,
    is_boot_only,
    is_percpu,
    is_special_static,
    is_specially_mapped,
)
from .refused_relocs import relocation_finding

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
    includer = Includer(orig, patched, correlation, copied_data)
    for root in roots:
        atom = patched.atoms[root]
        if atom.kind is not Kind.FUNCTION:
            includer.judge_new_data(atom.name, atom)
        includer.add(root)
    includer.drain()
    special = add_tables(includer)
    pieces = tuple(p for p in includer.pieces if p is not None)
    return Inclusion(
        pieces,
        includer.piece_of,
        tuple(sorted(includer.new_data)),
        special,
        tuple(includer.findings),
    )


class Includer:
    """The closure in the making: pieces, by the atoms they come from."""

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
        self._functions = {a.name: a.index for a in patched.atoms if a.kind is Kind.FUNCTION}
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
                self.target(atom, refs, k),
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
            int(SectionFlag.ALLOC) if pooled else section.flags & PLAIN_FLAGS,
            section.align if atom.kind is not Kind.SNIPPET else 1,
            0,
            b"" if section.type == SectionType.NOBITS else unit.data(atom),
            atom.size,
            self._symbols(atom),
            relocs,
            bytes(section.data[atom.start - atom.prefix : atom.start]),
        )

    def _symbols(self, atom: Atom) -> tuple[PieceSymbol, ...]:
        table = self.patched.elf.symbols
        is_new = self.correlation.to_orig[atom.index] == NO_ATOM
        is_shared = self.patched.section(atom).is_grouped  # other units may have it as well
        return tuple(
            PieceSymbol(
                table.names[s],
                int(table.value[s]) - atom.start,
                int(table.size[s]),
                int(table.type[s]),
                bool(is_new and table.binding[s] != Binding.LOCAL) and not is_shared,
            )
            for s in atom.symbols
        )

    def target(self, user: Atom, refs: Refs, k: int) -> PieceRef | KernelRef:
        """Where the k-th of `refs`, which `user` holds, is to point."""
        index = int(refs.atom[k])
        name = target_name(self.patched, refs.atom, refs.symbol, k)
        if found := relocation_finding(int(refs.type[k]), user.name, name):
            self.note(found)
        if index == NO_ATOM:
            return self._external(int(refs.symbol[k]))
        atom = self.patched.atoms[index]
        if (weak := self._weak(atom, int(refs.symbol[k]))) is not None:
            return weak
        if atom.kind is Kind.FUNCTION:
            return self._function_target(user, atom, refs, k)
        if atom.kind in (Kind.DATA, Kind.RODATA):
            return self._data_target(user, atom)
        if atom.kind is Kind.TABLE:
            self.find("unsupported-reference", user.name, f"refers to the section {atom.name}")
        return PieceRef(self.add(index))

    def variable(self, name: str) -> PieceRef | KernelRef:
        """The variable `name` of the unit, or of the kernel, which no relocation need refer to."""
        for symbol in self.patched.elf.symbols.by_name.get(name, ()):
            for atom in self.patched.atoms:
                if symbol in atom.symbols:
                    return self._data_target(atom, atom)
        known = self.orig.elf.symbols.by_name.get(name, ())
        return KernelRef(name, known[0] if known else None, defined=False, is_global=True)

    def _external(self, symbol: int) -> KernelRef:
        table = self.patched.elf.symbols
        name = table.names[symbol]
        if not name or int(table.shndx[symbol]) != SHN_UNDEF:
            self.find(
                "unsupported-symbol",
                name,
                f"the symbol '{name}' is neither defined in a section nor undefined (common, "
                "absolute or unnamed): define it as an ordinary variable",
            )
        known = self.orig.elf.symbols.by_name.get(name, ())
        return KernelRef(
            name,
            known[0] if known else None,
            defined=False,
            is_global=True,
            is_weak=bool(table.binding[symbol] == Binding.WEAK),
        )

    def _weak(self, atom: Atom, symbol: int) -> KernelRef | None:
        """A weak symbol of the original: the kernel may have another unit's definition of it."""
        table = self.patched.elf.symbols
        if table.binding[symbol] != Binding.WEAK or int(table.value[symbol]) != atom.start:
            return None
        known = self.orig.elf.symbols.by_name.get(table.names[symbol], ())
        is_old = known and self.orig.elf.symbols.shndx[known[0]] != SHN_UNDEF
        if not is_old or self.patched.section(atom).is_grouped:
            return None
        return KernelRef(table.names[symbol], known[0], defined=True, is_global=True, is_weak=True)

    def _function_target(self, user: Atom, atom: Atom, refs: Refs, k: int) -> PieceRef | KernelRef:
        original = int(self.correlation.to_orig[atom.index])
        if original == NO_ATOM or (cold_parent(atom.name) and self._is_included(atom)):
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
        if original != NO_ATOM and self._points_inside(atom):
            return PieceRef(self.add(atom.index))  # a switch table, or one of labels
        if original != NO_ATOM:
            if self.orig.atoms[original].symbols:
                return self._in_kernel(original)
            if atom.kind is Kind.RODATA:
                return PieceRef(self.add(atom.index))
            self.find("anonymous-data", user.name, f"uses unnamed data in {section.name}")
        else:
            self.judge_new_data(user.name, atom)
        return PieceRef(self.add(atom.index))

    def judge_new_data(self, user: str, atom: Atom) -> None:
        """Notes a new variable, or why there cannot be one in its section."""
        section = self.patched.section(atom)
        if is_percpu(section.name) and len(self.patched.refs_of(atom).offset):
            # apply_relocations() in kernel/module/main.c leaves that section out (until 6.15).
            self.find(
                "percpu-data",
                atom.name,
                f"the new per-CPU variable '{atom.name}' begins with an address, which the "
                "kernel's module loader would not fill in: set it where it is used first",
            )
        elif is_boot_only(section.name):
            self.find("init-data", atom.name, f"'{atom.name}' is __init data, freed after boot")
        elif section.name == ".BTF_ids" or is_specially_mapped(section.name):
            self.find(
                "unsupported-section",
                atom.name,
                f"'{atom.name}' is new in section '{section.name}', which only the kernel's own "
                "link can add to",
            )
        elif self.patched.is_passive(atom):
            self.find(
                "unsupported-section",
                atom.name,
                f"'{user}' refers to '{atom.name}', which is new in section '{section.name}' "
                "and only read at boot or load",
            )
        elif atom.symbols:
            self.new_data.add(atom.name)

    def _points_inside(self, atom: Atom) -> bool:
        """Whether a constant holds addresses within code, which belong to one build of it."""
        if atom.kind is not Kind.RODATA or atom.section not in self.patched.refs:
            return False
        refs = self.patched.refs_of(atom)
        return any(
            target != NO_ATOM
            and is_inside(self.patched.atoms[target], addend)
            and self._is_included(self.patched.atoms[target])
            for target, addend in zip(refs.atom.tolist(), refs.addend.tolist(), strict=True)
        )

    def _is_included(self, atom: Atom) -> bool:
        """Whether a function, or the one whose cold part it is, goes into the patch."""
        parent = self._functions.get(cold_parent(atom.name) or "")
        return atom.index in self.piece_of or parent in self.piece_of

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

    def find(self, code: str, symbol: str, message: str) -> None:
        """Notes a refusal, once."""
        self.note(Finding(code, symbol, message))

    def note(self, finding: Finding) -> None:
        """Notes a refusal, once."""
        if finding not in self.findings:
            self.findings.append(finding)


def _output_section(atom: Atom, section: Section) -> str:
    if atom.kind is Kind.FUNCTION:
        if section.name in (".static_call.text", ".kprobes.text", ".noinstr.text"):
            # the kernel knows these
            return section.name
        prefix = ".text.unlikely." if section.name.startswith(".text.unlikely") else ".text."
        return prefix + (atom.name or "anonymous")
    if is_percpu(section.name):  # a module has one such section
        return PERCPU
    if atom.kind in POOLED:
        return f".rodata.str.{section.align}" if atom.kind is Kind.STRING else section.name
    return section.name


def new_functions(
    patched: Unit, inclusion: Inclusion, correlation: Correlation
) -> tuple[FunctionChange, ...]:
    """The included functions that the original does not have; cold parts go with their parents."""
    return tuple(
        FunctionChange(atom.name, "new function", 0, atom.size, piece, None)
        for index, piece in sorted(inclusion.piece_of.items())
        if (atom := patched.atoms[index]).kind is Kind.FUNCTION
        and correlation.to_orig[index] == NO_ATOM
        and cold_parent(fold(atom.name)) is None
    )
