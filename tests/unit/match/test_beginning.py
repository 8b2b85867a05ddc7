"""The bytes that a function must begin with, on units compiled and linked here."""

from __future__ import annotations

from pathlib import Path

import pytest
from match_files import SPLIT, built, module, vmlinux

from rebootless.match import Beginning, beginning
from rebootless.match.beginning import ENDBR, SIZE

CODE = """
extern int shared;
int helper(int x) { return x * 7 + 3; }
int shared = 7;
int plain(int a, int b, int c) { return (a * b + c) / (b - c) * (a ^ c); }
int reads(int x) { return shared * x; }
int tiny(int x) { return x; }
"""
LABEL = """
asm(".pushsection __jump_table,\\"aw\\"\\n .balign 8\\n .long {0}+4 - .\\n .long {0}+8 - .\\n"
    ".quad shared - .\\n .popsection");
"""


def begin(folder: Path, name: str, code: str = CODE, *flags: str, linked: bool = True) -> Beginning:
    elf = built(folder, "unit", code, *flags)
    shipped = (vmlinux if linked else module)(folder, {"unit": code}, *flags)
    (symbol,) = elf.symbols.by_name[name]
    (place,) = shipped.candidates(name)
    found = beginning(elf, symbol, shipped, place)
    assert len(found.code) == len(found.mask)
    assert found.code == bytes(shipped.available(place, len(found.code)))
    return found


@pytest.mark.parametrize("linked", [True, False])
def test_bytes_outside_of_fields_stay(tmp_path: Path, linked: bool) -> None:
    assert begin(tmp_path, "plain", linked=linked).mask == b"\xff" * SIZE
    tiny = begin(tmp_path, "tiny", linked=linked)
    assert tiny.mask == b"\xff" * len(tiny.code) and 0 < len(tiny.code) < SIZE


@pytest.mark.parametrize("linked", [True, False])
def test_the_field_of_a_relocation_is_left_out(tmp_path: Path, linked: bool) -> None:
    found = begin(tmp_path, "reads", linked=linked)
    at = found.mask.index(b"\0" * 4)
    assert at > 0 and found.mask == b"\xff" * at + b"\0" * 4 + b"\xff" * (len(found.mask) - at - 4)


def test_what_a_table_names_is_left_out_to_the_end(tmp_path: Path) -> None:
    found = begin(tmp_path, "plain", CODE + LABEL.format("plain"))
    assert found.mask == b"\xff" * 4 + b"\0" * (SIZE - 4)
    fentry = ("-pg", "-mfentry", "-mrecord-mcount", "-mnop-mcount")
    assert begin(tmp_path, "plain", CODE, *fentry).mask == b"\0" * SIZE


def test_a_landing_pad_is_left_out(tmp_path: Path) -> None:
    found = begin(tmp_path, "plain", CODE, "-fcf-protection=branch")
    assert found.code.startswith(ENDBR)
    assert found.mask == b"\0" * 4 + b"\xff" * (SIZE - 4)


def test_a_call_that_the_kernel_rewrites_is_left_out_with_its_opcode(tmp_path: Path) -> None:
    code = "void __x86_return_thunk(void) { }\nint plain(int x) { return x * 5; }"
    found = begin(tmp_path, "plain", code, "-mfunction-return=thunk-extern", *SPLIT)
    at = found.code.index(b"\xe9")
    assert 0 < found.mask.index(0) <= at and not any(found.mask[at:])


def test_what_was_built_in_another_way_is_left_out(tmp_path: Path) -> None:
    elf = built(tmp_path, "unit", CODE)
    shipped = vmlinux(tmp_path, {"unit": CODE.replace("(b - c)", "(b - c - 9)")})
    (symbol,), (place,) = elf.symbols.by_name["plain"], shipped.candidates("plain")
    found = beginning(elf, symbol, shipped, place)
    same = found.mask.count(0xFF)
    assert found.mask == (b"\xff" * same).ljust(len(found.code), b"\0")
    assert same < len(found.code)
