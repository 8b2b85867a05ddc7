"""Alternatives, retpolines and paravirt calls: the same code in another form is no difference."""

from __future__ import annotations

import struct
from pathlib import Path

import kernel_files
import pytest
from integrity_code import BASE, NOTHING, TABLES, array, branch, distance, judged, make

from rebootless.integrity import live as facts
from rebootless.integrity.layouts import ALTERNATIVES, layouts
from rebootless.integrity.live import Live
from rebootless.integrity.region import Region
from rebootless.integrity.variants import meaning, moved
from rebootless.kernel.image import parse

HOME = BASE + 0x20000
FUNCTION, THUNK, PV = BASE + 0x500, BASE + 0x600, BASE + 0x8000


def alternative(size: int, *codes: bytes) -> dict[str, tuple[int, bytes]]:
    """The sections for alternatives of the code at BASE."""
    table, home = b"", HOME
    for code in codes:
        at = TABLES + len(table)
        table += (
            distance(at, BASE) + distance(at + 4, home) + struct.pack("<HBB", 7, size, len(code))
        )
        home += len(code)
    return {
        ".altinstructions": (TABLES, table),
        ".altinstr_replacement": (HOME, b"".join(codes)),
    }


@pytest.mark.parametrize(
    "found",
    [
        "90 90 90 90 90",  # as shipped
        "0f 1f 44 00 00",  # the no-operations made one
        "0f ae e8 66 90",  # the first replacement, filled up
        "0f 01 ca 66 90",  # the second one
    ],
)
def test_any_variant_will_do_however_it_is_filled_up(found: str) -> None:
    sections = alternative(5, b"\x0f\xae\xe8", b"\x0f\x01\xca")
    assert judged(b"\x90" * 5, bytes.fromhex(found), sections).differences == ()


@pytest.mark.parametrize(
    "found", ["0f ae e8 0f 01", "0f 01 cb 66 90", "0f 1f 44 00 01", "66 90 c3 66 90"]
)
def test_anything_else_is_told(found: str) -> None:
    sections = alternative(5, b"\x0f\xae\xe8", b"\x0f\x01\xca")
    verdict = judged(b"\x90" * 5, bytes.fromhex(found), sections)
    assert "variants" in verdict.differences[0].reason


def test_branches_of_a_replacement_lead_where_they_did() -> None:
    """A jump may have become short, a call must have got another distance."""
    sections = alternative(5, branch(0xE8, HOME, FUNCTION), branch(0xE9, HOME + 5, BASE + 9))
    for found in (
        branch(0xE8, BASE, FUNCTION),
        branch(0xE9, BASE, BASE + 9),
        b"\xeb\x07\x0f\x1f\x00",
    ):
        assert judged(b"\x90" * 5, found, sections).differences == ()
    for found in (branch(0xE8, HOME, FUNCTION), b"\xeb\x08\x0f\x1f\x00"):
        assert judged(b"\x90" * 5, found, sections).differences != ()


def test_code_moves_with_its_distances() -> None:
    code = (
        branch(0xE8, HOME, FUNCTION)
        + b"\x74\xf9"
        + b"\x83\x3d"
        + struct.pack("<i", 0x100)
        + b"\x07"
    )
    there = moved(code, HOME, BASE)
    assert there[:5] == branch(0xE8, BASE, FUNCTION)
    assert there[5:7] == code[5:7]  # a jump inside stays
    assert struct.unpack_from("<i", there, 9)[0] == 0x100 + HOME - BASE  # an immediate follows it
    assert moved(code, HOME, HOME) == code


RETPOLINES = {".retpoline_sites": (TABLES, distance(TABLES, BASE))}


@pytest.mark.parametrize(
    ("found", "fine"),
    [
        ("ff d0 0f 1f 00", True),
        ("0f ae e8 ff d0", True),
        ("ff d1 0f 1f 00", False),
        ("ff e0 cc 66 90", False),
    ],
)
def test_a_retpoline_may_become_the_call_it_stands_for(found: str, fine: bool) -> None:
    live = Live(indirect_thunks={THUNK: "rax"})
    verdict = judged(branch(0xE8, BASE, THUNK), bytes.fromhex(found), RETPOLINES, live)
    assert (verdict.differences == ()) == fine


def test_a_paravirt_call_becomes_the_call_of_what_pv_ops_holds() -> None:
    shipped = b"\xff\x14\x25" + struct.pack("<I", PV & 0xFFFFFFFF)
    entry = struct.pack("<QBB6x", BASE, 0, 7)
    live = Live(words={PV: FUNCTION}, pv_ops=frozenset({PV}), pv_nops=frozenset({THUNK}))
    sections = {".parainstructions": (TABLES, entry)}
    right = branch(0xE8, BASE, FUNCTION) + b"\x66\x90"
    assert judged(shipped, right, sections, live).differences == ()
    nothing = bytes.fromhex("0f1f8000000000")
    assert judged(shipped, nothing, sections, live).differences != ()
    empty = Live(words={PV: THUNK}, pv_ops=live.pv_ops, pv_nops=live.pv_nops)
    assert judged(shipped, nothing, sections, empty).differences == ()


def test_a_leap_over_no_operations_means_nothing() -> None:
    idle = b"\xeb\x08\x90\xeb\x05\xcc\xcc\xcc\xcc\xcc"
    assert meaning(idle + b"\x55", BASE, NOTHING) == meaning(b"\x55", BASE, NOTHING)
    busy = b"\xeb\x01\x55" + b"\x55"
    assert meaning(busy, BASE, NOTHING) != meaning(b"\x55", BASE, NOTHING)


class Memory:
    """Memory with a few bytes in it."""

    def __init__(self, content: dict[int, bytes]) -> None:
        self.content = content

    def read(self, spans):
        return [self.content.get(address) for address, _ in spans]


def test_thunks_that_the_kernel_made_are_known_by_their_code() -> None:
    near, far, other = 0xFFFFFFFFC0400000, 0xFFFFFFFFC0400040, 0xFFFFFFFFC0400080
    rows = [
        (BASE, branch(0xE8, BASE, near) + b"\x90"),
        (BASE + 8, b"\x2e" + branch(0xE9, BASE + 9, far)),
    ]
    rows.append((BASE + 16, branch(0xE8, BASE + 16, other) + b"\x90"))
    memory = Memory(
        {near: b"\xff\xe0\xcc\xcc", far: b"\x41\xff\xe3\xcc", other: b"\x55\xc3\xcc\xcc"}
    )
    assert facts.far_thunks(memory, rows, {}) == {near: "rax", far: "r11"}


def test_regions_are_compared_by_byte() -> None:
    region, _, _ = make(b"\x90\x91", b"\x90\x92")
    assert region.differs.tolist() == [False, True]
    assert isinstance(region, Region)
    assert region.altered(array(b"\0").astype("i8"), array(b"\1").astype("i8")).tolist() == [False]


def test_the_layout_of_alternatives_is_told_by_the_table_itself(tmp_path: Path) -> None:
    """Where a kernel has no BTF."""
    for layout in ALTERNATIVES:
        table = b""
        for number in range(7):
            entry = bytearray(layout.size)
            at, lengths = TABLES + len(table), layout.offsets["instrlen"]
            entry[0:4], entry[4:8] = distance(at, BASE), distance(at + 4, HOME + 3 * number)
            entry[lengths : lengths + 2] = b"\5\3"
            table += entry
        blob = kernel_files.make_elf([
            (".text", 1, 6, BASE, b"\xc3" * 64),
            (".rodata", 1, 2, BASE + 0x10000, kernel_files.BANNER),
            (".altinstr_replacement", 1, 6, HOME, bytes(21)),
            (".altinstructions", 1, 2, TABLES, table),
        ])  # fmt: skip
        image = parse(blob, tmp_path / "vmlinux")
        assert layouts(image)["alt_instr"] == layout
