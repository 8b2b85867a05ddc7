"""Damaged objects: the differ answers with a Delta or an ElfError, never with anything else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rebootless.base.errors import ElfError
from rebootless.diff import diff
from rebootless.elf.model import ElfFile
from rebootless.elf.reader import parse
from rebootless.elf.writer import OutObject, OutReloc, OutSection, OutSymbol, serialize

from .test_tables import MANY

Compile = Callable[[str, str], Path]
SOURCE = (
    MANY
    + """
static noinline int deep(int x) { static int n = 3; static const int t[] = { 1, 2, 3 };
	printk("deep %d", n++); return t[x] + get(); }
int k(int x) { return deep(x) + deep(x + 1); }
__attribute__((section(".sched.text"))) int s1(int x) { return helper(x); }
__attribute__((section(".sched.text"))) int s2(int x) { return other(x); }
int alias(int x) __attribute__((alias("s1")));
int zeros[40];
"""
)
INTERESTING = (
    0,
    1,
    2,
    3,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0xFFF1,
    0xFFFF,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)


class Damaged:
    """An object's bytes, and where the fields of its tables are."""

    def __init__(self, blob: bytes) -> None:
        self.blob = blob
        (shoff,) = struct.unpack_from("<Q", blob, 40)
        (count,) = struct.unpack_from("<H", blob, 60)
        self.fields: list[tuple[int, int]] = []  # (offset, width)
        for i in range(count):
            at = shoff + 64 * i
            widths = (4, 4, 8, 8, 8, 8, 4, 4, 8, 8)
            self.fields += self._record(at, widths)
            _, kind, _, _, offset, size = struct.unpack_from("<IIQQQQ", blob, at)
            record = {2: (4, 1, 1, 2, 8, 8), 4: (8, 4, 4, 8)}.get(kind)
            for start in range(offset, offset + size, 24) if record else ():
                self.fields += self._record(start, record or ())

    @staticmethod
    def _record(at: int, widths: tuple[int, ...]) -> list[tuple[int, int]]:
        return [(at + sum(widths[:i]), width) for i, width in enumerate(widths)]

    def with_values(self, changes: list[tuple[int, int]]) -> bytes:
        """Section headers, which are few, are as likely to be hit as all else."""
        out = bytearray(self.blob)
        headers = [f for f in self.fields if f[0] >= int.from_bytes(self.blob[40:48], "little")]
        for choice, value in changes:
            fields = headers if choice % 2 else self.fields
            offset, width = fields[choice // 2 % len(fields)]
            out[offset : offset + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
        return bytes(out)


VALUES = st.one_of(st.sampled_from(INTERESTING), st.integers(0, 4096))
CHANGES = st.lists(st.tuples(st.integers(0, 2**20), VALUES), min_size=1, max_size=4)


def survives(orig: ElfFile, patched: ElfFile) -> None:
    try:
        diff(orig, patched).to_json()
    except ElfError as exc:
        assert exc.message


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(changes=CHANGES)
def test_damaged_objects(damaged: Damaged, whole: ElfFile, changes: list[tuple[int, int]]) -> None:
    try:
        broken = parse(damaged.with_values(changes), name="broken.o")
    except ElfError:
        return
    survives(whole, broken)
    survives(broken, whole)


@pytest.fixture
def damaged(compile_c: Compile) -> Damaged:
    return Damaged(compile_c(SOURCE, "whole").read_bytes())


@pytest.fixture
def whole(compile_c: Compile) -> ElfFile:
    return parse(
        compile_c(SOURCE.replace("helper(2)", "helper(3)"), "other").read_bytes(), name="o"
    )


def test_relocation_to_a_symbol_that_was_dropped() -> None:
    """Written as symbol 0 it would be a wrong address without a word."""
    obj = OutObject(sections=[OutSection(".text", data=bytes(8))])
    obj.sections[0].relocs.append(OutReloc(0, 1, OutSymbol("gone"), 0))
    with pytest.raises(ElfError, match="gone"):
        serialize(obj)
