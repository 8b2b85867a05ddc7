"""Damages object files where it hurts: in the fields of headers, tables and strings.

A change is four numbers: which kind of damage, and three that choose place and value. So any list
of numbers, as hypothesis or a random generator makes them, is a damaged object.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

Change = tuple[int, int, int, int]

INTERESTING = (
    0, 1, 2, 3, 4, 7, 8, 9, 16, 24, 63, 64, 0x7F, 0x80, 0xFF, 0x100, 0xFF00, 0xFF20, 0xFFF1, 0xFFF2,
    0xFFFF, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 24,
    2**64 - 1,
)  # fmt: skip
EHDR = {"type": (16, 2), "machine": (18, 2), "phoff": (32, 8), "shoff": (40, 8), "ehsize": (52, 2),
        "shentsize": (58, 2), "shnum": (60, 2), "shstrndx": (62, 2), "ident": (4, 4)}  # fmt: skip
SHDR = {"name": (0, 4), "type": (4, 4), "flags": (8, 8), "addr": (16, 8), "offset": (24, 8),
        "size": (32, 8), "link": (40, 4), "info": (44, 4), "align": (48, 8),
        "entsize": (56, 8)}  # fmt: skip
SYMBOL = {"name": (0, 4), "info": (4, 1), "other": (5, 1), "shndx": (6, 2), "value": (8, 8),
          "size": (16, 8)}  # fmt: skip
RELA = {"offset": (0, 8), "type": (8, 4), "symbol": (12, 4), "addend": (16, 8)}
SECTION_TYPES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 14, 17, 18, 19)
FLAGS = (0x1, 0x2, 0x4, 0x10, 0x20, 0x30, 0x40, 0x80, 0x200, 0x400)


@dataclass(frozen=True)
class Header:
    """A section of the sound object: where its header is, and what it says."""

    at: int
    type: int
    offset: int
    size: int


class Damaged:
    """A sound object's bytes, and where its tables are."""

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        (shoff,) = struct.unpack_from("<Q", blob, 40)
        (count,) = struct.unpack_from("<H", blob, 60)
        self.headers = []
        for i in range(count):
            _, kind, _, _, offset, size = struct.unpack_from("<IIQQQQ", blob, shoff + 64 * i)
            self.headers.append(Header(shoff + 64 * i, kind, offset, size))
        self.symbols = self._records(2)
        self.relas = self._records(4)
        self.strings = [h for h in self.headers if h.type == 3 and h.size]
        self.filled = [h for h in self.headers if h.type not in (0, 8) and h.size]

    def _records(self, kind: int) -> list[int]:
        """Where the 24-byte records of all tables of one kind begin."""
        tables = [h for h in self.headers if h.type == kind]
        return [at for h in tables for at in range(h.offset, h.offset + h.size - 23, 24)]

    def apply(self, changes: list[Change]) -> bytes:
        """The bytes after all changes."""
        out = bytearray(self.blob)
        for kind, a, b, c in changes:
            out = KINDS[kind % len(KINDS)](self, out, a, b, c) or out
        return bytes(out)

    def _put(self, out: bytearray, at: int, width: int, value: int) -> None:
        if at + width <= len(out):
            out[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")

    def _value(self, out: bytearray, at: int, width: int, choice: int) -> int:
        """An interesting number, a small one, or one near what is there."""
        way, rest = choice % 3, choice // 3
        if way == 0:
            return INTERESTING[rest % len(INTERESTING)]
        if way == 1:
            return rest % 4096
        return int.from_bytes(out[at : at + width], "little") + rest % 33 - 16

    def _field(self, out: bytearray, at: int, fields: dict[str, tuple[int, int]], b: int, c: int
               ) -> None:  # fmt: skip
        place, width = list(fields.values())[b % len(fields)]
        self._put(out, at + place, width, self._value(out, at + place, width, c))

    def elf_header(self, out: bytearray, a: int, b: int, c: int) -> None:
        self._field(out, 0, EHDR, b, c)

    def section_header(self, out: bytearray, a: int, b: int, c: int) -> None:
        self._field(out, self.headers[a % len(self.headers)].at, SHDR, b, c)

    def symbol(self, out: bytearray, a: int, b: int, c: int) -> None:
        if self.symbols:
            self._field(out, self.symbols[a % len(self.symbols)], SYMBOL, b, c)

    def relocation(self, out: bytearray, a: int, b: int, c: int) -> None:
        if self.relas:
            self._field(out, self.relas[a % len(self.relas)], RELA, b, c)

    def symbol_elsewhere(self, out: bytearray, a: int, b: int, c: int) -> None:
        """A symbol's section or name becomes that of another."""
        if self.symbols:
            at, other = (self.symbols[n % len(self.symbols)] for n in (a, b))
            place, width = SYMBOL[("shndx", "name", "value", "info")[c % 4]]
            out[at + place : at + place + width] = out[other + place : other + place + width]

    def relocation_elsewhere(self, out: bytearray, a: int, b: int, c: int) -> None:
        """A relocation takes the place or the target of another."""
        if self.relas:
            at, other = (self.relas[n % len(self.relas)] for n in (a, b))
            place, width = list(RELA.values())[c % 4]
            out[at + place : at + place + width] = out[other + place : other + place + width]

    def renamed_section(self, out: bytearray, a: int, b: int, c: int) -> None:
        """A section gets another's name: code becomes a table, a table becomes data."""
        at, other = (self.headers[n % len(self.headers)].at for n in (a, b))
        out[at : at + 4] = out[other : other + 4]

    def swapped_headers(self, out: bytearray, a: int, b: int, c: int) -> None:
        at, other = (self.headers[n % len(self.headers)].at for n in (a, b))
        out[at : at + 64], out[other : other + 64] = out[other : other + 64], out[at : at + 64]

    def overlap(self, out: bytearray, a: int, b: int, c: int) -> None:
        """A section lies where another one does; its size stays or is the other's."""
        at, other = (self.headers[n % len(self.headers)].at for n in (a, b))
        size = 8 * (1 + c % 2)
        out[at + 24 : at + 24 + size] = out[other + 24 : other + 24 + size]

    def typed(self, out: bytearray, a: int, b: int, c: int) -> None:
        at = self.headers[a % len(self.headers)].at
        self._put(out, at + 4, 4, SECTION_TYPES[b % len(SECTION_TYPES)])

    def flagged(self, out: bytearray, a: int, b: int, c: int) -> None:
        """One flag is turned over; mergeable pools get an entry size that fits or does not."""
        at = self.headers[a % len(self.headers)].at
        flags = int.from_bytes(out[at + 8 : at + 16], "little")
        self._put(out, at + 8, 8, flags ^ FLAGS[b % len(FLAGS)])
        self._put(out, at + 56, 8, (0, 1, 2, 3, 4, 8, 16, 2**31)[c % 8])

    def nobits(self, out: bytearray, a: int, b: int, c: int) -> None:
        """A section without content, of any size."""
        at = self.headers[a % len(self.headers)].at
        self._put(out, at + 4, 4, 8)
        self._put(out, at + 32, 8, INTERESTING[b % len(INTERESTING)])

    def cycle(self, out: bytearray, a: int, b: int, c: int) -> None:
        """Link and info lead to the section itself, or around."""
        first, second = (n % len(self.headers) for n in (a, b))
        place = (40, 44)[c % 2]
        self._put(out, self.headers[first].at + place, 4, second if c % 3 else first)
        self._put(out, self.headers[second].at + place, 4, first)

    def wide_indices(self, out: bytearray, a: int, b: int, c: int) -> None:
        """A table of extended section indices, and a symbol that has its section there."""
        at = self.headers[a % len(self.headers)].at
        self._put(out, at + 4, 4, 18)
        if self.symbols:
            self._put(out, self.symbols[b % len(self.symbols)] + 6, 2, 0xFFFF)
        if c % 2:
            big = max(self.filled, key=lambda h: h.size)
            self._put(out, at + 24, 8, big.offset)
            self._put(out, at + 32, 8, big.size)

    def many_sections(self, out: bytearray, a: int, b: int, c: int) -> None:
        """The counts that do not fit into the ELF header are in section 0."""
        self._put(out, 60, 2, 0)
        self._put(out, self.headers[0].at + 32, 8, self._value(out, 60, 2, b))
        if c % 2:
            self._put(out, 62, 2, 0xFFFF)
            self._put(out, self.headers[0].at + 40, 4, self._value(out, 62, 2, c // 2))

    def string_bytes(self, out: bytearray, a: int, b: int, c: int) -> None:
        """A name changes, loses its end, or is no text."""
        if self.strings:
            table = self.strings[a % len(self.strings)]
            at = table.offset + b % table.size
            out[at : at + 1 + c % 3] = bytes(
                [0, 0x41, 0xFF, 0x2E, 0x24][c % 5] for _ in range(1 + c % 3)
            )

    def unended_strings(self, out: bytearray, a: int, b: int, c: int) -> None:
        if self.strings:
            table = self.strings[a % len(self.strings)]
            start = table.offset + b % table.size
            end = table.offset + table.size
            out[start:end] = bytes(out[start:end]).replace(b"\0", b"x")

    def content(self, out: bytearray, a: int, b: int, c: int) -> None:
        """A byte of a section's content."""
        if self.filled:
            section = self.filled[a % len(self.filled)]
            self._put(out, section.offset + b % section.size, 1, c)

    def anywhere(self, out: bytearray, a: int, b: int, c: int) -> None:
        self._put(out, (a << 8 | b % 256) % len(out), 1 + c % 2 * 3, c)

    def spliced(self, out: bytearray, a: int, b: int, c: int) -> None:
        """The beginning of a section becomes that of another one."""
        if self.filled:
            target, source = (self.filled[n % len(self.filled)] for n in (a, b))
            size = min(target.size, source.size, 1 + c % 96)
            out[target.offset : target.offset + size] = out[source.offset : source.offset + size]

    def truncated(self, out: bytearray, a: int, b: int, c: int) -> bytearray:
        return out[: (a << 8 | b % 256) % len(self.blob)]

    def shortened(self, out: bytearray, a: int, b: int, c: int) -> bytearray:
        """Bytes in the middle are gone, and all that follows has moved."""
        start = (a << 8 | b % 256) % len(out) if out else 0
        return out[:start] + out[start + 1 + c % 64 :]


KINDS = (
    Damaged.section_header, Damaged.section_header, Damaged.section_header,
    Damaged.symbol, Damaged.symbol, Damaged.relocation, Damaged.relocation, Damaged.relocation,
    Damaged.elf_header, Damaged.symbol_elsewhere, Damaged.relocation_elsewhere,
    Damaged.renamed_section, Damaged.renamed_section, Damaged.swapped_headers, Damaged.overlap,
    Damaged.typed, Damaged.flagged, Damaged.flagged, Damaged.nobits, Damaged.cycle,
    Damaged.wide_indices, Damaged.many_sections, Damaged.string_bytes, Damaged.unended_strings,
    Damaged.content, Damaged.anywhere, Damaged.spliced, Damaged.truncated, Damaged.shortened,
)  # fmt: skip
