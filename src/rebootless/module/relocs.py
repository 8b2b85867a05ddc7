"""A linked patch module -> the module the kernel loads: livepatch symbols and relocations.

Each record of KLP_SECTION (see emit.py) becomes a relocation of `.klp.rela.OBJECT.SECTION`
(SHF_RELA_LIVEPATCH) against a symbol `.klp.sym.OBJECT.NAME,POSITION` (SHN_LIVEPATCH), as
Documentation/livepatch/module-elf-format.rst has it. The kernel applies those of vmlinux when the
patch loads, and those of a module when that module is there. What only served the link is removed.

What the kernel does not apply, the core does (kmod/core/reloc.c): the relocations of modules with
an engine that is not the kernel's, and all of them where the kernel has no livepatch. It finds them
as records of the same layout in RESIDENT, which stay in memory: the names follow the last record.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ..base.errors import ElfError, RefusedError
from ..elf.constants import SHN_LIVEPATCH, Binding, Reloc, SectionFlag, SymbolType
from ..elf.model import ElfFile
from ..elf.reader import parse
from ..elf.writer import (
    OutObject,
    OutRelaSection,
    OutReloc,
    OutSection,
    OutSymbol,
    editable,
    serialize,
)
from .emit import ENTRY_PREFIX, KLP_RECORD, KLP_SECTION, KLP_STRINGS
from .resolve import VMLINUX

# KSYM_NAME_LEN - 1: 127 until 6.0; 511 since 6.1 ("kallsyms: increase maximum kernel symbol length
# to 512").
MAX_SYMBOL_OLD = 127
MAX_SYMBOL = 511
PREFIX = ".klp.sym."
RESIDENT = ".rebootless.relocs"
_DROPPED = (".debug", ".comment", ".rela.debug", ".note.GNU-stack", ".rebootless.")


@dataclass(frozen=True)
class LivepatchReloc:
    """One livepatch relocation, as read from or written to a module."""

    owner: str  # the object in the section's name
    symbol: str  # OBJECT.NAME,POSITION
    section: int
    offset: int
    type: int
    addend: int


def finish(
    blob: bytes, *, name: str, max_symbol: int = MAX_SYMBOL, livepatch: bool = True
) -> bytes:
    """Turns a linked module into a loadable one. Deterministic.

    `livepatch`: the kernel's loader applies livepatch relocations. Raises RefusedError when a
    symbol's name is too long for the kernel.
    """
    elf = parse(blob, name=name)
    records = read_records(elf)
    obj = editable(elf)
    _resolve_entries(obj, name)
    for record in records:
        full = PREFIX + record.symbol
        if len(full) > max_symbol:
            raise RefusedError(
                f"the livepatch symbol '{full}' is longer than the kernel's {max_symbol} characters"
            )
        target = obj.by_index.get(record.section)
        if target is None or not 0 <= record.offset < len(target.data):
            raise ElfError(
                f"{name}: a livepatch relocation at offset {record.offset % 2**64:#x} is of no code"
            )
    if livepatch:
        _add_livepatch(obj, records)
        records = tuple(r for r in records if r.owner != VMLINUX)
    _add_resident(obj, records, name)
    _drop(obj)
    return serialize(obj)


def _add_livepatch(obj: OutObject, records: Sequence[LivepatchReloc]) -> None:
    """The relocations as the kernel's own livepatch has them."""
    symbols: dict[str, OutSymbol] = {}
    relas: dict[tuple[str, int], OutRelaSection] = {}
    for record in records:
        full = PREFIX + record.symbol
        if full not in symbols:
            symbols[full] = OutSymbol(
                full,
                binding=int(Binding.GLOBAL),
                type=int(SymbolType.NOTYPE),
                section=SHN_LIVEPATCH,
            )
        key = (record.owner, record.section)
        if key not in relas:
            target = obj.by_index[record.section]
            relas[key] = OutRelaSection(
                f".klp.rela.{record.owner}.{target.name}",
                int(SectionFlag.RELA_LIVEPATCH | SectionFlag.ALLOC),
            )
            target.extra_relas.append(relas[key])
        relas[key].relocs.append(OutReloc(record.offset, record.type, symbols[full], record.addend))
    obj.symbols += symbols.values()


def _add_resident(obj: OutObject, records: Sequence[LivepatchReloc], name: str) -> None:
    """The records for the core, before the one of zeros that the module's main file has."""
    section = next((s for s in obj.sections if s.name == RESIDENT), None)
    if section is None:
        if records:
            raise ElfError(
                f"{name}: no section {RESIDENT} for the relocation at offset "
                f"{records[0].offset:#x} and {len(records) - 1} more"
            )
        return
    ends = len(records) * KLP_RECORD.size
    names: dict[str, int] = {}
    blob = bytearray()
    places: dict[int, OutSymbol] = {}
    itself = _section_symbol(obj, section, places)
    for at, record in zip(range(0, ends, KLP_RECORD.size), records, strict=True):
        text = f"{record.owner}|{record.symbol}"
        if text not in names:
            names[text] = ends + KLP_RECORD.size + len(blob)
            blob += text.encode() + b"\0"
        place = _section_symbol(obj, obj.by_index[record.section], places)
        section.relocs.append(OutReloc(at, int(Reloc.R64), place, record.offset))
        section.relocs.append(OutReloc(at + 8, int(Reloc.R64), itself, names[text]))
    packed = (KLP_RECORD.pack(0, 0, r.type, 0, r.addend) for r in records)
    section.data = b"".join(packed) + bytes(KLP_RECORD.size) + bytes(blob)
    section.size = len(section.data)


def _section_symbol(obj: OutObject, section: OutSection, known: dict[int, OutSymbol]) -> OutSymbol:
    """A symbol at the start of a section, added to the object when it has none in `known`."""
    if id(section) not in known:
        symbol = OutSymbol("", type=int(SymbolType.SECTION), section=section)
        known[id(section)] = symbol
        obj.symbols.append(symbol)
    return known[id(section)]


def read_records(elf: ElfFile) -> tuple[LivepatchReloc, ...]:
    """The records that the emitted objects carry, after the link."""
    section = elf.section_by_name.get(KLP_SECTION)
    if section is None:
        return ()
    if KLP_STRINGS not in elf.section_by_name:
        raise ElfError(f"{elf.name}: the records {section.label} have no section of names")
    names = elf.section_by_name[KLP_STRINGS]
    relocs = elf.relocations(section)
    places = {
        int(o): (int(elf.symbols.shndx[s]), int(elf.symbols.value[s]) + int(a))
        for o, s, a in zip(relocs.offset, relocs.symbol, relocs.addend, strict=True)
    }
    found = []
    for at in range(0, section.size, KLP_RECORD.size):
        try:
            _, _, kind, _, addend = KLP_RECORD.unpack_from(section.data, at)
            target, offset = places[at]
            name = _name(bytes(names.data), places[at + 8][1])
        except (struct.error, LookupError, ValueError) as exc:
            raise ElfError(f"{elf.name}: record {at:#x} of section {section.label} is bad") from exc
        owner, _, symbol = name.partition("|")
        found.append(LivepatchReloc(owner, symbol, target, offset, kind, addend))
    return tuple(found)


def _name(strings: bytes, start: int) -> str:
    if start < 0:
        raise ValueError(start)
    return strings[start : strings.index(b"\0", start)].decode()


def _resolve_entries(obj: OutObject, name: str) -> None:
    """Replaces the entry symbols that the glue refers to by the functions' own symbols."""
    functions = {
        (id(s.section), s.value): s
        for s in reversed(obj.symbols)
        if s.type == SymbolType.FUNC and not s.name.startswith(ENTRY_PREFIX)
    }
    replaced = {}
    for s in obj.symbols:
        if s.name.startswith(ENTRY_PREFIX) and isinstance(s.section, OutSection):
            if (id(s.section), s.value) not in functions:
                raise ElfError(
                    f"{name}: '{s.name}', at offset {s.value:#x} of '{s.section.name}', marks no "
                    "function"
                )
            replaced[id(s)] = functions[(id(s.section), s.value)]
    for section in obj.sections:
        section.relocs = [
            r._replace(symbol=replaced[id(r.symbol)]) if id(r.symbol) in replaced else r
            for r in section.relocs
        ]
    obj.symbols = [s for s in obj.symbols if id(s) not in replaced]


def _drop(obj: OutObject) -> None:
    """Removes the sections that served the build only, and their section symbols."""
    gone = {id(s) for s in obj.sections if s.name.startswith(_DROPPED) and s.name != RESIDENT}
    obj.sections = [s for s in obj.sections if id(s) not in gone]
    obj.symbols = [s for s in obj.symbols if id(s.section) not in gone]
