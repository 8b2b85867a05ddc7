"""Where x86-64 instructions begin and end (decoded by iced-x86)."""

from __future__ import annotations

from collections.abc import Sequence

from iced_x86 import Decoder, Instruction, Mnemonic


def instruction_ends(code: bytes, offsets: Sequence[int]) -> list[int]:
    """For each offset in `code` (a relocated field), the end of the instruction that covers it.

    A PC-relative field is relative to that end, which is not always 4 bytes on: an immediate
    operand may follow. `code` must start at an instruction. An offset that no instruction covers
    gets offset + 4, the common case.
    """
    wanted = sorted(range(len(offsets)), key=lambda i: offsets[i])
    ends = [offset + 4 for offset in offsets]
    if not wanted:
        return ends
    decoder = Decoder(64, code, ip=0)
    instruction = Instruction()
    position = 0
    while decoder.can_decode and position < len(wanted):
        decoder.decode_out(instruction)
        end = instruction.next_ip
        while position < len(wanted) and offsets[wanted[position]] < end:
            ends[wanted[position]] = end
            position += 1
    return ends


def is_padding(code: bytes | memoryview) -> bool:
    """Whether code consists of no-operations and breakpoints only, as between functions."""
    if not any(byte not in (0x90, 0xCC, 0x00) for byte in code):
        return True
    return all(i.mnemonic in (Mnemonic.NOP, Mnemonic.INT3) for i in Decoder(64, bytes(code)))


def is_branch(code: bytes | memoryview, field: int) -> bool:
    """Whether the 32-bit PC-relative field at `field` is the target of a call, jmp or jcc.

    The opcode stands right before it; the ModRM byte of any other RIP-relative operand is none of
    these values (mod 00, r/m 101).
    """
    if not 1 <= field <= len(code):
        return False
    if code[field - 1] in (0xE8, 0xE9):
        return True
    return field >= 2 and code[field - 2] == 0x0F and code[field - 1] & 0xF0 == 0x80
