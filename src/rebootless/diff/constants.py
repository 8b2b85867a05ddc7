"""Constants that the kernel writes into its own code at boot (runtime_const, since 6.11).

In place of a load from memory, a function has the value itself: `mov $0x123456789abcdef,%reg`, and
a section `runtime_ptr_NAME` lists the operands that get the value of the variable NAME. The loader
does nothing of the kind for modules, so in a patch the instruction becomes the load that it stands
for, which is shorter:

    48 b8+r imm64       movabs $..., %reg       becomes
    48 8b /r disp32     mov NAME(%rip), %reg    and a nop of three bytes

The value of such a variable no longer changes. A section `runtime_shift_NAME` lists 8-bit operands
of shifts; there is no instruction of that length that takes a variable, so such code is refused.
"""

from __future__ import annotations

from dataclasses import replace

from ..elf.constants import Reloc
from .atoms import Entries
from .delta import KernelRef, Piece, PieceRef, PieceReloc

POINTERS = "runtime_ptr_"
_OPERAND = 8
_NOP3 = b"\x0f\x1f\x00"


def variable_of(entries: Entries) -> str | None:
    """The variable whose value the places of a section get; None where a load cannot replace it."""
    name = entries.section.name
    plain = name.startswith(POINTERS) and name.removeprefix(POINTERS).isidentifier()
    return name.removeprefix(POINTERS) if plain else None


def loaded(piece: Piece, place: int, variable: PieceRef | KernelRef) -> Piece | None:
    """A piece whose operand at `place` is loaded from a variable; None if the code is another."""
    start, end = place - 2, place + _OPERAND
    if start < 0 or end > len(piece.data):
        return None
    prefix, opcode = piece.data[start], piece.data[start + 1]
    if prefix not in (0x48, 0x49) or opcode & 0xF8 != 0xB8:
        return None
    wide = 0x4C if prefix == 0x49 else 0x48  # the register is in another field now: REX.B, REX.R
    load = bytes([wide, 0x8B, 0x05 | (opcode & 7) << 3]) + bytes(4) + _NOP3
    reloc = PieceReloc(start + 3, int(Reloc.PC32), variable, -4)
    return replace(
        piece,
        data=piece.data[:start] + load + piece.data[end:],
        relocs=tuple(sorted((*piece.relocs, reloc), key=lambda r: r.offset)),
    )
