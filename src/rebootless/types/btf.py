"""Reads BTF, the compact form of type information that the kernel itself carries.

One pass finds where each record starts, and all references are checked at once; a record is decoded
when it is asked for. A module's BTF builds on that of vmlinux (`base`): its types and strings are
numbered on from there. The format is documented in Documentation/bpf/btf.rst.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..base.errors import ElfError

MAGIC = 0xEB9F
HEADER = struct.Struct("<HBBIIIII")
VERSION = 1
VOID = 0
BITS_OF_OFFSET = 24  # of a member of a struct that has bitfields; above them is the width
OFFSET_MASK = (1 << BITS_OF_OFFSET) - 1
TWO, THREE = struct.Struct("<II"), struct.Struct("<III")
MAX_CHAIN = 64  # qualifiers one upon another
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]


class Kind(enum.IntEnum):
    """The kinds of records."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


KINDS = tuple(Kind)
NAMED = (Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.ENUM64, Kind.TYPEDEF, Kind.FUNC)
# Words after the three of every record: always, and for each of its `vlen` entries.
ALWAYS = tuple({Kind.INT: 1, Kind.ARRAY: 3, Kind.VAR: 1, Kind.DECL_TAG: 1}.get(k, 0) for k in Kind)
ENTRY_WORDS = {
    Kind.STRUCT: 3, Kind.UNION: 3, Kind.ENUM: 2, Kind.FUNC_PROTO: 2, Kind.DATASEC: 3,
    Kind.ENUM64: 3,
}  # fmt: skip
EACH = tuple(ENTRY_WORDS.get(k, 0) for k in Kind)
# Kinds whose third word is a type, and kinds whose entries have one, at which word of how many.
REFERRING = (
    Kind.PTR, Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.FUNC, Kind.FUNC_PROTO,
    Kind.VAR, Kind.DECL_TAG, Kind.TYPE_TAG,
)  # fmt: skip
ENTRY_TYPES = {Kind.STRUCT: 1, Kind.UNION: 1, Kind.FUNC_PROTO: 1, Kind.DATASEC: 0}
QUALIFIERS = (Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPE_TAG)
SIGNED, CHAR, BOOL = 1, 2, 4  # the encoding of an INT


class Member(NamedTuple):
    """A member of a struct or union: `offset` in bits; `width` in bits, 0 for no bitfield."""

    name: str
    type: int
    offset: int
    width: int


class Parameter(NamedTuple):
    """A parameter of a prototype; no name and type 0 stand for `...`."""

    name: str
    type: int


@dataclass(frozen=True)
class Btf:
    """One type section, with that which it builds on. Types are numbers; 0 is void.

    `first` is the number of the first type of its own, `kinds` tells the Kind of each. References
    lead to types that exist: `parse` has checked that.
    """

    name: str
    first: int
    kinds: list[int] = field(repr=False, compare=False)
    targets: list[int] = field(repr=False, compare=False)  # or the size, by kind
    starts: list[int] = field(repr=False, compare=False)  # where each record begins
    records: bytes = field(repr=False)
    strings: bytes = field(repr=False)
    _texts: dict[int, str] = field(repr=False, compare=False, default_factory=dict)

    def numbers(self) -> range:
        """The types of its own."""
        return range(self.first, len(self.kinds))

    def type_name(self, number: int) -> str:
        """The name of a type, "" for none."""
        return self.text(self._head(number)[0]) if number else "void"

    def size(self, number: int) -> int:
        """The size in bytes of an int, float, enum, struct or union."""
        return self.targets[number]

    def is_flagged(self, number: int) -> bool:
        """The kind's flag: a union declared forward, an enum with signed values."""
        return bool(self._head(number)[1] >> 31)

    def integer(self, number: int) -> tuple[int, int, int]:
        """An int's encoding (SIGNED, CHAR, BOOL), offset in bits and width in bits."""
        at = self.starts[number] + THREE.size
        width, _, offset, encoding = self.records[at : at + 4]
        return encoding & 0xF, offset, width

    def array(self, number: int) -> tuple[int, int]:
        """The element's type and how many there are (0 for a flexible array)."""
        element, _, count = THREE.unpack_from(self.records, self.starts[number] + THREE.size)
        return element, count

    def raw_members(self, number: int) -> tuple[bool, Iterator[tuple[int, int, int]]]:
        """Whether offsets hold widths of bitfields, and name, type and offset of each member."""
        info = self._head(number)[1]
        start = self.starts[number] + THREE.size
        return bool(info >> 31), THREE.iter_unpack(
            self.records[start : start + THREE.size * (info & 0xFFFF)]
        )

    def members(self, number: int) -> tuple[Member, ...]:
        """The members of a struct or union, in order."""
        split, rows = self.raw_members(number)
        return tuple(
            Member(
                self.text(text),
                kind,
                offset & OFFSET_MASK if split else offset,
                offset >> BITS_OF_OFFSET if split else 0,
            )
            for text, kind, offset in rows
        )

    def enumerators(self, number: int) -> tuple[tuple[str, int], ...]:
        """The names of an enum with their values, in order."""
        _, info, _ = self._head(number)
        wide = self.kinds[number] == Kind.ENUM64
        start, count = self.starts[number] + THREE.size, info & 0xFFFF
        if wide:
            size, form, top = THREE.size, THREE, 63
        else:
            size, form, top = TWO.size, TWO, 31
        rows = [
            (text, value[0] | value[1] << 32 if wide else value[0])
            for text, *value in form.iter_unpack(self.records[start : start + size * count])
        ]
        # Before the flag was defined, the values of every 32-bit enum were signed.
        signed = bool(info >> 31) or not wide
        return tuple(
            (self.text(text), value - (1 << top + 1) if signed and value >> top else value)
            for text, value in rows
        )

    def parameters(self, number: int) -> tuple[Parameter, ...]:
        """The parameters of a prototype."""
        start = self.starts[number] + THREE.size
        end = start + TWO.size * (self._head(number)[1] & 0xFFFF)
        rows = TWO.iter_unpack(self.records[start:end])
        return tuple(Parameter(self.text(text), kind) for text, kind in rows)

    def plain(self, number: int) -> int:
        """A type without its qualifiers. Raises ElfError for qualifiers that go round."""
        start = number
        for _ in range(MAX_CHAIN):
            if self.kinds[number] not in QUALIFIERS:
                return number
            number = self.targets[number]
        raise self.broken(start, "has qualifiers that never end")

    def named(self, *, functions: bool = True) -> Iterator[tuple[Kind, str, int]]:
        """Kind, name and number of each struct, union, enum, typedef and function of its own."""
        wanted = {int(kind) for kind in NAMED if functions or kind is not Kind.FUNC}
        for number, kind in enumerate(self.kinds[self.first :], self.first):
            if kind in wanted and (text := self._head(number)[0]):
                yield KINDS[kind], self.text(text), number

    def broken(self, number: int, what: str) -> ElfError:
        """The error for a type that makes no sense."""
        return ElfError(f"{self.name}: the type at offset {self.starts[number]} of all {what}")

    def text(self, offset: int) -> str:
        """The string at an offset."""
        found = self._texts.get(offset)
        if found is None:
            end = self.strings.index(b"\0", offset)
            found = self._texts[offset] = self.strings[offset:end].decode("utf-8", "replace")
        return found

    def _head(self, number: int) -> tuple[int, int, int]:
        return THREE.unpack_from(self.records, self.starts[number])


def parse(blob: bytes | memoryview, *, name: str, base: Btf | None = None) -> Btf:
    """Reads a type section; `base` is what its types and strings are numbered on from.

    Raises ElfError for what is no BTF, naming the offset.
    """
    data = memoryview(blob)
    if len(data) < HEADER.size:
        raise ElfError(f"{name}: {len(data)} bytes are too short for BTF (offset 0)")
    magic, version, _, header, types_at, types_size, strings_at, size = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ElfError(f"{name}: not BTF: {magic:#06x} at offset 0")
    if version != VERSION:
        raise ElfError(f"{name}: BTF of version {version} at offset 2 is unknown")
    origin, strings_at = header + types_at, header + strings_at
    if types_size % 4 or origin + types_size > len(data):
        raise ElfError(f"{name}: types at offset {origin} (+{types_size}) lie outside of the data")
    strings = bytes(data[strings_at : strings_at + size])
    if len(strings) != size or not strings.endswith(b"\0"):
        raise ElfError(f"{name}: strings at offset {strings_at} (+{size}) have no end")
    records = bytes(data[origin : origin + types_size])
    words = np.frombuffer(records, "<u4")
    starts = np.array(_starts(memoryview(records).cast("I"), name, origin), np.int64)
    infos, targets = words[starts + 1].astype(np.int64), words[starts + 2]
    kinds = infos >> 24 & 0x1F
    before = base or EMPTY
    check = _Check(name, origin, words, starts, kinds, infos & 0xFFFF)
    check.types(targets, len(before.kinds) + len(starts))
    check.names(len(before.strings) + size)
    return Btf(
        name=name,
        first=len(before.kinds),
        kinds=before.kinds + kinds.tolist(),
        targets=before.targets + targets.tolist(),
        starts=before.starts + (4 * starts + len(before.records)).tolist(),
        records=before.records + records,
        strings=before.strings + strings,
    )


EMPTY = Btf("nothing", 0, [Kind.VOID], [0], [0], b"", b"")


def _starts(words: memoryview, name: str, origin: int) -> list[int]:
    """Where each record starts, in words: each has a length that only it tells."""
    starts, at, end = [], 0, len(words)
    while at + 3 <= end:
        info = words[at + 1]
        kind = info >> 24 & 0x1F
        if not 0 < kind < len(KINDS):
            raise ElfError(f"{name}: unknown kind {kind} of type at offset {origin + 4 * at}")
        starts.append(at)
        at += 3 + ALWAYS[kind] + EACH[kind] * (info & 0xFFFF)
    if at != end:
        where = starts[-1] if at > end else at
        raise ElfError(f"{name}: the type at offset {origin + 4 * where} is cut off")
    return starts


@dataclass(frozen=True)
class _Check:
    """Whether the references of all records lead somewhere."""

    name: str
    origin: int
    words: U32
    starts: I64
    kinds: I64
    counts: I64

    def types(self, targets: U32, end: int) -> None:
        """Raises ElfError for a reference to a type that is not there."""
        self._below(targets, self.starts, np.isin(self.kinds, REFERRING), end, "type")
        arrays = self.starts[self.kinds == Kind.ARRAY]
        for word in (arrays + 3, arrays + 4):
            self._below(self.words[word], arrays, np.True_, end, "type")
        for kind, column in ENTRY_TYPES.items():
            at = self._entries(kind) + column
            self._below(self.words[at], at, np.True_, end, "type")

    def names(self, end: int) -> None:
        """Raises ElfError for a name beyond the strings."""
        self._below(self.words[self.starts], self.starts, np.True_, end, "string")
        for kind in ENTRY_WORDS:
            if kind is not Kind.DATASEC:
                at = self._entries(kind)
                self._below(self.words[at], at, np.True_, end, "string")

    def _entries(self, kind: Kind) -> I64:
        """The first word of each entry of all records of a kind."""
        wanted = self.kinds == kind
        counts = self.counts[wanted]
        within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        found: I64 = np.repeat(self.starts[wanted] + 3, counts) + ENTRY_WORDS[kind] * within
        return found

    def _below(
        self, values: U32, at: I64, wanted: npt.NDArray[np.bool_] | np.bool_, end: int, what: str
    ) -> None:
        bad = np.nonzero((values >= end) & wanted)[0]
        if len(bad):
            first = bad[0]
            raise ElfError(
                f"{self.name}: the record at offset {self.origin + 4 * int(at[first])} refers to "
                f"{what} {int(values[first])} of {end}"
            )
