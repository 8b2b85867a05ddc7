"""The shipped kernel: a bzImage or a vmlinux, as an ELF file read by virtual address.

A bzImage is real-mode setup code, then a decompressor that carries the compressed kernel. The
setup header (linux, Documentation/x86/boot.rst) says where: `setup_sects` at 0x1f1 gives the size
of the setup code, `payload_offset` at 0x248 and `payload_length` at 0x24c the compressed kernel
behind it. Uncompressed it is an ELF file with section headers but without a symbol table.
"""

from __future__ import annotations

import bisect
import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import lz4.block
import zstandard

from ..base.errors import ElfError
from ..base.fs import read_bytes
from ..elf import notes, reader
from ..elf.constants import MAGIC, SectionType
from ..elf.model import ElfFile, Section
from .release import find_banner

SECTOR = 512
LZ4_BLOCK = 8 << 20


@dataclass(frozen=True)
class KernelImage:
    """One kernel: its ELF, its `Linux version` line, release and build-id (hex)."""

    path: Path
    elf: ElfFile
    banner: str
    release: str
    build_id: str

    @cached_property
    def _by_address(self) -> tuple[list[int], list[Section]]:
        placed = [s for s in self.elf.sections if s.is_alloc and s.size]
        placed.sort(key=lambda s: s.addr)
        return [s.addr for s in placed], placed

    def section_at(self, address: int) -> Section | None:
        """The section that holds `address` (link-time, before KASLR), NOBITS ones included."""
        starts, placed = self._by_address
        index = bisect.bisect_right(starts, address) - 1
        if index >= 0 and address < placed[index].addr + placed[index].size:
            return placed[index]
        return None

    def read(self, address: int, size: int) -> memoryview:
        """`size` bytes at `address`. Raises ElfError outside the sections that have content."""
        section = self.section_at(address)
        if section is not None:
            start = address - section.addr
            if start + size <= len(section.data):
                return section.data[start : start + size]
        where = f"section '{section.name}' has no such bytes" if section else "no section there"
        raise ElfError(f"{self.path}: cannot read {size} bytes at {address:#x}: {where}")


def load(path: Path) -> KernelImage:
    """Reads a bzImage or a vmlinux. Raises NotFoundError, ResourceError or ElfError."""
    return parse(read_bytes(path), path)


def parse(blob: bytes, path: Path) -> KernelImage:
    """Reads a bzImage or a vmlinux from memory; `path` is for messages. Raises ElfError."""
    elf = reader.parse(unpack(blob, name=str(path)), name=str(path))
    banner = None
    for section in elf.sections:
        if section.is_alloc and len(section.data):
            banner = banner or find_banner(bytes(section.data))
    if banner is None:
        raise ElfError(f"{path}: no 'Linux version' line in it, so it is not a kernel image")
    return KernelImage(path, elf, banner.text, banner.release, build_id(elf))


def unpack(blob: bytes, *, name: str) -> bytes:
    """The vmlinux inside a bzImage (or `blob` itself when it is an ELF file). Raises ElfError."""
    if blob[:4] == MAGIC:
        return blob
    if len(blob) < 0x260 or blob[0x202:0x206] != b"HdrS":
        raise ElfError(
            f"{name}: neither a bzImage (no 'HdrS' at offset 0x202) nor an ELF file",
            hint="give the kernel's /boot/vmlinuz-RELEASE",
        )
    setup = (blob[0x1F1] or 4) + 1
    start = setup * SECTOR + int.from_bytes(blob[0x248:0x24C], "little")
    size = int.from_bytes(blob[0x24C:0x250], "little")
    if not size or start + size > len(blob):
        raise ElfError(f"{name}: the payload at {start:#x} (+{size:#x}) lies outside the file")
    vmlinux = decompress(blob[start : start + size], name=name)
    if vmlinux[:4] != MAGIC:
        raise ElfError(f"{name}: the decompressed payload is not an ELF file")
    return vmlinux


def decompress(blob: bytes, *, name: str) -> bytes:
    """Decompresses what starts with the magic of gzip, xz, zstd, bzip2, lzma or (legacy) lz4.

    Bytes behind the stream (a bzImage appends the size) are ignored. Raises ElfError for a damaged
    stream, and for lzo or an unknown magic.
    """
    for magic, (label, method) in _METHODS.items():
        if blob.startswith(magic):
            if method is None:
                raise ElfError(
                    f"{name}: compressed with {label}, which is not supported",
                    hint="give an uncompressed vmlinux (linux: scripts/extract-vmlinux)",
                )
            try:
                return method(blob)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as exc:
                raise ElfError(f"{name}: its {label} data is damaged: {exc}") from exc
            except (zstandard.ZstdError, lz4.block.LZ4BlockError) as exc:
                raise ElfError(f"{name}: its {label} data is damaged: {exc}") from exc
    raise ElfError(
        f"{name}: unknown compression (at offset 0: {blob[:6].hex(' ')})",
        hint="it is neither an ELF file nor a compressed one: is it the right file?",
    )


def _gunzip(blob: bytes) -> bytes:
    decompressor = zlib.decompressobj(wbits=31)
    return _whole(decompressor.decompress(blob), decompressor.eof)


def _unxz(blob: bytes) -> bytes:
    decompressor = lzma.LZMADecompressor()
    return _whole(decompressor.decompress(blob), decompressor.eof)


def _bunzip2(blob: bytes) -> bytes:
    decompressor = bz2.BZ2Decompressor()
    return _whole(decompressor.decompress(blob), decompressor.eof)


def _unzstd(blob: bytes) -> bytes:
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    return _whole(decompressor.decompress(blob), decompressor.eof)


def _unlz4(blob: bytes) -> bytes:
    """The legacy format: after the magic, (u32 size, block) of 8 MiB content each.

    A bzImage has the uncompressed size, 4 bytes, at the end; it cannot be a block's size because
    nothing follows it.
    """
    parts = []
    at = 4
    while at + 8 < len(blob):
        size = int.from_bytes(blob[at : at + 4], "little")
        if not 0 < size <= len(blob) - at - 4:
            raise EOFError(f"a block of {size} bytes at {at:#x} lies outside")
        block = blob[at + 4 : at + 4 + size]
        parts.append(lz4.block.decompress(block, uncompressed_size=LZ4_BLOCK))
        at += 4 + size
    return b"".join(parts)


def _whole(data: bytes, ended: bool) -> bytes:
    if not ended:
        raise EOFError("the stream ends early")
    return data


_METHODS: dict[bytes, tuple[str, Callable[[bytes], bytes] | None]] = {
    b"\x1f\x8b": ("gzip", _gunzip),
    b"\xfd7zXZ\0": ("xz", _unxz),
    b"\x28\xb5\x2f\xfd": ("zstd", _unzstd),
    b"BZh": ("bzip2", _bunzip2),
    b"\x5d\0\0": ("lzma", _unxz),
    b"\x02\x21\x4c\x18": ("lz4", _unlz4),
    b"\x04\x22\x4d\x18": ("lz4 frame", None),  # kbuild uses `lz4 -l`
    b"\x89LZO": ("lzo", None),
}


def build_id(elf: ElfFile) -> str:
    """The GNU build-id in an ELF file's notes as hex, or "" when there is none."""
    for section in elf.sections:
        if section.type != SectionType.NOTE and not section.name.startswith(".note"):
            continue
        found = notes.build_id(bytes(section.data))
        if found:
            return found
    return ""
