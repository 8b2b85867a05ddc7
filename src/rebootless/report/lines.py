"""The source line of an instruction, and the chain of inlining that brought it there.

binutils' addr2line answers from an object's DWARF, for one section at a time. A copy of the object
whose code sections have addresses of their own makes one run do for all of them.
"""

from __future__ import annotations

import os
import posixpath
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..base import proc
from ..base.errors import RebootlessError
from ..base.fs import os_failure
from ..elf.model import ElfFile
from .facts import Chain, Frame

TIMEOUT = 60.0  # seconds; it takes hundredths of one
_FIRST = 1 << 32  # beyond any offset in an object
_SPACING = 1 << 32
_SECTION_TABLE = 0x28  # e_shoff in the ELF header
_HEADER_SIZE, _HEADER_ADDR = 64, 16  # of a section header; sh_addr in it
_ANSWER = re.compile(r"(.*):(\d+|\?)(?: \(discriminator \d+\))?")
Place = tuple[int, int]  # section index, offset


def has_lines(elf: ElfFile) -> bool:
    """Whether an object was compiled with line numbers (-g)."""
    section = elf.section_by_name.get(".debug_line")
    return section is not None and section.size > 0


def source_lines(elf: ElfFile, wanted: Mapping[int, Sequence[int]]) -> dict[Place, Chain]:
    """The source of the instructions at `wanted` (section index -> offsets), innermost first.

    Places of unknown source are left out; all are, where the object has no DWARF or addr2line is
    not installed. Raises ResourceError (no memory).
    """
    if not has_lines(elf) or not any(wanted.values()):
        return {}
    blob = bytearray(elf.data)
    (table,) = struct.unpack_from("<Q", blob, _SECTION_TABLE)
    queries: list[tuple[int, Place]] = []
    for number, (section, offsets) in enumerate(sorted(wanted.items())):
        base = _FIRST + number * _SPACING
        struct.pack_into("<Q", blob, table + _HEADER_SIZE * section + _HEADER_ADDR, base)
        queries += [(base + offset, (section, offset)) for offset in offsets]
    output = _ask(bytes(blob), "".join(f"{address:x}\n" for address, _ in queries))
    return _parsed(output, dict(queries), _roots(elf))


def _ask(blob: bytes, queries: str) -> str:
    """addr2line's answers; "" if it is missing or cannot cope with the object's DWARF."""
    handle = os.memfd_create("object.o")
    path = Path(f"/proc/{os.getpid()}/fd/{handle}")
    try:
        with os.fdopen(handle, "wb") as copy:
            copy.write(blob)
            copy.flush()
            argv: list[str | Path] = ["addr2line", "-a", "-i", "-f", "-e", path]
            return proc.run(argv, input=queries, timeout=TIMEOUT).stdout
    except OSError as exc:
        raise os_failure("write", path, exc) from exc
    except RebootlessError:  # without lines there is still much to tell
        return ""


def _parsed(output: str, places: Mapping[int, Place], roots: Sequence[str]) -> dict[Place, Chain]:
    found: dict[Place, Chain] = {}
    known: dict[tuple[str, ...], Chain] = {}
    for block in re.split(r"^0x(?=[0-9a-f]{16}$)", output, flags=re.MULTILINE)[1:]:
        address, *answer = block.rstrip("\n").split("\n")
        lines = tuple(answer)
        if lines not in known:
            known[lines] = _chain(lines, roots)
        if known[lines]:
            found[places[int(address, 16)]] = known[lines]
    return found


def _chain(lines: Sequence[str], roots: Sequence[str]) -> Chain:
    """Pairs of lines, function and file:line, as frames; empty if the source is not known."""
    frames = []
    for function, place in zip(lines[::2], lines[1::2], strict=False):
        match = _ANSWER.fullmatch(place)
        if match is None or match[1] == "??":
            return ()
        number = int(match[2]) if match[2] != "?" else 0
        frames.append(Frame(function, _relative(match[1], roots), number))
    return tuple(frames)


def _relative(path: str, roots: Sequence[str]) -> str:
    for root in roots:
        if path.startswith(root + "/"):
            path = path[len(root) + 1 :]
            break
    return posixpath.normpath(path)


def _roots(elf: ElfFile) -> tuple[str, ...]:
    """The absolute directories that the object's DWARF names, among them that of compilation.

    The longest first: /usr/lib/gcc/x86_64-linux-gnu/12/include is not the tree's.
    """
    found: set[str] = set()
    for name in (".debug_line_str", ".debug_str"):
        section = elf.section_by_name.get(name)
        if section is not None:
            strings = bytes(section.data).split(b"\0")
            found.update(os.fsdecode(s) for s in strings if s.startswith(b"/"))
    return tuple(sorted(found, key=lambda s: (-len(s), s)))
