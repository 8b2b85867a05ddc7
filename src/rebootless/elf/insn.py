"""Where x86-64 instructions begin and end (decoded by iced-x86)."""

from __future__ import annotations

from collections.abc import Sequence

from iced_x86 import Decoder, Instruction


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
