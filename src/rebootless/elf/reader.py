"""Bytes to `ElfFile`. Malformed input raises ElfError naming the file and the offset."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..base.errors import ElfError
from ..base.fs import read_bytes
from .constants import (
    EHDR_SIZE,
    EM_X86_64,
    MAGIC,
    RELA_DTYPE,
    RELA_SIZE,
    RESERVED_BASE,
    SHDR_DTYPE,
    SHDR_SIZE,
    SYM_DTYPE,
    SYM_SIZE,
    FileType,
    SectionIndex,
    SectionType,
)
from .model import ElfFile, Section, SymbolTable

SHARED_ENDS = 16
PAGE = 4096
MOST_ALIGNED = 1 << 24  # the kernel's own is 2 MiB
_WITHOUT_BYTES = (int(SectionType.NOBITS), int(SectionType.NULL))
EMPTY_SYMBOLS = np.zeros(0, SYM_DTYPE)


class _Header(NamedTuple):
    """A section header, in the order of SHDR_DTYPE."""

    name: int
    type: int
    flags: int
    addr: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entsize: int


def read(path: Path) -> ElfFile:
    """Reads an ELF file. Raises NotFoundError, ResourceError or ElfError."""
    return parse(read_bytes(path), name=str(path))


def parse(blob: bytes | memoryview, *, name: str) -> ElfFile:
    """Reads an ELF file from memory; `name` stands in error messages.

    Raises ElfError for anything that is not a well-formed ELF64 little-endian x86-64 file.
    """
    data = memoryview(blob).toreadonly()
    file_type, shoff, shnum, shstrndx = _header(data, name)
    table = _section_headers(data, name, shoff, shnum)
    if shnum and shstrndx == SectionIndex.XINDEX:
        shstrndx = int(table[0]["link"])
    headers = [_Header(*fields) for fields in table.tolist()]
    contents = [_section_bytes(data, name, i, header) for i, header in enumerate(headers)]
    names = _section_names(table, contents, shstrndx, shoff, name)
    sections = tuple(
        Section(
            i,
            names[i],
            h.type,
            h.flags,
            h.addr,
            h.size,
            h.link,
            h.info,
            h.align,
            h.entsize,
            contents[i],
            h.offset,
        )
        for i, h in enumerate(headers)
    )
    symbols = _symbol_table(sections, name)
    relocations = _relocation_sections(sections, len(symbols), file_type, name)
    return ElfFile(name, file_type, sections, symbols, relocations, data)


def _header(data: memoryview, name: str) -> tuple[FileType, int, int, int]:
    if len(data) < EHDR_SIZE or data[:4] != MAGIC:
        raise ElfError(
            f"{name}: not an ELF file (no ELF header at offset 0)",
            hint="an object file (.o) or a kernel module (.ko) is wanted here",
        )
    if data[4] != 2 or data[5] != 1:
        raise ElfError(f"{name}: not a 64-bit little-endian ELF file (offset 4)")
    machine = int.from_bytes(data[18:20], "little")
    if machine != EM_X86_64:
        raise ElfError(f"{name}: machine {machine} at offset 18 is not x86-64")
    raw_type = int.from_bytes(data[16:18], "little")
    try:
        file_type = FileType(raw_type)
    except ValueError as exc:
        raise ElfError(f"{name}: unknown ELF type {raw_type} at offset 16") from exc
    shoff = int.from_bytes(data[40:48], "little")
    entry_size = int.from_bytes(data[58:60], "little")
    count = int.from_bytes(data[60:62], "little")
    if shoff and entry_size != SHDR_SIZE:
        raise ElfError(f"{name}: section header size {entry_size} at offset 58 is not {SHDR_SIZE}")
    if shoff and count == 0:  # more than 65,279 sections: the count is in section 0
        if shoff + SHDR_SIZE > len(data):
            raise ElfError(f"{name}: section headers at offset {shoff} lie outside the file")
        first = np.frombuffer(data, SHDR_DTYPE, count=1, offset=shoff)
        count = int(first[0]["size"])
    return file_type, shoff, count if shoff else 0, int.from_bytes(data[62:64], "little")


def _section_headers(
    data: memoryview, name: str, shoff: int, count: int
) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    if count == 0:
        return np.zeros(0, SHDR_DTYPE)
    if shoff + count * SHDR_SIZE > len(data):
        raise ElfError(f"{name}: {count} section headers at offset {shoff} lie outside the file")
    return np.frombuffer(data, SHDR_DTYPE, count=count, offset=shoff)


def _section_names(
    headers: np.ndarray[tuple[int], np.dtype[np.void]],
    contents: list[memoryview],
    shstrndx: int,
    shoff: int,
    name: str,
) -> list[str]:
    if not len(headers):
        return []
    if shstrndx >= len(headers):
        raise ElfError(
            f"{name}: e_shstrndx at offset 62 names section {shstrndx} of {len(headers)}"
        )
    offset, size = int(headers[shstrndx]["offset"]), len(contents[shstrndx])
    table = Section(
        shstrndx, "of section names", 3, 0, 0, size, 0, 0, 1, 0, contents[shstrndx], offset
    )
    what = f"the name of a section (headers at offset {shoff:#x})"
    return _strings(table, headers["name"], name, what)


def _section_bytes(data: memoryview, name: str, index: int, header: _Header) -> memoryview:
    offset, size, align = header.offset, header.size, header.align
    if align & (align - 1) or align > MOST_ALIGNED:
        raise ElfError(f"{name}: section {index} at offset {offset} has an alignment of {align}")
    if header.type in _WITHOUT_BYTES:
        return memoryview(b"")
    if offset + size > len(data):
        raise ElfError(
            f"{name}: section {index} at offset {offset} (+{size}) lies outside the file"
        )
    return data[offset : offset + size]


def _strings(table: Section | None, offsets: np.ndarray, name: str, what: str) -> list[str]:
    """The NUL-terminated strings at `offsets` of a string table; `what` has them, for messages.

    Assemblers let names share their ends, so the sum of all lengths may exceed the table; where it
    does many times, ends are missing, and the strings would fill the memory.
    """
    blob = bytes(table.data) if table is not None else b""
    label = table.label if table is not None else "(none)"
    size, left = len(blob), SHARED_ENDS * len(blob) + PAGE
    known: dict[int, str] = {0: ""} if not size else {}
    for offset in offsets.tolist():
        if offset in known:
            continue
        if offset >= size:
            raise ElfError(
                f"{name}: {what} is at {offset:#x} of the string table {label}, beyond it"
            )
        end = blob.find(b"\0", offset)
        known[offset] = text = blob[offset : end if end >= 0 else size].decode("utf-8", "replace")
        left -= len(text)
        if left < 0:
            raise ElfError(f"{name}: the strings of the table {label} do not end")
    return [known[offset] for offset in offsets.tolist()]


def _symbol_table(sections: tuple[Section, ...], name: str) -> SymbolTable:
    table = next((s for s in sections if s.type == SectionType.SYMTAB), None)
    raw = EMPTY_SYMBOLS
    names: list[str] = []
    if table is not None:
        if table.size % SYM_SIZE or table.entsize not in (0, SYM_SIZE):
            raise ElfError(f"{name}: the symbol table {table.label} has a size of {table.size}")
        if table.link >= len(sections):
            raise ElfError(
                f"{name}: the symbol table {table.label} has its names in section {table.link} of "
                f"{len(sections)}"
            )
        raw = np.frombuffer(table.data, SYM_DTYPE)
        names = _strings(sections[table.link], raw["name"], name, "a symbol's name")
    return SymbolTable(
        tuple(names),
        raw["value"].astype(np.uint64),
        raw["size"].astype(np.uint64),
        (raw["info"] >> 4).astype(np.uint8),
        (raw["info"] & 15).astype(np.uint8),
        raw["other"].astype(np.uint8),
        _section_indices(raw, table, sections, name),
    )


def _section_indices(
    raw: np.ndarray, table: Section | None, sections: tuple[Section, ...], name: str
) -> np.ndarray:
    """Where the symbols lie, widened (see constants.RESERVED_BASE)."""
    shndx: np.ndarray = raw["shndx"].astype(np.uint32)
    reserved = shndx >= SectionIndex.LORESERVE
    shndx[reserved] |= np.uint32(RESERVED_BASE)
    extended = next((s for s in sections if s.type == SectionType.SYMTAB_SHNDX), None)
    if extended is not None:
        wide = np.frombuffer(extended.data[: len(extended.data) // 4 * 4], "<u4")
        if len(wide) < len(raw):
            raise ElfError(
                f"{name}: the section indices {extended.label} are fewer than the symbols"
            )
        marked = raw["shndx"] == SectionIndex.XINDEX
        shndx[marked] = wide[: len(raw)][marked]
    bad = (shndx < RESERVED_BASE) & (shndx >= max(len(sections), 1))
    if table is not None and bad.any():
        index = int(np.nonzero(bad)[0][0])
        raise ElfError(
            f"{name}: the symbol at offset {table.offset + index * SYM_SIZE:#x} lies in section "
            f"{shndx[index]}, and there are {len(sections)}"
        )
    return shndx


def _relocation_sections(
    sections: tuple[Section, ...], symbol_count: int, file_type: FileType, name: str
) -> dict[int, int]:
    """The section of relocations of each section that has one."""
    found: dict[int, int] = {}
    for section in sections:
        if section.type != SectionType.RELA:
            continue
        if section.size % RELA_SIZE:
            raise ElfError(f"{name}: the relocations {section.label} have a size of {section.size}")
        if section.info >= len(sections):
            raise ElfError(
                f"{name}: the relocations {section.label} are of section {section.info}, and there "
                f"are {len(sections)}"
            )
        _check_relocations(section, sections[section.info], symbol_count, file_type, name)
        found.setdefault(section.info, section.index)
    return found


def _check_relocations(
    section: Section, target: Section, symbol_count: int, file_type: FileType, name: str
) -> None:
    raw = np.frombuffer(section.data, RELA_DTYPE)
    if not len(raw):
        return
    symbols = raw["info"] >> np.uint64(32)
    worst = int(symbols.argmax())
    if symbols[worst] >= max(symbol_count, 1) and section.name != ".rela.dyn":
        raise ElfError(
            f"{name}: the relocation at offset {section.offset + worst * RELA_SIZE:#x} is to "
            f"symbol {symbols[worst]} of {symbol_count}"
        )
    worst = int(raw["offset"].argmax())
    end = target.size if file_type == FileType.REL else target.addr + target.size
    if target.type != SectionType.NULL and int(raw["offset"][worst]) >= max(end, 1):
        raise ElfError(
            f"{name}: the relocation at offset {section.offset + worst * RELA_SIZE:#x} reaches "
            f"beyond the section {target.label}"
        )
