"""Whether an initial ramdisk is whole, without unpacking more of it than that takes.

The kernel accepts several archives one after the other: plain cpio archives (microcode) and
compressed ones, with zeros between (kernel: Documentation/driver-api/early-userspace/
buffer-format.rst). A full /boot leaves a file whose end is missing; a kernel that boots from it
finds no root file system.
"""

from __future__ import annotations

import bz2
import lzma
import re
import struct
import zlib
from collections.abc import Callable
from typing import Protocol

from ..base.errors import PatchInputError

HINT = "make it again (update-initramfs -u -k RELEASE), and see that /boot is not full"
CPIO = (b"070701", b"070702")
CPIO_HEADER = 110
TRAILER = b"TRAILER!!!\0"
CHUNK = 1 << 20
_NOT_ZERO = re.compile(rb"[^\0]")


class _Decompressor(Protocol):
    """What zlib, lzma and bz2 have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def parts(blob: bytes, *, name: str) -> tuple[str, ...]:
    """The archives in an initial ramdisk by kind, e.g. ("cpio", "zstd").

    Raises PatchInputError when one of them ends early or is of no known kind.
    """
    found: list[str] = []
    at = _skip_zeros(blob, 0)
    while at < len(blob):
        kind, end_of = _kind(blob, at)
        if end_of is None:
            raise PatchInputError(
                f"{name} holds no archive at offset {at} (it begins with {blob[at : at + 6]!r})",
                hint=HINT,
            )
        try:
            at = _skip_zeros(blob, end_of(blob, at))
        except (EOFError, struct.error, ValueError, IndexError) as exc:
            raise PatchInputError(
                f"{name} is cut short or damaged: its {kind} archive at offset {at}: {exc}",
                hint=HINT,
            ) from exc
        found.append(kind)
    if not found:
        raise PatchInputError(f"{name} is empty", hint=HINT)
    return tuple(found)


def _skip_zeros(blob: bytes, at: int) -> int:
    found = _NOT_ZERO.search(blob, at)
    return found.start() if found else len(blob)


def _kind(blob: bytes, at: int) -> tuple[str, Callable[[bytes, int], int] | None]:
    head = blob[at : at + 6]
    for magic, kind, end_of in _KINDS:
        if head.startswith(magic):
            return kind, end_of
    return "", None


def _cpio(blob: bytes, at: int) -> int:
    """From member to member up to the trailer; numbers are eight hexadecimal digits."""
    start = at
    while True:
        if not blob.startswith(CPIO, at):
            raise EOFError(f"no member at offset {at}")
        header = _bytes(blob, at, CPIO_HEADER)
        size, length = int(header[54:62], 16), int(header[94:102], 16)
        name_at = at + CPIO_HEADER
        content = start + _padded(name_at + length - start)
        if blob[name_at : name_at + length] == TRAILER:
            return name_at + length
        at = start + _padded(content + size - start)
        if at >= len(blob):
            raise EOFError("it has no trailer")


def _padded(size: int) -> int:
    return size + -size % 4


def _zstd(blob: bytes, at: int) -> int:
    """Frame after frame, by the sizes in their block headers (RFC 8878, 3.1.1)."""
    while blob.startswith(b"\x28\xb5\x2f\xfd", at):
        descriptor = blob[at + 4]
        single = descriptor >> 5 & 1
        dictionary = (0, 1, 2, 4)[descriptor & 3]
        content = (single, 2, 4, 8)[descriptor >> 6]
        at += 5 + (1 - single) + dictionary + content
        last = False
        while not last:
            header = int.from_bytes(_bytes(blob, at, 3), "little")
            last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
            if kind == 3:
                raise EOFError(f"a block of an unknown kind at offset {at}")
            at += 3 + (1 if kind == 1 else size)  # kind 1 is one byte, repeated
        at += 4 * (descriptor >> 2 & 1)  # the checksum
        _bytes(blob, at - 1, 1)
    return at


def _lz4(blob: bytes, at: int) -> int:
    """Blocks with their sizes before them; the legacy format has no end mark."""
    at += 4
    while at < len(blob):
        (size,) = struct.unpack("<I", _bytes(blob, at, 4))
        if size == 0 or size > (1 << 25):  # padding, or the magic number of what follows
            break
        _bytes(blob, at + 4, size)
        at += 4 + size
    return at


def _bytes(blob: bytes, at: int, size: int) -> bytes:
    found = blob[at : at + size]
    if len(found) < size:
        raise EOFError(f"the file ends at {len(blob)}")
    return found


def _stream(make: Callable[[], _Decompressor]) -> Callable[[bytes, int], int]:
    """For formats whose end only decompressing finds."""

    def end_of(blob: bytes, at: int) -> int:
        decompressor = make()
        while not decompressor.eof:
            if at >= len(blob):
                raise EOFError(f"the file ends at {len(blob)}")
            chunk = blob[at : at + CHUNK]
            try:
                decompressor.decompress(chunk)
            except (zlib.error, lzma.LZMAError, OSError) as exc:
                raise EOFError(str(exc)) from exc
            at += len(chunk)
        return at - len(decompressor.unused_data)

    return end_of


def _unchecked(blob: bytes, _at: int) -> int:
    return len(blob)


_KINDS: tuple[tuple[bytes, str, Callable[[bytes, int], int]], ...] = (
    (CPIO[0], "cpio", _cpio),
    (CPIO[1], "cpio", _cpio),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (b"\x1f\x8b", "gzip", _stream(lambda: zlib.decompressobj(wbits=31))),
    (b"\xfd7zXZ\0", "xz", _stream(lzma.LZMADecompressor)),
    (b"BZh", "bzip2", _stream(bz2.BZ2Decompressor)),
    (b"\x5d\0\0", "lzma", _stream(lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE))),
    (b"\x02\x21\x4c\x18", "lz4", _lz4),
    (b"\x89LZO", "lzo", _unchecked),
)
