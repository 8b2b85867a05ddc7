"""Resolving references, emitting unit objects, and livepatch relocations after a link."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from rebootless.base.errors import ElfError, RefusedError
from rebootless.diff.delta import (
    Delta,
    Finding,
    FunctionChange,
    KernelRef,
    Piece,
    PieceKind,
    PieceRef,
    PieceReloc,
    PieceSymbol,
)
from rebootless.elf.constants import SHN_LIVEPATCH, Reloc, SectionFlag, SectionType
from rebootless.elf.reader import parse, read
from rebootless.module.emit import KLP_RECORD, KLP_SECTION, emit
from rebootless.module.relocs import RESIDENT, finish, read_records
from rebootless.module.resolve import Livepatch, Plain, Proof, Resolver


@dataclass(frozen=True)
class Export:
    owner: str
    namespace: str = ""


@dataclass(frozen=True)
class Names:
    """Positions as a table: (object, name) -> positions."""

    table: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)

    def positions_of(self, object_name: str, name: str) -> tuple[int, ...]:
        return self.table.get((object_name, name), ())

    def places_of(self, object_name: str, name: str) -> tuple[str, ...]:
        return tuple(f"at {p}" for p in self.table.get((object_name, name), ()))


def resolver(owner: str = "vmlinux", **changes: object) -> Resolver:
    values: dict[str, object] = {
        "exports": {
            "printk": Export("vmlinux"),
            "spaced": Export("vmlinux", "NS"),
            "jbd2_start": Export("fs/jbd2/jbd2"),
        },
        "siblings": frozenset({"fresh"}),
        "proofs": {7: Proof("local.12", 3)},
        "positions": Names({("vmlinux", "twins"): (1, 2), ("vmlinux", "lone"): (0,)}),
    }
    return Resolver(owner, **(values | changes))  # type: ignore[arg-type]


def ref(
    name: str, orig: int | None = None, *, defined: bool = False, weak: bool = False
) -> KernelRef:
    return KernelRef(name, orig, defined, not defined, weak)


@pytest.mark.parametrize(
    ("owner", "wanted", "found"),
    [
        ("vmlinux", ref("printk"), Plain("printk")),
        ("vmlinux", ref("spaced"), Plain("spaced", "NS")),
        ("vmlinux", ref("fresh"), Plain("fresh")),
        ("vmlinux", ref("local", 7, defined=True), Livepatch("vmlinux", "local.12", 3)),
        ("vmlinux", ref("lone"), Livepatch("vmlinux", "lone", 0)),
        ("vmlinux", ref("maybe", weak=True), Plain("maybe", is_weak=True)),
        ("ext4", ref("jbd2_start"), Livepatch("jbd2", "jbd2_start", 0)),
        ("ext4", ref("printk"), Plain("printk")),
        ("ext4", ref("local", 7, defined=True), Livepatch("ext4", "local.12", 3)),
        ("ext4", ref("lone"), Livepatch("vmlinux", "lone", 0)),
    ],
)
def test_resolved(owner: str, wanted: KernelRef, found: object) -> None:
    assert resolver(owner).resolve(wanted) == found


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (ref("twins"), "ambiguous-symbol"),
        (ref("nowhere"), "unknown-symbol"),
        (ref("unproven", 99, defined=True), "unproven-symbol"),
        (ref("jbd2_start"), "module-symbol"),
    ],
)
def test_refused(wanted: KernelRef, code: str) -> None:
    found = resolver().resolve(wanted)
    assert isinstance(found, Finding) and found.code == code and wanted.name in found.message


def declared(name: str, position: int, owner: str = "vmlinux", orig: int | None = None) -> object:
    wanted = KernelRef(name, orig, False, True, object=owner, position=position)
    return resolver().resolve(wanted)


def test_declared_by_the_author_of_a_c_file() -> None:
    assert declared("lone", 0) == Livepatch("vmlinux", "lone", 0)
    assert declared("lone", 1) == Livepatch("vmlinux", "lone", 0), "the only one has position 0"
    assert declared("twins", 2) == Livepatch("vmlinux", "twins", 2)
    assert declared("local", 0, orig=7) != Livepatch("vmlinux", "local", 0)


@pytest.mark.parametrize(
    ("position", "orig", "name", "owner", "code"),
    [
        (0, None, "twins", "vmlinux", "ambiguous-symbol"),
        (3, None, "twins", "vmlinux", "ambiguous-symbol"),
        (1, 7, "twins", "vmlinux", "wrong-position"),
        (0, None, "nowhere", "vmlinux", "unknown-symbol"),
        (0, None, "lone", "ext4", "module-symbol"),
    ],
)
def test_what_the_author_declares_is_checked(
    position: int, orig: int | None, name: str, owner: str, code: str
) -> None:
    found = declared(name, position, owner, orig)
    assert isinstance(found, Finding) and found.code == code


TEXT = int(SectionFlag.ALLOC | SectionFlag.EXECINSTR)


def function(name: str, relocs: tuple[PieceReloc, ...], size: int = 16) -> Piece:
    return Piece(
        PieceKind.FUNCTION, name, f".text.{name}", int(SectionType.PROGBITS), TEXT, 16, 0,
        bytes(size), size, (PieceSymbol(name, 0, size, 2, False),), relocs,
    )  # fmt: skip


def table(section: str, entsize: int, relocs: tuple[PieceReloc, ...], size: int) -> Piece:
    return Piece(
        PieceKind.TABLE, section, section, int(SectionType.PROGBITS), int(SectionFlag.ALLOC), 8,
        entsize, bytes(range(size)), size, (), relocs,
    )  # fmt: skip


def delta(*pieces: Piece) -> Delta:
    change = FunctionChange("f", "why", 8, 16, 0, 1)
    return Delta((change,), (), (), (), (), (), (), pieces)


def link(blob: bytes, folder: Path) -> bytes:
    (folder / "unit.o").write_bytes(blob)
    subprocess.run(["ld", "-r", "-o", "out.ko", "unit.o"], cwd=folder, check=True)
    return (folder / "out.ko").read_bytes()


def test_own_symbol_of_a_module_hides_the_export_of_that_name() -> None:
    proven = resolver("ext4", proofs={7: Proof("printk", 2)})
    own = KernelRef("printk", 7, defined=True, is_global=True)
    assert proven.resolve(own) == Livepatch("ext4", "printk", 2)
    assert resolver().resolve(own) == Plain("printk")


def test_livepatch_relocation_through_a_real_link(tmp_path: Path) -> None:
    relocs = (
        PieceReloc(1, int(Reloc.PLT32), ref("printk"), -4),
        PieceReloc(6, int(Reloc.PC32), ref("local", 7, defined=True), -4),
    )
    emitted = emit(delta(function("f", relocs)), resolver(), 0)
    assert not emitted.refused
    linked = parse(link(emitted.data, tmp_path), name="out.ko")
    (record,) = read_records(linked)
    assert (record.owner, record.symbol) == ("vmlinux", "vmlinux.local.12,3")
    (tmp_path / "final.ko").write_bytes(finish(linked.data.tobytes(), name="out.ko"))
    final = read(tmp_path / "final.ko")
    rela = final.section_by_name[".klp.rela.vmlinux..text.f"]
    assert rela.flags & SectionFlag.RELA_LIVEPATCH and rela.flags & SectionFlag.ALLOC
    assert final.sections[rela.info].name == ".text.f"
    index = final.symbols.by_name[".klp.sym.vmlinux.local.12,3"][0]
    assert int(final.symbols.shndx[index]) == SHN_LIVEPATCH
    assert KLP_SECTION not in final.section_by_name
    ordinary = final.section_by_name[".rela.text.f"]
    assert ordinary.size == 24 and "printk" in final.symbols.by_name
    assert not [n for n in final.symbols.names if n.startswith("__rebootless_entry")]


def with_list(folder: Path) -> None:
    """The empty list of the module's main file, linked before the units."""
    text = '.section .rebootless.relocs,"a"\n.globl list\nlist: .fill 4, 8, 0\n'
    text += ".data\n.quad list\n"
    (folder / "main.s").write_text(text)
    subprocess.run(["as", "main.s", "-o", "main.o"], cwd=folder, check=True)
    command = ["ld", "-r", "-o", "out.ko", "main.o", "unit.o"]
    subprocess.run(command, cwd=folder, check=True)


def resident(blob: bytes) -> list[tuple[str, int, str, int, int]]:
    """The list as the core reads it: place's section and offset, name, type, addend."""
    elf = parse(blob, name="final.ko")
    section = elf.section_by_name[RESIDENT]
    assert section.flags == SectionFlag.ALLOC
    data, relocs = bytes(section.data), elf.relocations(section)
    assert all(kind == Reloc.R64 for kind in relocs.type)
    where = {
        int(o): (elf.sections[int(elf.symbols.shndx[s])].name, int(elf.symbols.value[s]) + int(a))
        for o, s, a in zip(relocs.offset, relocs.symbol, relocs.addend, strict=True)
    }
    found = []
    for at in range(0, len(data), KLP_RECORD.size):
        if at not in where:
            assert data[at : at + KLP_RECORD.size] == bytes(KLP_RECORD.size), "ends the list"
            return found
        _, _, kind, zero, addend = KLP_RECORD.unpack_from(data, at)
        (place, offset), (names, start) = where[at], where[at + 8]
        assert names == RESIDENT and zero == 0
        name = data[start : data.index(b"\0", start)].decode()
        found.append((place, offset, name, kind, addend))
    raise AssertionError("no record ends the list")


def module_and_kernel(folder: Path) -> bytes:
    """A linked module of a unit of ext4 that refers to ext4 twice and to vmlinux once."""
    relocs = (
        PieceReloc(1, int(Reloc.PLT32), ref("local", 7, defined=True), -4),
        PieceReloc(6, int(Reloc.PC32), ref("lone"), -4),
        PieceReloc(10, int(Reloc.R32S), ref("local", 7, defined=True), 16),
    )
    emitted = emit(delta(function("f", relocs)), resolver("ext4"), 0)
    assert not emitted.refused
    (folder / "unit.o").write_bytes(emitted.data)
    with_list(folder)
    return (folder / "out.ko").read_bytes()


def test_the_core_gets_what_the_loader_does_not_apply(tmp_path: Path) -> None:
    linked = module_and_kernel(tmp_path)
    own = [
        (".text.f", 1, "ext4|ext4.local.12,3", Reloc.PLT32, -4),
        (".text.f", 10, "ext4|ext4.local.12,3", Reloc.R32S, 16),
    ]
    with_livepatch = finish(linked, name="out.ko")
    assert resident(with_livepatch) == own
    assert b".klp.rela.ext4..text.f" in with_livepatch, "for the kernel's own engine"
    without = finish(linked, name="out.ko", livepatch=False)
    kernel = (".text.f", 6, "vmlinux|vmlinux.lone,0", Reloc.PC32, -4)
    assert resident(without) == [own[0], kernel, own[1]]
    assert b".klp." not in without, "the loader of such a kernel refuses them"


def test_no_relocation_is_lost_for_want_of_a_list(tmp_path: Path) -> None:
    module_and_kernel(tmp_path)
    linked = link((tmp_path / "unit.o").read_bytes(), tmp_path)
    with pytest.raises(ElfError, match=r"no section .rebootless.relocs"):
        finish(linked, name="out.ko")


def test_symbol_too_long_for_the_kernel(tmp_path: Path) -> None:
    long = Resolver("vmlinux", {}, frozenset(), {7: Proof("x" * 200, 0)}, Names())
    relocs = (PieceReloc(1, int(Reloc.PC32), ref("x", 7, defined=True), -4),)
    linked = link(emit(delta(function("f", relocs)), long, 0).data, tmp_path)
    assert finish(linked, name="out.ko")
    with pytest.raises(RefusedError, match="longer than the kernel's 127"):
        finish(linked, name="out.ko", max_symbol=127)


def jump_table(key: str, orig: int | None) -> Piece:
    entry = (
        PieceReloc(0, int(Reloc.PC32), PieceRef(0), 3),
        PieceReloc(4, int(Reloc.PC32), PieceRef(0), 9),
        PieceReloc(8, int(Reloc.PC64), ref(key, orig, defined=orig is not None), 8),
    )
    second = tuple(PieceReloc(16 + r.offset, r.type, r.target, r.addend) for r in entry[:2])
    second += (PieceReloc(24, int(Reloc.PC64), ref("printk"), 0),)
    return table("__jump_table", 16, entry + second, 32)


def test_module_tracepoint_is_dropped_with_a_warning() -> None:
    proofs = {7: Proof("__tracepoint_ext4_x", 0)}
    emitted = emit(
        delta(function("f", ()), jump_table("__tracepoint_ext4_x", 7)),
        resolver("ext4", proofs=proofs), 0,
    )  # fmt: skip
    assert [w.code for w in emitted.warnings] == ["tracepoint-dropped"]
    assert "ext4_x" in emitted.warnings[0].message
    elf = parse(emitted.data, name="unit.o")
    kept = elf.section_by_name["__jump_table"]
    assert bytes(kept.data) == bytes(range(16, 32)), "the other entry stays"


def test_module_private_static_key_is_refused() -> None:
    proofs = {7: Proof("my_key", 0)}
    emitted = emit(
        delta(function("f", ()), jump_table("my_key", 7)), resolver("ext4", proofs=proofs), 0
    )
    assert [(r.code, r.symbol) for r in emitted.refused] == [("private-static-key", "my_key")]


@pytest.mark.parametrize(
    ("name", "refused", "warned"),
    [("my_key", ["private-static-key"], []), ("__tracepoint_x", [], ["tracepoint-dropped"])],
)
def test_private_keys_of_a_kernel_without_livepatch(
    name: str, refused: list[str], warned: list[str]
) -> None:
    without = replace(resolver(proofs={7: Proof(name, 0)}), livepatch=False)
    emitted = emit(delta(function("f", ()), jump_table(name, 7)), without, 0)
    assert [r.code for r in emitted.refused] == refused
    assert [w.code for w in emitted.warnings] == warned
    kept = parse(emitted.data, name="unit.o").section_by_name["__jump_table"]
    assert bytes(kept.data) == bytes(range(16, 32)), "the entry of an exported key stays"


def test_vmlinux_static_key_is_a_livepatch_relocation() -> None:
    proofs = {7: Proof("my_key", 0)}
    emitted = emit(delta(function("f", ()), jump_table("my_key", 7)), resolver(proofs=proofs), 0)
    assert not emitted.refused and not emitted.warnings
    elf = parse(emitted.data, name="unit.o")
    assert elf.section_by_name["__jump_table"].size == 32
    assert KLP_SECTION in elf.section_by_name
