"""How a function begins in the shipped file, and which of these bytes stay as they are there.

A jump over a function's first bytes needs to know what should be there: it is written over nothing
else, and the undo puts just that back. Bytes that the kernel itself may have changed are left out
of it: the field of each relocation, and all from the first place on that a table of rewritten
places names, since what such a place becomes may be of another length.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..elf.constants import RELOC_WIDTH
from ..elf.model import ElfFile
from .shipped import Shipped

SIZE = 16  # REBOOTLESS_ENTRY in kmod/rebootless_core.h
ENDBR = b"\xf3\x0f\x1e\xfa"  # a sealed one becomes another instruction of the same length
_REWRITTEN = frozenset({"__mcount_loc", "__patchable_function_entries", "__jump_table",
                        ".static_call_sites", ".altinstructions", ".parainstructions", ".smp_locks",
                        ".retpoline_sites", ".return_sites", ".call_sites"})  # fmt: skip
# What is called where the kernel may write something else, in an object without such tables yet
# (with IBT they are made when the kernel is linked): opcode and field change.
_REWRITTEN_CALLS = ("__x86_", "__SCT__", "__fentry__")
_OPCODE = 2  # the most bytes of a call's or a jump's opcode


@dataclass(frozen=True)
class Beginning:
    """Up to SIZE bytes; `mask` is 0xff for each byte that stays as it was shipped, else 0."""

    code: bytes = b""
    mask: bytes = b""


def beginning(orig: ElfFile, symbol: int, shipped: Shipped, place: int) -> Beginning:
    """The beginning of the function `symbol` of an object, whose shipped code is at `place`.

    What the object has elsewise, though it matches, is left out as well.
    """
    function = orig.symbols[symbol]
    size = min(SIZE, function.size)
    code = bytes(shipped.available(place, size))
    built = bytes(orig.sections[function.shndx].data[function.value :][: len(code)])
    mask = bytearray(b"\xff" * len(code))
    if code.startswith(ENDBR):
        mask[: len(ENDBR)] = bytes(len(ENDBR))
    end = _blank_fields(orig, function.shndx, function.value, mask)
    end = min([end, *_rewritten(orig, function.shndx, function.value, size)])
    differs = (n for n in range(len(code)) if mask[n] and code[n] != built[n])
    end = min(end, next(differs, end))
    return Beginning(code, bytes(mask[:end]).ljust(len(code), b"\0"))


def _blank_fields(orig: ElfFile, section: int, start: int, mask: bytearray) -> int:
    """Clears the fields of relocations; returns where the first rewritten call begins."""
    relocs = orig.relocations(section)
    end = len(mask)
    here = relocs.within(max(start - 7, 0), start + len(mask))
    for offset, kind, target in zip(
        relocs.offset[here].tolist(),
        relocs.type[here].tolist(),
        relocs.symbol[here].tolist(),
        strict=True,
    ):
        at = offset - start
        for n in range(at, at + RELOC_WIDTH.get(kind, 8)):
            if 0 <= n < len(mask):
                mask[n] = 0
        if at >= 0 and orig.symbols.names[target].startswith(_REWRITTEN_CALLS):
            end = min(end, max(at - _OPCODE, 0))
    return end


def _rewritten(orig: ElfFile, section: int, start: int, size: int) -> list[int]:
    """The offsets of places within the function's beginning that tables name."""
    found = []
    for table in orig.sections:
        if table.name not in _REWRITTEN:
            continue
        relocs = orig.relocations(table)
        symbols = relocs.symbol
        places = orig.symbols.value[symbols].astype("i8") + relocs.addend - start
        inside = (orig.symbols.shndx[symbols] == section) & (places >= 0) & (places < size)
        found += places[inside].tolist()
    return found
