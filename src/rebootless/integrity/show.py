"""Code as text, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from iced_x86 import Decoder, Formatter, FormatterSyntax


@dataclass(frozen=True)
class Line:
    """An instruction: where it begins and ends, and its text."""

    address: int
    end: int
    text: str


def instructions(code: bytes, address: int) -> list[Line]:
    """The instructions of code at an address (AT&T syntax, absolute addresses in hex); pure."""
    formatter = _formatter()
    return [Line(i.ip, i.next_ip, formatter.format(i)) for i in Decoder(64, code, ip=address)]


@cache
def _formatter() -> Formatter:
    formatter = Formatter(FormatterSyntax.GAS)
    formatter.hex_prefix, formatter.hex_suffix = "0x", ""
    formatter.uppercase_hex = False
    formatter.rip_relative_addresses = False
    formatter.branch_leading_zeros = False
    return formatter
