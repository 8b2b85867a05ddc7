"""One unit's Delta -> a relocatable object that kbuild can link.

Livepatch relocations must not reach the linker or modpost, which know nothing of them. They travel
in a section of their own, KLP_SECTION, as 32-byte records that the linker keeps in step with the
code (`place` and `name` are relocated):

    u64 place   u64 name ("SECTION_OBJECT|OBJECT.SYMBOL,POSITION")   u32 type, u32 0   s64 addend

`relocs.py` turns them into real livepatch relocations once the module is linked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..diff.delta import CallbackKind, Delta, Finding, KernelRef, Piece, PieceRef, PieceReloc
from ..elf.constants import (
    SHN_UNDEF,
    Binding,
    Reloc,
    SectionType,
    SymbolType,
)
from ..elf.writer import OutObject, OutReloc, OutSection, OutSymbol, serialize
from .keys import Keys, Mirror
from .resolve import VMLINUX, Livepatch, Plain, Resolved, Resolver

KLP_SECTION = ".rebootless.klp"
KLP_STRINGS = ".rebootless.klp.names"
KLP_RECORD = struct.Struct("<QQIIq")
ENTRY_PREFIX = "__rebootless_entry_"


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
class EmittedCallback:
    """A callback: the symbol to find it by at link."""

    kind: CallbackKind
    symbol: str
    name: str


@dataclass(frozen=True)
class EmittedUnit:
    """The object of one unit, what its references resolved to, and what came up then."""

    data: bytes
    functions: tuple[EmittedFunction, ...]
    namespaces: frozenset[str]
    refused: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    mirrors: tuple[Mirror, ...] = ()
    callbacks: tuple[EmittedCallback, ...] = ()
    resolved: Mapping[KernelRef, Resolved] = field(default_factory=dict, repr=False)


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
        self.keys = Keys(delta.pieces, resolver, number)
        self.resolved: dict[KernelRef, Resolved] = {}

    def run(self) -> EmittedUnit:
        pieces = [self.keys.settle(p) for p in self.delta.pieces]
        pieces += self.keys.pointers
        self.places = [self._place(p) for p in pieces]
        for n, (piece, (section, base)) in enumerate(zip(pieces, self.places, strict=True)):
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
                self._relocate(n, section, base, reloc)
        functions, callbacks = tuple(self._entries()), tuple(self._callbacks())
        self._add_records()
        return EmittedUnit(
            serialize(self.obj),
            functions,
            frozenset(self.namespaces),
            tuple(self.refused | self.keys.refused),
            tuple(self.keys.warnings),
            self.keys.mirrors,
            callbacks,
            self.resolved,
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
        if section.type == SectionType.NOBITS and piece.section_type != section.type:
            section.type, section.data = piece.section_type, bytes(section.size or 0)
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

    def _relocate(self, piece: int, section: OutSection, base: int, reloc: PieceReloc) -> None:
        where = base + reloc.offset
        if isinstance(reloc.target, PieceRef):
            target, start = self.places[reloc.target.piece]
            symbol = self._section_symbol(target)
            section.relocs.append(OutReloc(where, reloc.type, symbol, start + reloc.addend))
            return
        resolved = self.keys.resolve(reloc.target)
        if isinstance(resolved, Finding):
            self.refused[resolved] = None
            return
        self.resolved[reloc.target] = resolved
        if isinstance(resolved, Plain):
            symbol = self._undefined_symbol(resolved)
            section.relocs.append(OutReloc(where, reloc.type, symbol, reloc.addend))
        else:
            self._record(section, where, reloc, resolved)
            self.keys.check_timing(piece, reloc, resolved)

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

    def _entries(self) -> list[EmittedFunction]:
        """A global symbol at each patched function, for the glue code to refer to."""
        found = []
        for n, change in enumerate(self.delta.changed):
            name = self._entry(f"{n}", change.piece)
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

    def _callbacks(self) -> list[EmittedCallback]:
        """The same for the callbacks."""
        return [
            EmittedCallback(c.kind, self._entry(f"callback_{n}", c.piece), c.name)
            for n, c in enumerate(self.delta.callbacks)
        ]

    def _entry(self, suffix: str, piece: int) -> str:
        """Adds a global symbol at the start of a piece, unique in the patch."""
        name = f"{ENTRY_PREFIX}{self.number}_{suffix}"
        section, base = self.places[piece]
        self.obj.symbols.append(
            OutSymbol(name, base, 0, int(Binding.GLOBAL), int(SymbolType.FUNC), section)
        )
        return name

    def _add_records(self) -> None:
        if not self._records:
            return
        strings = self._sections[KLP_STRINGS]
        strings.data = bytes(self._name_blob)
        records = OutSection(KLP_SECTION, align=8, data=bytes(self._records))
        records.relocs = self._record_relocs
        self.obj.sections += [strings, records]
