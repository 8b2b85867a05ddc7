"""An object with more sections than 16 bits count: from the assembler to the patch module."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rebootless.diff import diff
from rebootless.diff.delta import KernelRef
from rebootless.elf.constants import SHN_LIVEPATCH
from rebootless.elf.reader import parse, read
from rebootless.elf.writer import OutSection, editable, serialize
from rebootless.module.emit import KLP_SECTION, emit
from rebootless.module.relocs import finish
from rebootless.module.resolve import Proof, Resolver

from .deltas import changed, piece
from .test_functions import Everywhere

FUNCTIONS = 22_000  # three sections each: code, its relocations, data
SOURCE = """
.altmacro
.macro function k
.section .text.f\\k,"ax",@progbits
.type f\\k,@function
.globl f\\k
f\\k: call __fentry__
 ret
.size f\\k, .-f\\k
.section .data.d\\k,"aw",@progbits
.type d\\k,@object
d\\k: .long \\k
.size d\\k, 4
.endm
.set i, 0
.rept COUNT
function %i
.set i, i + 1
.endr
.section .text.last,"ax",@progbits
.globl last
.type last,@function
last: call __fentry__
 movl d21999(%rip), %eax
 addl $VALUE, %eax
 call f21998
 ret
.size last, .-last
.section __mcount_loc,"a",@progbits
.quad last
"""


def assembled(folder: Path, value: int) -> Path:
    source, out = folder / "many.s", folder / f"many{value}.o"
    text = SOURCE.replace("VALUE", str(value)).replace("COUNT", str(FUNCTIONS))
    source.write_text(text)
    subprocess.run(["as", "-o", out, source], check=True)
    return out


def test_from_the_assembler_to_the_module(tmp_path: Path) -> None:
    orig = read(assembled(tmp_path, 1))
    assert len(orig.sections) > 66_000
    delta = diff(orig, read(assembled(tmp_path, 2)))
    assert changed(delta) == {"last"} and not delta.refused and not delta.warnings
    refs = {
        r.target.name: orig.symbols[r.target.orig_symbol or 0].name
        for r in piece(delta, "last").relocs
        if isinstance(r.target, KernelRef)
    }
    assert refs == {name: name for name in ("__fentry__", "d21999", "f21998")}
    proofs = {i: Proof(name, 3) for i, name in enumerate(orig.symbols.names)}
    unit = emit(delta, Resolver("vmlinux", {}, frozenset(), proofs, Everywhere()), 0)
    wide = editable(parse(unit.data, name="unit.o"))
    # A module with so many sections: what carries its livepatch relocations comes last.
    filler = [OutSection(f".text.x{n}", flags=6, data=b"\xc3") for n in range(65_400)]
    wide.sections[:0] = filler
    linked = parse(serialize(wide), name="wide.o")
    assert linked.section_by_name[KLP_SECTION].index > 65_400
    final = parse(finish(linked.data.tobytes(), name="wide.o"), name="final.ko")
    rela = final.section_by_name[".klp.rela.vmlinux..text.last"]
    assert final.sections[rela.info].name == ".text.last" and rela.info > 65_400
    relocs = {n for n in final.symbols.names if n.startswith(".klp.sym.")}
    assert relocs == {f".klp.sym.vmlinux.{name},3" for name in refs}
    for name in relocs:
        assert int(final.symbols.shndx[final.symbols.by_name[name][0]]) == SHN_LIVEPATCH
