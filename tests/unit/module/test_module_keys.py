"""What the kernel settles at load: keys of modules, keys that are read-only, alternatives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from rebootless.diff.delta import (
    Delta,
    FunctionChange,
    KernelRef,
    Piece,
    PieceKind,
    PieceRef,
    PieceReloc,
    PieceSymbol,
)
from rebootless.elf.constants import Reloc, SectionFlag, SectionType
from rebootless.elf.model import ElfFile
from rebootless.elf.reader import parse
from rebootless.module.emit import EmittedUnit, emit
from rebootless.module.keys import Mirror
from rebootless.module.resolve import Proof, Resolver

JMP, NOP = b"\xeb\x10", b"\x66\x90"
OWN = KernelRef("lock_me", 7, defined=True, is_global=False)


class Nowhere:
    def positions_of(self, object_name: str, name: str) -> tuple[int, ...]:
        return ()


def resolver(owner: str, frozen: Callable[[str, int], bool] = lambda n, p: False) -> Resolver:
    return Resolver(owner, {}, frozenset(), {7: Proof("lock_me", 2)}, Nowhere(), frozen)


def function(code: bytes, relocs: tuple[PieceReloc, ...] = ()) -> Piece:
    flags = int(SectionFlag.ALLOC | SectionFlag.EXECINSTR)
    return Piece(
        PieceKind.FUNCTION, "f", ".text.f", int(SectionType.PROGBITS), flags, 16, 0, code,
        len(code), (PieceSymbol("f", 0, len(code), 2, False),), relocs,
    )  # fmt: skip


def table(section: str, size: int, data: bytes, *relocs: PieceReloc) -> Piece:
    return Piece(
        PieceKind.TABLE, section, section, int(SectionType.PROGBITS), int(SectionFlag.ALLOC), 1,
        size, data, len(data), (), relocs,
    )  # fmt: skip


def emitted(*pieces: Piece, by: Resolver) -> EmittedUnit:
    change = FunctionChange("f", "why", 8, 16, 0, 1)
    return emit(Delta((change,), (), (), (), (), (), (), pieces), by, 3)


def label(place: int, flags: int) -> Piece:
    return table(
        "__jump_table", 16, bytes(16),
        PieceReloc(0, int(Reloc.PC32), PieceRef(0), place),
        PieceReloc(4, int(Reloc.PC32), PieceRef(0), 0),
        PieceReloc(8, int(Reloc.PC64), OWN, 8 + flags),
    )  # fmt: skip


def targets(elf: ElfFile, section: str) -> list[tuple[str, int]]:
    relocs = elf.relocations(elf.section_by_name[section])
    names = [elf.symbols.names[int(s)] for s in relocs.symbol]
    return list(zip(names, relocs.addend.tolist(), strict=True))


@pytest.mark.parametrize("livepatch", [True, False])
@pytest.mark.parametrize(
    ("code", "flags", "initial"),
    [(NOP, 0, False), (JMP, 1, False), (NOP, 1, True), (JMP, 0, True), (JMP, 2, False)],
)
def test_read_only_key_gets_a_mirror(
    code: bytes, flags: int, initial: bool, livepatch: bool
) -> None:
    """What the code does as compiled, and which way is likely, tell the state it is made for."""
    asked: list[tuple[str, int]] = []

    def frozen(name: str, position: int) -> bool:
        asked.append((name, position))
        return True

    by = replace(resolver("vmlinux", frozen), livepatch=livepatch)
    unit = emitted(function(bytes(4) + code + bytes(10)), label(4, flags), by=by)
    assert asked == [("lock_me", 2)] and not unit.refused
    assert unit.mirrors == (Mirror("__rebootless_key_3_0", "__rebootless_keyed_3_0", initial),)
    elf = parse(unit.data, name="unit.o")
    assert targets(elf, "__jump_table")[2] == ("__rebootless_key_3_0", flags)
    (pointer,) = elf.symbols.by_name["__rebootless_keyed_3_0"]
    assert elf.symbols.binding[pointer] == 1
    (record,) = (s for s in elf.sections if s.name == ".rebootless.klp.names")
    assert bytes(record.data) == b"vmlinux|vmlinux.lock_me,2\0"
    (records,) = (s for s in elf.sections if s.name == ".rebootless.klp")
    assert int.from_bytes(records.data[24:32], "little") == 8, "the key is 8 bytes into the symbol"


def test_one_mirror_for_all_entries_of_a_key() -> None:
    first = label(0, 0)
    both = table(
        "__jump_table", 16, bytes(32), *first.relocs,
        *(PieceReloc(16 + r.offset, r.type, r.target, r.addend) for r in first.relocs),
    )  # fmt: skip
    unit = emitted(function(NOP * 8), both, by=resolver("vmlinux", lambda n, p: True))
    assert len(unit.mirrors) == 1
    assert not emitted(function(NOP * 8), both, by=resolver("vmlinux")).mirrors


@dataclass(frozen=True)
class Exported:
    owner: str
    namespace: str = ""


def keyed(
    owner: str, key: KernelRef, frozen: Callable[[str, str], bool] = lambda m, n: False
) -> EmittedUnit:
    """A function of ext4 with a jump label, and a call, of a symbol that `owner` exports."""
    entry = label(0, 0)
    relocs = (*entry.relocs[:2], PieceReloc(8, int(Reloc.PC64), key, 8))
    by = Resolver(
        "ext4", {key.name: Exported(owner)}, frozenset(), {7: Proof("lock_me", 2)}, Nowhere(),
        module_read_only=frozen,
    )  # fmt: skip
    call = PieceReloc(9, int(Reloc.PLT32), key, -4)
    return emitted(function(NOP * 8, (call,)), replace(entry, relocs=relocs), by=by)


SHARED = KernelRef("shared", None, defined=False, is_global=True)
OWN_EXPORT = KernelRef("lock_me", 7, defined=True, is_global=True)


def test_the_kernels_exported_key() -> None:
    unit = keyed("vmlinux", SHARED)
    assert not unit.refused and not unit.warnings
    assert targets(parse(unit.data, name="unit.o"), "__jump_table")[2] == ("shared", 8)


@pytest.mark.parametrize(
    ("owner", "module", "key"),
    [("fs/other-fs", "other_fs", SHARED), ("fs/ext4/ext4", "ext4", OWN_EXPORT)],
)
def test_exported_key_of_a_module_is_an_ordinary_symbol(
    owner: str, module: str, key: KernelRef
) -> None:
    """Else it would be filled in when the labels are settled already; and the author is told."""
    unit = keyed(owner, key)
    assert not unit.refused
    assert targets(parse(unit.data, name="unit.o"), "__jump_table")[2] == (key.name, 8)
    assert [(w.code, w.symbol) for w in unit.warnings] == [("module-needed", key.name)]
    assert f"while {module} is there" in unit.warnings[0].message


@pytest.mark.parametrize(
    ("key", "frozen"),
    [
        pytest.param(replace(SHARED, name="__tracepoint_x"), False, id="tracepoint"),
        pytest.param(SHARED, True, id="read-only"),
    ],
)
def test_exported_key_that_is_not_followed(key: KernelRef, frozen: bool) -> None:
    """A tracepoint is dropped; before 6.13 the kernel would write to a key that is read-only."""
    unit = keyed("fs/other-fs", key, lambda module, name: frozen and module == "other_fs")
    elf = parse(unit.data, name="unit.o")
    assert elf.section_by_name["__jump_table"].size == 0
    codes = [f.code for f in (*unit.refused, *unit.warnings)]
    assert codes == ["private-static-key" if frozen else "tracepoint-dropped"]


def test_static_call_with_a_read_only_key_goes_through_its_trampoline() -> None:
    sites = table(
        ".static_call_sites", 8, bytes(8),
        PieceReloc(0, int(Reloc.PC32), PieceRef(0), 0), PieceReloc(4, int(Reloc.PC32), OWN, 0),
    )  # fmt: skip
    unit = emitted(function(NOP * 8), sites, by=resolver("vmlinux", lambda n, p: True))
    elf = parse(unit.data, name="unit.o")
    assert elf.section_by_name[".static_call_sites"].size == 0 and not unit.refused
    kept = parse(emitted(function(NOP * 8), sites, by=resolver("vmlinux")).data, name="unit.o")
    assert kept.section_by_name[".static_call_sites"].size == 8


CALL = PieceReloc(5, int(Reloc.PLT32), OWN, -4)  # e8 at 4
ALTERNATIVES = {
    "6.1": (12, b"\7\0" + bytes([5, 0])),
    "6.3": (14, b"\7\0\0\0" + bytes([5, 0])),
    "5.10": (13, b"\7\0" + bytes([5, 5, 0])),
}


def alternative(kind: str, place: int) -> Piece:
    size, rest = ALTERNATIVES[kind]
    return table(
        ".altinstructions", size, bytes(8) + rest,
        PieceReloc(0, int(Reloc.PC32), PieceRef(0), place),
        PieceReloc(4, int(Reloc.PC32), PieceRef(0), place),
    )  # fmt: skip


@pytest.mark.parametrize("kind", sorted(ALTERNATIVES))
def test_relocation_under_an_alternative_comes_too_late(kind: str) -> None:
    """The kernel writes the replacement first; the module's symbol would be written into it."""
    code = bytes(4) + b"\xe8" + bytes(11)
    unit = emitted(function(code, (CALL,)), alternative(kind, 4), by=resolver("ext4"))
    assert [(f.code, f.symbol) for f in unit.refused] == [("late-alternative", "lock_me")]
    assert "'f' refers to 'lock_me'" in unit.refused[0].message
    for place in (0, 9):
        beside = alternative(kind, place)
        if place == 0:
            beside = table(beside.section, beside.entsize, beside.data.replace(b"\5", b"\4"),
                           *beside.relocs)  # fmt: skip
        assert not emitted(function(code, (CALL,)), beside, by=resolver("ext4")).refused
    here = emitted(function(code, (CALL,)), alternative(kind, 4), by=resolver("vmlinux"))
    assert not here.refused, "those of the kernel proper are filled in before"
    without = replace(resolver("vmlinux"), livepatch=False)
    (refused,) = emitted(function(code, (CALL,)), alternative(kind, 4), by=without).refused
    assert (refused.code, refused.symbol) == ("late-alternative", "lock_me")
    assert "of the kernel, which does not export it and has no livepatch" in refused.message


def test_replacement_and_entry_that_refer_to_a_module() -> None:
    flags = int(SectionFlag.ALLOC | SectionFlag.EXECINSTR)
    code = Piece(
        PieceKind.TABLE, ".altinstr_replacement", ".altinstr_replacement",
        int(SectionType.PROGBITS), flags, 1, 0, b"\xe8" + bytes(4), 5, (),
        (PieceReloc(1, int(Reloc.PLT32), OWN, -4),),
    )  # fmt: skip
    late = emitted(function(bytes(16)), code, by=resolver("ext4"))
    assert [f.code for f in late.refused] == ["late-alternative"]
    aux = Piece(
        PieceKind.TABLE, ".altinstr_aux", ".altinstr_aux", int(SectionType.PROGBITS), flags, 1, 0,
        code.data, 5, (), code.relocs,
    )  # fmt: skip
    assert not emitted(function(bytes(16)), aux, by=resolver("ext4")).refused, "it runs later"
    entry = table(
        "__ex_table", 12, bytes(12),
        PieceReloc(0, int(Reloc.PC32), PieceRef(0), 0),
        PieceReloc(4, int(Reloc.PC32), PieceRef(0), 8), PieceReloc(8, int(Reloc.PC32), OWN, 0),
    )  # fmt: skip
    late = emitted(function(bytes(16)), entry, by=resolver("ext4"))
    assert [f.code for f in late.refused] == ["late-alternative"]
    assert "section '__ex_table'" in late.refused[0].message
