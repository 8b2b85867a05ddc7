"""Bytes to `ElfFile`. Malformed input raises ElfError naming the file and the offset."""

from __future__ import annotations

from pathlib import Path

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

EMPTY_SYMBOLS = np.zeros(0, SYM_DTYPE)


def read(path: Path) -> ElfFile:
    """Reads an ELF file. Raises NotFoundError, ResourceError or ElfError."""
    return parse(read_bytes(path), name=str(path))


def parse(blob: bytes | memoryview, *, name: str) -> ElfFile:
    """Reads an ELF file from memory; `name` stands in error messages.

    Raises ElfError for anything that is not a well-formed ELF64 little-endian x86-64 file.
    """
    data = memoryview(blob).toreadonly()
    file_type, shoff, shnum, shstrndx = _header(data, name)
    headers = _section_headers(data, name, shoff, shnum)
    if shnum and shstrndx == SectionIndex.XINDEX:
        shstrndx = int(headers[0]["link"])
    contents = [_section_bytes(data, name, i, header) for i, header in enumerate(headers)]
    if len(headers) and shstrndx >= len(headers):
        raise ElfError(
            f"{name}: e_shstrndx at offset 62 names section {shstrndx} of {len(headers)}"
        )
    string_table = contents[shstrndx] if len(headers) else memoryview(b"")
    names = _strings(string_table, headers["name"], name, "section name")
    sections = tuple(
        Section(
            i,
            names[i],
            int(h["type"]),
            int(h["flags"]),
            int(h["addr"]),
            int(h["size"]),
            int(h["link"]),
            int(h["info"]),
            int(h["align"]),
            int(h["entsize"]),
            contents[i],
        )
        for i, h in enumerate(headers)
    )
    symbols = _symbol_table(sections, name)
    relocations = _relocation_sections(sections, len(symbols), name)
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


def _section_bytes(data: memoryview, name: str, index: int, header: np.void) -> memoryview:
    if header["type"] in (SectionType.NOBITS, SectionType.NULL):
        return memoryview(b"")
    offset, size = int(header["offset"]), int(header["size"])
    if offset + size > len(data):
        raise ElfError(
            f"{name}: section {index} at offset {offset} (+{size}) lies outside the file"
        )
    return data[offset : offset + size]


def _strings(table: memoryview, offsets: np.ndarray, name: str, what: str) -> list[str]:
    """The NUL-terminated strings at `offsets` of a string table."""
    blob = bytes(table)
    size = len(blob)
    found: list[str] = []
    find = blob.find
    for offset in offsets.tolist():
        if offset >= size:
            if offset == 0:
                found.append("")
                continue
            raise ElfError(f"{name}: {what} at string offset {offset} lies outside the table")
        end = find(b"\0", offset)
        found.append(blob[offset : end if end >= 0 else size].decode("utf-8", "replace"))
    return found


def _symbol_table(sections: tuple[Section, ...], name: str) -> SymbolTable:
    table = next((s for s in sections if s.type == SectionType.SYMTAB), None)
    raw = EMPTY_SYMBOLS
    names: list[str] = []
    if table is not None:
        if table.size % SYM_SIZE or table.entsize not in (0, SYM_SIZE):
            raise ElfError(f"{name}: symbol table '{table.name}' has a size of {table.size}")
        if table.link >= len(sections):
            raise ElfError(f"{name}: symbol table '{table.name}' links to section {table.link}")
        raw = np.frombuffer(table.data, SYM_DTYPE)
        names = _strings(sections[table.link].data, raw["name"], name, "symbol name")
    shndx = raw["shndx"].astype(np.uint32)
    reserved = shndx >= SectionIndex.LORESERVE
    shndx[reserved] |= np.uint32(RESERVED_BASE)
    extended = next((s for s in sections if s.type == SectionType.SYMTAB_SHNDX), None)
    if extended is not None:
        wide = np.frombuffer(extended.data[: len(extended.data) // 4 * 4], "<u4")
        if len(wide) < len(raw):
            raise ElfError(f"{name}: '{extended.name}' is shorter than the symbol table")
        marked = raw["shndx"] == SectionIndex.XINDEX
        shndx[marked] = wide[: len(raw)][marked]
    bad = (shndx < RESERVED_BASE) & (shndx >= max(len(sections), 1))
    if bad.any():
        index = int(np.nonzero(bad)[0][0])
        raise ElfError(f"{name}: symbol {index} ('{names[index]}') lies in section {shndx[index]}")
    return SymbolTable(
        tuple(names),
        raw["value"].astype(np.uint64),
        raw["size"].astype(np.uint64),
        (raw["info"] >> 4).astype(np.uint8),
        (raw["info"] & 15).astype(np.uint8),
        raw["other"].astype(np.uint8),
        shndx,
    )


def _relocation_sections(
    sections: tuple[Section, ...], symbol_count: int, name: str
) -> dict[int, int]:
    found: dict[int, int] = {}
    for section in sections:
        if section.type != SectionType.RELA:
            continue
        if section.size % RELA_SIZE:
            raise ElfError(f"{name}: relocation section '{section.name}' has size {section.size}")
        if section.info >= len(sections):
            raise ElfError(f"{name}: '{section.name}' applies to section {section.info}")
        raw = np.frombuffer(section.data, RELA_DTYPE)
        if len(raw):
            highest = int((raw["info"] >> np.uint64(32)).max())
            if highest >= max(symbol_count, 1) and section.name != ".rela.dyn":
                raise ElfError(f"{name}: '{section.name}' uses symbol {highest} of {symbol_count}")
            target = sections[section.info]
            if target.type != SectionType.NULL and int(raw["offset"].max()) >= max(
                target.addr + target.size, 1
            ):
                raise ElfError(f"{name}: '{section.name}' reaches beyond '{target.name}'")
        found.setdefault(section.info, section.index)
    return found
