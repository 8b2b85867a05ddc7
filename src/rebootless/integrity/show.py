"""Code as text, for people to look at."""

from __future__ import annotations

from functools import cache

from iced_x86 import Decoder, Formatter, FormatterSyntax, Instruction

LONGEST = 1 << 16  # bytes of a function that are decoded to find an instruction's beginning


def instructions(code: bytes, address: int) -> tuple[str, ...]:
    """The instructions of code at an address (AT&T syntax, absolute addresses in hex); pure."""
    formatter = _formatter()
    return tuple(formatter.format(i) for i in Decoder(64, code, ip=address))


def whole(code: bytes, first: int, last: int) -> tuple[int, int]:
    """Begin and end of the instructions that hold the bytes `first` to `last` of a function; pure.

    In what is too long for a function (padding, mostly) those bytes themselves.
    """
    if first > LONGEST:
        return first, last + 1
    begin = end = 0
    instruction = Instruction()
    decoder = Decoder(64, code)
    while end <= last and decoder.can_decode:
        decoder.decode_out(instruction)
        if instruction.ip <= first:
            begin = instruction.ip
        end = instruction.next_ip
    return begin, max(end, last + 1)


@cache
def _formatter() -> Formatter:
    formatter = Formatter(FormatterSyntax.GAS)
    formatter.hex_prefix, formatter.hex_suffix = "0x", ""
    formatter.uppercase_hex = False
    formatter.rip_relative_addresses = False
    formatter.branch_leading_zeros = False
    return formatter
