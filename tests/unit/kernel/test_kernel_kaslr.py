"""The list of places that KASLR changes, and moving code by it."""

from __future__ import annotations

import struct
from pathlib import Path

import kernel_files
import numpy as np
import pytest

from rebootless.base.errors import ElfError
from rebootless.kernel import kaslr
from rebootless.kernel.image import parse

TEXT = kernel_files.TEXT
SHIFT = 0x12600000
# a 32-bit address at 4, a distance to per-CPU data at 8, a 64-bit address at 16
CODE = struct.pack("<IIIIQ", 0, 0x81000010, 0x7F000000, 0, TEXT + 0x20) + b"\xc3" * 40


def image(groups: list[list[int]]):
    words = [word for group in groups for word in (0, *(a & 0xFFFFFFFF for a in group))]
    blob = kernel_files.make_vmlinux(text=CODE) + struct.pack(f"<{len(words)}I", *words)
    return parse(blob, Path("vmlinux"))


@pytest.mark.parametrize("middle", [[[TEXT + 8]], []])
def test_every_field_moves_by_its_kind(middle: list[list[int]]) -> None:
    found = kaslr.relocations(image([[TEXT + 16], *middle, [TEXT + 4]]))
    assert len(found) == 2 + len(middle)
    moved = found.moved(np.frombuffer(CODE, np.uint8), TEXT, SHIFT).tobytes()
    fields = struct.unpack("<IIIIQ", moved[:24])
    distance = 0x7F000000 - (SHIFT if middle else 0)
    assert fields == (0, 0x81000010 + SHIFT, distance, 0, TEXT + 0x20 + SHIFT)
    assert moved[24:] == CODE[24:]


def test_a_kernel_that_cannot_be_moved_has_no_list() -> None:
    found = kaslr.relocations(parse(kernel_files.make_vmlinux(text=CODE), Path("vmlinux")))
    assert len(found) == 0
    assert found.moved(np.frombuffer(CODE, np.uint8), TEXT, 0).tobytes() == CODE


def test_half_a_list_is_told() -> None:
    with pytest.raises(ElfError, match="damaged"):
        kaslr.relocations(image([[TEXT + 4]]))
