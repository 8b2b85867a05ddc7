"""Where a damaged object goes: all that is done with the two objects of a unit, and with modules.

Anything but a value or an error of ours is a bug.
"""

from __future__ import annotations

import contextlib
import json

from rebootless.base.errors import RebootlessError
from rebootless.diff import Delta, diff
from rebootless.elf.constants import (
    Binding,
    Reloc,
    SectionFlag,
    SectionType,
    SymbolType,
)
from rebootless.elf.model import ElfFile
from rebootless.elf.reader import parse
from rebootless.elf.writer import (
    OutObject,
    OutReloc,
    OutSection,
    OutSymbol,
    editable,
    serialize,
)
from rebootless.module.abi import module_layout
from rebootless.module.emit import KLP_RECORD, KLP_SECTION, KLP_STRINGS, emit
from rebootless.module.relocs import RESIDENT, finish
from rebootless.module.resolve import Proof, Resolver
from rebootless.report.explain import explain_unit
from rebootless.report.facts import to_json
from rebootless.safety import quiescence, semantics
from rebootless.safety.code import CodeUnit
from rebootless.safety.typediff import compare_types
from rebootless.types.btf import Btf
from rebootless.types.btf import parse as parse_btf
from rebootless.types.declare import declare
from rebootless.types.shape import Shapes

ALLOC = int(SectionFlag.ALLOC)
CODE = ALLOC | int(SectionFlag.EXECINSTR)
DATA = ALLOC | int(SectionFlag.WRITE)
MORE = """
static noinline int deep(int x) { static int n = 3; static const int t[] = { 1, 2, 3 };
	printk("deep %d", n++); return t[x] + get(); }
int k(int x) { return deep(x) + deep(x + 1); }
__attribute__((section(".sched.text"))) int s1(int x) { return helper(x); }
__attribute__((section(".sched.text"))) int s2(int x) { return other(x); }
int alias(int x) __attribute__((alias("s1")));
int zeros[40];
int (*table[])(int) = { k, s1, s2 };
"""


class Everywhere:
    """Any name is anywhere."""

    def positions_of(self, object_name: str, name: str) -> tuple[int, ...]:
        return (0,)


def object_pair(tables: str) -> tuple[str, str]:
    """C with most special sections, before and after a change."""
    before = tables + MORE
    return before, before.replace("helper(2)", "helper(3)").replace("deep %d", "deeper %d")


def everything(blob: bytes, whole: ElfFile, *, first: bool) -> None:
    """Reads an object, compares it with `whole`, explains and emits what differs, writes it again.

    `first`: it is the original. Raises RebootlessError.
    """
    elf = parse(blob, name="damaged.o")
    delta = diff(elf, whole) if first else diff(whole, elf)
    json.dumps(delta.to_json())
    orig, patched = (elf, whole) if first else (whole, elf)
    json.dumps(to_json((explain_unit(orig, patched, delta),)))
    proofs = {i: Proof(name, 0) for i, name in enumerate(orig.symbols.names)}
    emit(delta, Resolver("vmlinux", {}, frozenset(), proofs, Everywhere()), 0)
    judge(orig, whole if first else elf, delta)
    parse(serialize(editable(elf)), name="rewritten.o")


def judge(orig: ElfFile, patched: ElfFile, delta: Delta) -> None:
    """What the safety checks read in the code of both objects, and what `explain` shows."""
    names = orig.symbols.names
    changed = {
        names[f.orig_symbol]: delta.pieces[f.piece].name
        for f in delta.changed
        if f.orig_symbol is not None
    }
    code = CodeUnit(orig)
    quiescence.forecast(code, changed)
    semantics.compare(code, CodeUnit(patched), changed)
    explain_unit(orig, patched, delta)


def walk_types(blob: bytes, whole: Btf) -> None:
    """Reads a section of BTF, and compares it with `whole`."""
    types = parse_btf(blob, name="damaged types")
    shapes = Shapes(types)
    for number in types.numbers():
        shapes.size(number)
        shapes.signature(number)
        declare(types, number)
    compare_types(whole, types)
    compare_types(types, whole)


def finish_module(blob: bytes) -> None:
    """What happens to a linked patch module."""
    finish(blob, name="linked.ko")
    module_layout(parse(blob, name="linked.ko"))


def small_objects() -> list[bytes]:
    """Made by hand: hardly any section; pools only; one of each kind."""
    bare = OutObject([OutSection(".text.f", flags=CODE, data=b"\xc3" * 16)])
    bare.symbols.append(
        OutSymbol("f", 0, 16, int(Binding.GLOBAL), int(SymbolType.FUNC), bare.sections[0])
    )
    pools = OutObject(
        [
            OutSection(".text.f", flags=CODE, data=b"\xe8\0\0\0\0\xc3" * 4),
            OutSection(".rodata.str1.1", flags=ALLOC | 0x30, entsize=1, data=b"one\0two\0three\0"),
            OutSection(".rodata.cst8", flags=ALLOC | 0x10, entsize=8, data=bytes(range(32))),
            OutSection(".bss.z", int(SectionType.NOBITS), DATA, size=4096),
            OutSection("__ex_table", flags=ALLOC, data=bytes(24)),
            OutSection(".altinstructions", flags=ALLOC, data=bytes(28)),
            OutSection(".altinstr_replacement", flags=CODE, data=b"\x90" * 12),
        ]
    )
    marks = [
        OutSymbol("", type=int(SymbolType.SECTION), section=section) for section in pools.sections
    ]
    function = OutSymbol("f", 0, 24, 1, int(SymbolType.FUNC), pools.sections[0])
    away = OutSymbol("away", binding=1)
    pools.symbols = [*marks, function, away]
    pc, text = int(Reloc.PC32), pools.sections[0]
    text.relocs = [OutReloc(1, int(Reloc.PLT32), away, -4), OutReloc(7, pc, marks[1], 0),
                   OutReloc(13, pc, marks[2], 4), OutReloc(19, pc, marks[3], 60)]  # fmt: skip
    for at, target, place in ((0, 0, 1), (4, 0, 6), (12, 0, 7), (16, 0, 12)):
        pools.sections[4].relocs.append(OutReloc(at, pc, marks[target], place))
    for at, target, place in ((0, 0, 1), (4, 6, 0), (14, 0, 7), (18, 6, 6)):
        pools.sections[5].relocs.append(OutReloc(at, pc, marks[target], place))
    return [serialize(bare), serialize(pools)]


def linked_module() -> bytes:
    """A patch module as kbuild leaves it, in small: records of livepatch relocations and all."""
    text = OutSection(".text", flags=CODE, data=b"\xe8\0\0\0\0\xc3" * 4)
    tags = b"name=m\0depends=a-b,c\0livepatch=Y\0vermagic=6.1.0 SMP mod_unload \0"
    info = OutSection(".modinfo", flags=ALLOC, data=tags)
    this = OutSection(".gnu.linkonce.this_module", flags=DATA, data=bytes(896))
    names = OutSection(KLP_STRINGS, data=b"vmlinux|vmlinux.schedule,0\0ext4|ext4.put,2\0")
    records = OutSection(
        KLP_SECTION, data=b"".join(KLP_RECORD.pack(0, 0, kind, 0, -4) for kind in (4, 2))
    )
    note = OutSection(
        ".note.gnu.build-id", int(SectionType.NOTE), ALLOC, 4,
        data=b"\4\0\0\0\x14\0\0\0\3\0\0\0GNU\0" + bytes(range(20)),
    )  # fmt: skip
    resident = OutSection(RESIDENT, flags=ALLOC, align=8, data=bytes(KLP_RECORD.size))
    sections = [text, info, this, names, records, resident, note]
    marks = {s.name: OutSymbol("", type=3, section=s) for s in sections}
    init = OutSymbol("init_module", 0, 6, 1, 2, text)
    leave = OutSymbol("cleanup_module", 6, 6, 1, 2, text)
    entry = OutSymbol("__rebootless_entry_0_0", 0, 0, 1, 2, text)
    twice = [OutSymbol("put", 12, 6, 0, 2, text), OutSymbol("put", 18, 6, 0, 2, text)]
    this.relocs = [OutReloc(312, 1, init, 0), OutReloc(800, 1, leave, 0), OutReloc(8, 1, entry, 0)]
    for n, (place, name) in enumerate(((1, 0), (7, 27))):
        records.relocs.append(OutReloc(32 * n, 1, marks[".text"], place))
        records.relocs.append(OutReloc(32 * n + 8, 1, marks[KLP_STRINGS], name))
    return serialize(OutObject(sections, [*marks.values(), *twice, init, leave, entry]))


def refuses_or_survives(blob: bytes, whole: ElfFile) -> None:
    """Both ways round; errors of ours are fine."""
    for first in (False, True):
        with contextlib.suppress(RebootlessError):
            everything(blob, whole, first=first)


def sample_bundle() -> bytes:
    """A small bundle with all members."""
    from rebootless.bundle import archive, manifest

    function = manifest.PatchedFunction("f", 0, 11, 12, 0xFFFFFFFF813A0000)
    kernel = manifest.TargetKernel("6.1.0-test", "ab" * 20, "x86_64", "6.1.0-test SMP ", "6.1.1-1")
    facts = manifest.Manifest(
        name="fix",
        version="1",
        kernel=kernel,
        objects=(manifest.PatchedObject("vmlinux", (function,)),),
        replace=False,
        toolchain="gcc-12",
        tool_version="0",
        cves=("CVE-2026-0001",),
    )
    members = {
        "modules/fix.ko": linked_module(),
        archive.SOURCE_PATCH: b"--- a/f.c\n+++ b/f.c\n",
        archive.MATCH: b'{"schema": 1}',
        archive.REPORT: b'{"schema": 1}',
    }
    return archive.encode(archive.with_test_log(archive.create(facts, members), "fine\n"))
