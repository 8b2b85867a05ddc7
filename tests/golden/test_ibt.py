"""What newer kernels than 6.1 have: landing pads, named padding, constants of the boot."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless.diff import Delta, diff
from rebootless.diff.delta import KernelRef, Piece, PieceReloc
from rebootless.diff.normalize import normalize
from rebootless.elf.constants import Reloc
from rebootless.elf.reader import read
from rebootless.match.blocks import BlockBuilder
from rebootless.safety.landing import check_pointers, missing_pads

Pair = Callable[..., Delta]
Compile = Callable[..., Path]
IBT = ("-fcf-protection=branch", "-fpatchable-function-entry=16,16")

# The kernel's macros (asm/runtime-const.h), as far as their sections go.
CONSTANTS = """
#define POINTER(sym) ({ unsigned long r; asm("mov %1,%0\\n1:\\n" \\
	".pushsection runtime_ptr_" #sym ",\\"a\\"\\n .long 1b - %c2 - .\\n .popsection" \\
	: "=r" (r) : "i" (0x0123456789abcdefull), "i" (8)); r; })
#define SHIFT(val, sym) ({ unsigned r = val; asm("shrl $12,%k0\\n1:\\n" \\
	".pushsection runtime_shift_" #sym ",\\"a\\"\\n .long 1b - 1 - .\\n .popsection" \\
	: "+r" (r)); r; })
"""
LIMITS = (
    CONSTANTS
    + """
static unsigned long *table;
void boot(unsigned long *at) { if (!table) table = at; }
int f(unsigned long p) { return p <= POINTER(limit) ? helper(1) : 0; }
unsigned long g(int n) { return POINTER(table) + n; }
unsigned h(unsigned v) { return SHIFT(v, bits) + 1; }
"""
)


def piece_of(delta: Delta, name: str) -> Piece:
    return next(p for p in delta.pieces if p.name == name)


def code(compile_c: Compile, assembly: str) -> bytes:
    """What the assembler makes of instructions."""
    made = compile_c(f'asm(".section .text.x,\\"ax\\"\\n{assembly}");', "assembled")
    return bytes(read(made).section_by_name[".text.x"].data)


def only_load(piece: Piece, name: str) -> PieceReloc:
    found = [r for r in piece.relocs if isinstance(r.target, KernelRef) and r.target.name == name]
    assert len(found) == 1 and (found[0].type, found[0].addend) == (Reloc.PC32, -4)
    return found[0]


def test_constant_of_the_boot_is_loaded(pair: Pair) -> None:
    """In a module nobody would fill it in; the variable is the kernel's, exported or not."""
    delta = pair(LIMITS, LIMITS.replace("helper(1)", "helper(2)").replace("+ n;", "+ 2 * n;"))
    assert [c.name for c in delta.changed] == ["f", "g"] and not delta.refused
    only_load(piece_of(delta, "f"), "limit")
    table = only_load(piece_of(delta, "g"), "table").target
    assert isinstance(table, KernelRef) and table.defined and table.orig_symbol is not None
    assert not [p for p in delta.pieces if p.section.startswith("runtime_")]
    assert not any((0x0123456789ABCDEF).to_bytes(8, "little") in p.data for p in delta.pieces)


REGISTERS = ("ax", "cx", "dx", "bx", "si", "di", "bp", *(str(n) for n in range(8, 16)))


@pytest.mark.parametrize("register", [f"%r{r}" for r in REGISTERS])
def test_load_is_what_the_assembler_makes_of_it(
    pair: Pair, compile_c: Compile, register: str
) -> None:
    source = (
        f'void f(void) {{ helper(1); asm("movabs $0x0123456789abcdef,{register}\\n1:\\n'
        '.pushsection runtime_ptr_limit,\\"a\\"\\n .long 1b - 8 - .\\n.popsection"); }'
    )
    piece = piece_of(pair(source, source.replace("helper(1)", "helper(2)")), "f")
    at = only_load(piece, "limit").offset
    wanted = code(compile_c, f"mov 0(%rip),{register}\\nnopl (%rax)")
    assert piece.data[at - 3 : at + 7] == wanted


def test_shift_by_a_constant_of_the_boot_is_refused(pair: Pair) -> None:
    delta = pair(LIMITS, LIMITS.replace("+ 1;", "+ 3;"))
    (refusal,) = delta.refused
    assert (refusal.code, refusal.symbol) == ("boot-constant", "h")
    assert "runtime_shift_bits" in refusal.message


def test_another_constant_is_a_change(pair: Pair) -> None:
    """The instruction is the same; only the table says which variable is meant."""
    delta = pair(LIMITS, LIMITS.replace("POINTER(limit)", "POINTER(other_limit)"))
    assert [c.name for c in delta.changed] == ["f"]
    only_load(piece_of(delta, "f"), "other_limit")


POINTERS = """
typedef int call(int);
extern int stranger(int), known(int);
static noinline int direct(int n) { return helper(n) + 1; }
call *volatile hook = known;
int f(int n) { return direct(n) + stranger(n) + known(n); }
"""


def refused(
    compile_c: Compile, after: str, lands: Callable[[KernelRef], bool | None]
) -> list[tuple[str, str]]:
    orig = read(compile_c(POINTERS, "orig", *IBT))
    delta = diff(orig, read(compile_c(after, "patched", *IBT)))
    found = check_pointers(delta.pieces, normalize(orig), lands)
    assert all(f.code == "no-landing-pad" for f in found)
    return [(f.symbol, f.message.split("'")[1]) for f in found]


def test_new_pointers_to_the_kernels_functions_are_judged(compile_c: Compile) -> None:
    """From code, from new data, and to a static function that is only called directly so far."""

    def none_lands(ref: KernelRef) -> bool | None:
        return None if ref.name == "hook" else False  # which is data

    assert refused(compile_c, POINTERS.replace("+ stranger", "- stranger"), none_lands) == []
    in_code = POINTERS.replace("f(int n) {", "f(int n) { hook = stranger; hook = known;")
    assert refused(compile_c, in_code, none_lands) == [("stranger", "f")]
    in_data = POINTERS.replace("int f(", "static call *volatile to = stranger;\nint f(")
    in_data = in_data.replace("return direct", "return to(n) + direct")
    assert refused(compile_c, in_data, none_lands) == [("stranger", "to")]
    assert refused(compile_c, in_data, lambda ref: True) == []
    assert refused(compile_c, in_data, lambda ref: None) == [], "no function, or none of ours"
    own = POINTERS.replace("int f(int n) { return", "int f(int n) { hook = direct; return")
    assert refused(compile_c, own, none_lands) == [("direct", "f")]


def test_functions_that_a_module_points_to_begin_with_a_pad(compile_c: Compile) -> None:
    source = "static noinline int f(int n) { return helper(n); }\nint (*hook)(int) = f;\n"
    assert missing_pads(normalize(read(compile_c(source, "with", *IBT)))) == ()
    bare = compile_c(source, "without", "-fcf-protection=none")
    assert missing_pads(normalize(read(bare))) == ("f (in hook)",)
    namesakes = (  # in a linked module: this one is only called
        'asm(".section .text.y,\\"ax\\"\\n.type f,@function\\nf: ret\\n.size f,.-f\\n.previous");'
    )
    both = compile_c(source, "both", *IBT), compile_c(namesakes, "namesake")
    linked = both[0].with_name("linked.o")
    subprocess.run(["ld", "-r", "-o", linked, *both], check=True)
    assert missing_pads(normalize(read(linked))) == ()
    trampoline = (
        "extern int __SCT__f(int); int (*volatile hook)(int);\n"
        'asm(".section .static_call.text,\\"ax\\"\\n.globl __SCT__f\\n.type __SCT__f,@function\\n"'
        '"__SCT__f: jmp other\\n.size __SCT__f,.-__SCT__f\\n.previous");\n'
        "void g(void) { sink((void *)__SCT__f); }"
    )
    pointed = normalize(read(compile_c(trampoline, "trampoline", *IBT)))
    assert missing_pads(pointed) == (), "these are told of by their address, and called directly"
    called = "static noinline int f(int n) { return helper(n); }\nint g(int n) { return 1 + f(n); }"
    assert missing_pads(normalize(read(compile_c(called, "called")))) == ()


def test_named_padding_is_no_function(compile_c: Compile) -> None:
    """Objtool gives the padding before a function a name, and the type of a function."""
    source = """
    asm(".section .text.f,\\"ax\\"\\n.type __pfx_f,@function\\n__pfx_f: .fill 16,1,0x90\\n"
        ".size __pfx_f,16\\n.globl f\\n.type f,@function\\nf: endbr64\\nret\\n.size f,.-f");
    """
    names = [block.name for block in BlockBuilder(read(compile_c(source, "padded"))).functions()]
    assert names == ["f"]
