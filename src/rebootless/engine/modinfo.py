"""Reads what a module says about itself (`.modinfo`), with the standard library alone.

`kernel/modules.py` knows much more about modules; this reader exists because the engine must run
on target machines that have no numpy.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..base.errors import ElfError


@dataclass(frozen=True)
class ModInfo:
    """The tags of a module's `.modinfo` section, and its size in bytes."""

    tags: dict[str, tuple[str, ...]]
    size: int

    def first(self, tag: str) -> str:
        """The first value of a tag, or ''."""
        return self.tags.get(tag, ("",))[0]

    @property
    def name(self) -> str:
        """The module's name as the kernel uses it (with underscores)."""
        return self.first("name").replace("-", "_")

    @property
    def release(self) -> str:
        """The kernel release that the module was built for (first word of vermagic)."""
        return self.first("vermagic").split(" ")[0]

    @property
    def depends(self) -> tuple[str, ...]:
        """The modules that must be loaded before."""
        return tuple(n.replace("-", "_") for n in self.first("depends").split(",") if n)

    @property
    def is_patch(self) -> bool:
        """Whether the module is a live patch: for the kernel's own, or for our core alone."""
        return self.is_livepatch or self.first("rebootless") == "Y"

    @property
    def is_livepatch(self) -> bool:
        """Whether the module carries the mark without which the kernel refuses klp_enable_patch."""
        return self.first("livepatch") == "Y"


def parse(blob: bytes, *, name: str) -> ModInfo:
    """Reads `.modinfo` of a module's bytes; `name` stands in errors. Raises ElfError."""
    if len(blob) < 64 or blob[:6] != b"\x7fELF\x02\x01":
        raise ElfError(f"{name}: not a 64-bit little-endian ELF file (offset 0)")
    try:
        (table,) = struct.unpack_from("<Q", blob, 40)
        count, strings = struct.unpack_from("<HH", blob, 60)
        if count == 0:  # more than 65,279 sections: the true numbers are in section 0
            (count,) = struct.unpack_from("<Q", blob, table + 32)
        if strings == 0xFFFF:
            (strings,) = struct.unpack_from("<I", blob, table + 40)
        headers = [struct.unpack_from("<IIQQQQ", blob, table + 64 * i) for i in range(count)]
        _, _, _, _, base, _ = headers[strings]
    except (struct.error, IndexError, OverflowError) as exc:
        raise ElfError(f"{name}: section headers that offset 40 tells of lie outside it") from exc
    for offset_of_name, _, _, _, offset, size in headers:
        if blob.startswith(b".modinfo\0", base + offset_of_name):
            return ModInfo(_tags(blob[offset : offset + size]), len(blob))
    raise ElfError(
        f"{name}: no .modinfo among the section headers at offset {table:#x}, so this is not a "
        "kernel module"
    )


def _tags(section: bytes) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for entry in section.split(b"\0"):
        key, separator, value = entry.decode(errors="replace").partition("=")
        if separator:
            found.setdefault(key, []).append(value)
    return {key: tuple(values) for key, values in found.items()}
