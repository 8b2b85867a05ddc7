"""The boot header of an x86 kernel image: what a boot loader, and so a kexec, has to know of it.

Field offsets are those of the kernel's Documentation/arch/x86/boot.rst. Only the header is read:
whether the payload unpacks is the boot's business, whether the file is whole is told here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..base.errors import PatchInputError

HEADER = 0x268  # bytes up to the end of the fields that are read
PROTOCOL_64 = 0x020C  # the first that tells whether there is a 64-bit entry
XLF_KERNEL_64 = 1
SECTOR, PARAGRAPH = 512, 16
CERTIFICATES = 144  # the entry of the table of certificates in a PE32+ optional header
HINT = "install the kernel's package again, and see that /boot is not full"


@dataclass(frozen=True)
class BootImage:
    """What the header of a bzImage tells. Sizes are bytes.

    `version` is the line that `file` shows: release, builder, build number and date.
    `memory` is what the kernel needs at its place until it knows its memory.
    """

    version: str
    size: int
    memory: int
    longest_command_line: int
    has_64bit_entry: bool
    is_signed: bool

    @property
    def release(self) -> str:
        """The release that it was built as."""
        return self.version.partition(" ")[0]

    @property
    def build(self) -> str:
        """The part from `#` on, with the distribution's version, as /proc/version ends."""
        mark = self.version.find("#")
        return self.version[mark:] if mark >= 0 else ""


def parse(blob: bytes, *, name: str) -> BootImage:
    """Reads the header of a whole bzImage.

    Raises PatchInputError when it is none, when it is too old, or when its end is missing.
    """
    if len(blob) < HEADER or blob[0x1FE:0x200] != b"\x55\xaa" or blob[0x202:0x206] != b"HdrS":
        raise PatchInputError(f"{name} is not a bzImage (no 'HdrS' at offset 0x202)", hint=HINT)
    (protocol,) = struct.unpack_from("<H", blob, 0x206)
    if protocol < PROTOCOL_64:
        raise PatchInputError(
            f"{name} has boot protocol {protocol >> 8}.{protocol & 0xFF:02}; 2.12 is the first "
            "that a 64-bit kernel can start"
        )
    setup = ((blob[0x1F1] or 4) + 1) * SECTOR
    (paragraphs,) = struct.unpack_from("<I", blob, 0x1F4)
    certificates, signed_end = _certificates(blob)
    # the last paragraph need not be full
    wanted = max(setup + (paragraphs - 1) * PARAGRAPH + 1, signed_end)
    if len(blob) < wanted:
        raise PatchInputError(
            f"{name} is cut short: {len(blob)} of at least {wanted} bytes", hint=HINT
        )
    version_at, xloadflags = struct.unpack_from("<H", blob, 0x20E)[0], blob[0x236]
    longest, memory = (struct.unpack_from("<I", blob, at)[0] for at in (0x238, 0x260))
    text = blob[version_at + 0x200 : setup].partition(b"\0")[0] if version_at else b""
    return BootImage(
        version=text.decode(errors="replace"),
        size=len(blob),
        memory=memory,
        longest_command_line=longest,
        has_64bit_entry=bool(xloadflags & XLF_KERNEL_64),
        is_signed=certificates > 0,
    )


def _certificates(blob: bytes) -> tuple[int, int]:
    """(size, end) of the certificates that an image signed for Secure Boot has at its end."""
    (pe,) = struct.unpack_from("<I", blob, 0x3C)
    entry = pe + 24 + CERTIFICATES
    if blob[pe : pe + 4] != b"PE\0\0" or blob[pe + 24 : pe + 26] != b"\x0b\x02":
        return 0, 0
    if entry + 8 > len(blob):
        return 0, 0
    at, size = struct.unpack_from("<II", blob, entry)
    return size, at + size
