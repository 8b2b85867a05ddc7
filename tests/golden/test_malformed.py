"""Damaged objects: every step answers with a value or an ElfError that names the offset.

`bench/fuzz.py` does the same many thousand times, with new examples each time.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rebootless.base.errors import ElfError
from rebootless.diff import diff
from rebootless.elf.model import ElfFile
from rebootless.elf.reader import parse
from rebootless.elf.writer import OutObject, OutReloc, OutSection, OutSymbol, serialize
from rebootless.engine import modinfo
from rebootless.module.relocs import finish

from .damage import Change, Damaged
from .survive import everything, finish_module, linked_module, object_pair, small_objects
from .test_tables import MANY

Compile = Callable[[str, str], Path]
OFFSET = re.compile(r"offset (0x[0-9a-f]+|\d+)")
WORD = st.integers(0, 2**16)
CHANGES = st.lists(st.tuples(WORD, WORD, WORD, WORD), min_size=1, max_size=5)
SHARED = [HealthCheck.function_scoped_fixture]


def answers(step: Callable[[], object]) -> None:
    try:
        step()
    except ElfError as exc:
        assert OFFSET.search(exc.message), exc.message


@settings(max_examples=300, suppress_health_check=SHARED)
@given(changes=CHANGES)
def test_damaged_objects(damaged: Damaged, whole: ElfFile, changes: list[Change]) -> None:
    blob = damaged.apply(changes)
    answers(lambda: everything(blob, whole, first=False))
    answers(lambda: everything(blob, whole, first=True))


@pytest.mark.parametrize("number", range(len(small_objects())))
@settings(max_examples=150)
@given(changes=CHANGES)
def test_damaged_objects_made_by_hand(number: int, changes: list[Change]) -> None:
    sound = small_objects()[number]
    whole, blob = parse(sound, name="whole.o"), Damaged(sound).apply(changes)
    answers(lambda: everything(blob, whole, first=False))
    answers(lambda: everything(blob, whole, first=True))


@settings(max_examples=200)
@given(changes=CHANGES)
@example([(1308, 1, 646, 2810)])  # a relocation beyond all code
def test_damaged_modules(changes: list[Change]) -> None:
    blob = Damaged(linked_module()).apply(changes)
    answers(lambda: finish_module(blob))
    answers(lambda: modinfo.parse(blob, name="linked.ko"))


def test_the_sound_ones_are_taken(damaged: Damaged, whole: ElfFile) -> None:
    """Else the tests above would test the first check of the reader only."""
    assert len(diff(parse(damaged.blob, name="o"), whole).changed) == 2
    for blob in small_objects():
        everything(blob, parse(blob, name="o"), first=True)
    names = {s.name for s in parse(finish(linked_module(), name="m.ko"), name="m.ko").symbols}
    assert {".klp.sym.vmlinux.schedule,0", ".klp.sym.ext4.put,2"} <= names


@pytest.fixture
def damaged(compile_c: Compile) -> Damaged:
    return Damaged(compile_c(object_pair(MANY)[0], "whole").read_bytes())


@pytest.fixture
def whole(compile_c: Compile) -> ElfFile:
    return parse(compile_c(object_pair(MANY)[1], "other").read_bytes(), name="o")


def test_strings_without_an_end_do_not_fill_the_memory() -> None:
    """10,000 names that each reach from another place to the end of a table of 1 MB: 10 GB."""
    obj = OutObject([OutSection(".data", flags=3, data=bytes(8))])
    obj.symbols = [OutSymbol(f"s{i}", section=obj.sections[0]) for i in range(10_000)]
    obj.symbols.append(OutSymbol("x" * 1_000_000, section=obj.sections[0]))
    blob = bytearray(serialize(obj))
    (table,) = (s for s in parse(blob, name="o").sections if s.name == ".symtab")
    (names,) = (s for s in parse(blob, name="o").sections if s.name == ".strtab")
    blob[names.offset : names.offset + names.size] = b"x" * names.size
    for i in range(1, 10_001):
        struct.pack_into("<I", blob, table.offset + 24 * i, i)
    with pytest.raises(ElfError, match=f"'.strtab' at offset {names.offset:#x} do not end"):
        parse(blob, name="o")


def test_the_message_names_the_entry() -> None:
    sound = small_objects()[1]
    (relocs,) = (s for s in parse(sound, name="o").sections if s.name == ".rela.text.f")
    blob = bytearray(sound)
    struct.pack_into("<I", blob, relocs.offset + 24 + 12, 99)
    with pytest.raises(ElfError, match=f"offset {relocs.offset + 24:#x} is to symbol 99 of"):
        parse(blob, name="o")


def test_relocation_to_a_symbol_that_was_dropped() -> None:
    """Written as symbol 0 it would be a wrong address without a word."""
    obj = OutObject(sections=[OutSection(".text", data=bytes(8))])
    obj.sections[0].relocs.append(OutReloc(0, 1, OutSymbol("gone"), 0))
    with pytest.raises(ElfError, match="gone"):
        serialize(obj)
