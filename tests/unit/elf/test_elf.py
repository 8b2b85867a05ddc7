"""Reader and writer on real objects, on damaged ones, and on one with very many sections."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rebootless.base.errors import ElfError
from rebootless.elf.constants import SHN_LIVEPATCH, Binding, Reloc, SectionType, SymbolType
from rebootless.elf.insn import instruction_ends, is_branch
from rebootless.elf.reader import parse, read
from rebootless.elf.writer import OutObject, OutReloc, OutSection, OutSymbol, editable, serialize

SOURCE = """
extern int far(int);
static int hidden = 4;
const char *text(void) { return "some text"; }
__attribute__((noinline)) static int inner(int x) { return x + hidden++; }
int outer(int x) { return inner(x) * far(x); }
"""


@pytest.fixture(scope="module")
def obj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    folder = tmp_path_factory.mktemp("elf")
    (folder / "a.c").write_text(SOURCE)
    command = ["gcc", "-c", "-O2", "-mcmodel=kernel", "-fno-pie", "-ffunction-sections"]
    subprocess.run([*command, "-fdata-sections", "-o", "a.o", "a.c"], cwd=folder, check=True)
    return folder / "a.o"


def tool(*argv: str | Path) -> str:
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout


def test_symbols_and_sections_agree_with_readelf(obj: Path) -> None:
    elf = read(obj)
    outer = elf.symbols[elf.symbols.by_name["outer"][0]]
    assert outer.is_function and not outer.is_local
    assert elf.sections[outer.shndx].name == ".text.outer"
    listed = tool("readelf", "-sW", obj)
    assert f"{len(elf.symbols)} entries" in listed
    assert elf.section_by_name[".text.outer"].is_exec


def test_relocations_are_sorted_and_named(obj: Path) -> None:
    elf = read(obj)
    relocs = elf.relocations(elf.section_by_name[".text.outer"])
    assert list(relocs.offset) == sorted(relocs.offset)
    targets = {elf.symbols.names[s] for s in relocs.symbol}
    assert "far" in targets
    assert len(elf.relocations(elf.section_by_name[".data.hidden"])) == 0


def test_rewriting_keeps_code_and_relocations(obj: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.o"
    copy.write_bytes(serialize(editable(read(obj))))
    ours, theirs = (tool("objdump", "-drw", path).split("\n", 3)[3] for path in (copy, obj))
    assert ours == theirs
    assert "Warning" not in tool("readelf", "-aW", copy)


def test_rewritten_object_links(obj: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.o"
    copy.write_bytes(serialize(editable(read(obj))))
    tool("ld", "-r", "-o", tmp_path / "linked.o", copy)
    assert "outer" in read(tmp_path / "linked.o").symbols.by_name


def test_serialize_is_deterministic(obj: Path) -> None:
    assert serialize(editable(read(obj))) == serialize(editable(read(obj)))


def test_more_than_65280_sections(tmp_path: Path) -> None:
    out = OutObject()
    for n in range(65_400):
        section = OutSection(f".text.f{n}", flags=6, data=b"\xc3")
        out.sections.append(section)
    last = out.sections[-1]
    symbol = OutSymbol("last", binding=int(Binding.GLOBAL), type=2, section=last)
    out.symbols.append(symbol)
    out.sections[0].relocs.append(OutReloc(0, int(Reloc.R64), symbol, 0))
    out.sections[0].data = bytes(8)
    path = tmp_path / "many.o"
    path.write_bytes(serialize(out))
    elf = read(path)
    found = elf.symbols[elf.symbols.by_name["last"][0]]
    assert elf.sections[found.shndx].name == ".text.f65399"
    assert "65400" in tool("readelf", "-sW", path)


def test_livepatch_symbols_survive() -> None:
    out = OutObject([OutSection(".text", flags=6, data=bytes(8))])
    symbol = OutSymbol(".klp.sym.vmlinux.x,0", binding=1, section=SHN_LIVEPATCH)
    out.symbols.append(symbol)
    out.sections[0].relocs.append(OutReloc(0, int(Reloc.R64), symbol, -3))
    elf = parse(serialize(out), name="klp")
    assert int(elf.symbols.shndx[1]) == SHN_LIVEPATCH
    assert int(elf.relocations(1).addend[0]) == -3


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda b: b[:40], "offset 0"),
        (lambda b: b"MZ" + b[2:], "not an ELF file"),
        (lambda b: b[:4] + b"\x01" + b[5:], "64-bit"),
        (lambda b: b[:18] + b"\xb7\x00" + b[20:], "machine 183"),
        (lambda b: b[:-70], "section headers at offset"),
        (lambda b: b[:62] + b"\xee\x00" + b[64:], "offset 62"),
    ],
)
def test_damage_is_named(obj: Path, damage, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ElfError, match=says):
        parse(damage(obj.read_bytes()), name="bad.o")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_gives_an_elf_error_or_a_value(obj: Path, data: st.DataObject) -> None:
    blob = bytearray(obj.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        elf = parse(bytes(blob), name="fuzz.o")
        for section in elf.sections:
            elf.relocations(section)
        assert elf.symbols_in_section is not None
    except ElfError as exc:
        assert "fuzz.o" in exc.message


def test_instruction_ends_see_trailing_immediates() -> None:
    code = bytes.fromhex("c7050000000001000000e800000000488b0500000000")
    assert instruction_ends(code, [2, 11, 18]) == [10, 15, 22]


def test_branches() -> None:
    assert is_branch(bytes.fromhex("e800000000"), 1)
    assert is_branch(bytes.fromhex("0f8400000000"), 2)
    assert not is_branch(bytes.fromhex("488d0500000000"), 3)


def test_symbol_at_prefers_the_sized_symbol() -> None:
    section = OutSection(".data", flags=3, data=bytes(32))
    out = OutObject([section])
    for name, value, size in (("empty", 8, 0), ("real", 8, 8), ("first", 0, 8)):
        out.symbols.append(OutSymbol(name, value, size, 0, int(SymbolType.OBJECT), section))
    elf = parse(serialize(out), name="s")
    names = [getattr(elf.symbol_at(1, at), "name", None) for at in (0, 8, 15, 31)]
    assert names == ["first", "real", "real", "real"]
    assert np.array_equal(elf.symbols_in_section[1], [3, 1, 2])
    assert elf.sections[1].type == SectionType.PROGBITS
