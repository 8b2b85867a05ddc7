"""ELF notes, with the standard library alone: the engine reads them on machines without numpy."""

from __future__ import annotations

import struct

NT_GNU_BUILD_ID = 3


def build_id(notes: bytes) -> str:
    """The GNU build-id among ELF notes (a note section, /sys/kernel/notes) in hex, or ''."""
    at = 0
    while at + 12 <= len(notes):
        name_size, size, kind = struct.unpack_from("<III", notes, at)
        content = at + 12 + (name_size + 3) // 4 * 4
        if kind == NT_GNU_BUILD_ID and notes[at + 12 : at + 12 + name_size] == b"GNU\0":
            return notes[content : content + size].hex()
        at = content + (size + 3) // 4 * 4
    return ""
