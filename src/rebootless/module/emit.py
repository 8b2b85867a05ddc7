"""One unit's Delta -> a relocatable object that kbuild can link.

Livepatch relocations must not reach the linker or modpost, which know nothing of them. They travel
in a section of their own, KLP_SECTION, as 32-byte records that the linker keeps in step with the
code (`place` and `name` are relocated):

    u64 place   u64 name ("SECTION_OBJECT|OBJECT.SYMBOL,POSITION")   u32 type, u32 0   s64 addend

`relocs.py` turns them into real livepatch relocations once the module is linked.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from ..diff.delta import Delta, Finding, KernelRef, Piece, PieceKind, PieceRef, PieceReloc
from ..diff.tables import TABLES
from ..elf.constants import (
    SHN_UNDEF,
    Binding,
    Reloc,
    SectionType,
    SymbolType,
)
from ..elf.writer import OutObject, OutReloc, OutSection, OutSymbol, serialize
from .resolve import VMLINUX, Livepatch, Plain, Resolver

KLP_SECTION = ".rebootless.klp"
KLP_STRINGS = ".rebootless.klp.names"
KLP_RECORD = struct.Struct("<QQIIq")
ENTRY_PREFIX = "__rebootless_entry_"
_TRACEPOINT = ("__tracepoint_", "__SCK__tp_func_", "__SCT__tp_func_")


@dataclass(frozen=True)
class EmittedFunction:
    """A patched function: the symbol to find it by at link, and the original's name."""

    symbol: str
    orig_symbol: int
    name: str
    size_old: int
    size_new: int
    reason: str


@dataclass(frozen=True)
class EmittedUnit:
    """The object of one unit, and what came up when its references were resolved."""

    data: bytes
    functions: tuple[EmittedFunction, ...]
    namespaces: frozenset[str]
    refused: tuple[Finding, ...]
    warnings: tuple[Finding, ...]


def emit(delta: Delta, resolver: Resolver, number: int) -> EmittedUnit:
    """Builds the object of one unit; `number` makes its entry symbols unique in the patch."""
    return _Emitter(delta, resolver, number).run()


class _Emitter:
    def __init__(self, delta: Delta, resolver: Resolver, number: int) -> None:
        self.delta, self.resolver, self.number = delta, resolver, number
        self.obj = OutObject()
        self.places: list[tuple[OutSection, int]] = []
        self._sections: dict[str, OutSection] = {}
        self._section_symbols: dict[int, OutSymbol] = {}
        self._undefined: dict[str, OutSymbol] = {}
        self._records = bytearray()
        self._record_relocs: list[OutReloc] = []
        self._names: dict[str, int] = {}
        self._name_blob = bytearray()
        self.namespaces: set[str] = set()
        self.refused: dict[Finding, None] = {}
        self.warnings: dict[Finding, None] = {}

    def run(self) -> EmittedUnit:
        pieces = [self._without_private_keys(p) for p in self.delta.pieces]
        self.places = [self._place(p) for p in pieces]
        for piece, (section, base) in zip(pieces, self.places, strict=True):
            for symbol in piece.symbols:
                self.obj.symbols.append(
                    OutSymbol(
                        symbol.name,
                        base + symbol.offset,
                        symbol.size,
                        int(Binding.GLOBAL if symbol.is_global else Binding.LOCAL),
                        symbol.type,
                        section,
                    )
                )
            for reloc in piece.relocs:
                self._relocate(piece, section, base, reloc)
        functions = tuple(self._entries())
        self._add_records()
        return EmittedUnit(
            serialize(self.obj),
            functions,
            frozenset(self.namespaces),
            tuple(self.refused),
            tuple(self.warnings),
        )

    def _place(self, piece: Piece) -> tuple[OutSection, int]:
        """Puts a piece at the end of its section; pieces of one section are aligned within it."""
        section = self._sections.get(piece.section)
        if section is None:
            section = OutSection(
                piece.section, piece.section_type, piece.flags, piece.align, size=0
            )
            self._sections[piece.section] = section
            self.obj.sections.append(section)
        section.align = max(section.align, piece.align)
        align = max(piece.align, 1)
        base = -(-((section.size or 0) + len(piece.prefix)) // align) * align
        if section.type != SectionType.NOBITS:
            padded = section.data.ljust(base - len(piece.prefix), b"\0") + piece.prefix
            section.data = padded + piece.data.ljust(piece.size, b"\0")
        section.size = base + piece.size
        return section, base

    def _section_symbol(self, section: OutSection) -> OutSymbol:
        symbol = self._section_symbols.get(id(section))
        if symbol is None:
            symbol = OutSymbol("", type=int(SymbolType.SECTION), section=section)
            self._section_symbols[id(section)] = symbol
            self.obj.symbols.append(symbol)
        return symbol

    def _relocate(self, piece: Piece, section: OutSection, base: int, reloc: PieceReloc) -> None:
        where = base + reloc.offset
        if isinstance(reloc.target, PieceRef):
            target, start = self.places[reloc.target.piece]
            symbol = self._section_symbol(target)
            section.relocs.append(OutReloc(where, reloc.type, symbol, start + reloc.addend))
            return
        resolved = self.resolver.resolve(reloc.target)
        if isinstance(resolved, Finding):
            self.refused[resolved] = None
        elif isinstance(resolved, Plain):
            symbol = self._undefined_symbol(resolved)
            section.relocs.append(OutReloc(where, reloc.type, symbol, reloc.addend))
        else:
            self._record(section, where, reloc, resolved)
            self._check_timing(piece, resolved)

    def _undefined_symbol(self, plain: Plain) -> OutSymbol:
        if plain.namespace:
            self.namespaces.add(plain.namespace)
        symbol = self._undefined.get(plain.name)
        if symbol is None:
            binding = Binding.WEAK if plain.is_weak else Binding.GLOBAL
            symbol = OutSymbol(plain.name, binding=int(binding), section=SHN_UNDEF)
            self._undefined[plain.name] = symbol
            self.obj.symbols.append(symbol)
        return symbol

    def _record(
        self, section: OutSection, where: int, reloc: PieceReloc, target: Livepatch
    ) -> None:
        owner = VMLINUX if target.object == VMLINUX else self.resolver.object
        text = f"{owner}|{target.object}.{target.name},{target.position}"
        if text not in self._names:
            self._names[text] = len(self._name_blob)
            self._name_blob += text.encode() + b"\0"
        at = len(self._records)
        self._records += KLP_RECORD.pack(0, 0, reloc.type, 0, reloc.addend + target.offset)
        place = self._section_symbol(section)
        self._record_relocs.append(OutReloc(at, int(Reloc.R64), place, where))
        self._record_relocs.append(
            OutReloc(at + 8, int(Reloc.R64), self._strings_symbol, self._names[text])
        )

    @property
    def _strings_symbol(self) -> OutSymbol:
        section = self._sections.get(KLP_STRINGS)
        if section is None:
            section = self._sections[KLP_STRINGS] = OutSection(KLP_STRINGS)
        return self._section_symbol(section)

    def _check_timing(self, piece: Piece, target: Livepatch) -> None:
        """Alternatives are applied when the patch loads, before a module's symbols are known."""
        if piece.section == ".altinstr_replacement" and target.object != VMLINUX:
            self.refused[
                Finding(
                    "late-alternative",
                    target.name,
                    f"an alternative instruction refers to '{target.name}' of the module "
                    f"{target.object}, which may load after the patch",
                )
            ] = None

    def _without_private_keys(self, piece: Piece) -> Piece:
        """Drops jump labels and static calls whose key lives in the patched module.

        The kernel wires them up when the patch loads, when the module's key has no address yet.
        A static call still works without its entry: it goes through the trampoline. A tracepoint
        keeps quiet in the patched function, with a warning. Any other key is refused.
        """
        table = TABLES.get(piece.section) if piece.kind is PieceKind.TABLE else None
        if table is None or not table.keyed or self.resolver.object == VMLINUX:
            return piece
        dropped: set[int] = set()
        for reloc in piece.relocs:
            if reloc.offset % piece.entsize == 0 or not isinstance(reloc.target, KernelRef):
                continue
            resolved = self.resolver.resolve(reloc.target)
            if isinstance(resolved, Livepatch) and resolved.object != VMLINUX:
                dropped.add(reloc.offset // piece.entsize)
                self._judge_private_key(piece.section, resolved)
        return _without_entries(piece, dropped) if dropped else piece

    def _judge_private_key(self, section: str, key: Livepatch) -> None:
        if section == ".static_call_sites":
            return
        if key.name.startswith(_TRACEPOINT):
            name = key.name.removeprefix("__tracepoint_")
            finding = Finding(
                "tracepoint-dropped",
                name,
                f"the tracepoint '{name}' of the module {key.object} does not fire in the patched "
                "functions while the patch is applied",
            )
            self.warnings[finding] = None
        else:
            self.refused[
                Finding(
                    "private-static-key",
                    key.name,
                    f"the static key '{key.name}' belongs to the module {key.object}: patched code "
                    "cannot follow it; use static_key_enabled() in the patched function",
                )
            ] = None

    def _entries(self) -> list[EmittedFunction]:
        """A global symbol at each patched function, for the glue code to refer to."""
        found = []
        for n, change in enumerate(self.delta.changed):
            section, base = self.places[change.piece]
            name = f"{ENTRY_PREFIX}{self.number}_{n}"
            self.obj.symbols.append(
                OutSymbol(name, base, 0, int(Binding.GLOBAL), int(SymbolType.FUNC), section)
            )
            assert change.orig_symbol is not None
            found.append(
                EmittedFunction(
                    name,
                    change.orig_symbol,
                    change.name,
                    change.size_old,
                    change.size_new,
                    change.reason,
                )
            )
        return found

    def _add_records(self) -> None:
        if not self._records:
            return
        strings = self._sections[KLP_STRINGS]
        strings.data = bytes(self._name_blob)
        records = OutSection(KLP_SECTION, align=8, data=bytes(self._records))
        records.relocs = self._record_relocs
        self.obj.sections += [strings, records]


def _without_entries(piece: Piece, dropped: set[int]) -> Piece:
    size = piece.entsize
    keep = [n for n in range(piece.size // size) if n not in dropped]
    moved = {old: new for new, old in enumerate(keep)}
    relocs = tuple(
        PieceReloc(moved[r.offset // size] * size + r.offset % size, r.type, r.target, r.addend)
        for r in piece.relocs
        if r.offset // size in moved
    )
    data = b"".join(piece.data[n * size : (n + 1) * size] for n in keep)
    return replace(piece, data=data, size=len(data), relocs=relocs)
