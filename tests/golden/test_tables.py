"""Special sections: every entry of every included function goes along, and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless.diff import Delta, diff
from rebootless.diff.delta import PieceKind, PieceRef
from rebootless.elf.reader import read
from rebootless.module.emit import emit
from rebootless.module.resolve import Proof, Resolver

from .entries import Object, entries

Pair = Callable[[str, str], Delta]
Compile = Callable[[str, str], Path]

# The kernel's macros, as far as their sections go.
MACROS = """
#define JUMP(key, flag, label) asm goto("1: .byte 0x0f,0x1f,0x44,0,0\\n" \\
	".pushsection __jump_table,\\"aw\\"\\n .balign 8\\n .long 1b - ., %l[" #label "] - .\\n" \\
	".quad %c0 + %c1 - .\\n .popsection" : : "i" (&key), "i" (flag) : : label)
#define EXTABLE(handled) asm volatile("1: mov (%0), %%eax\\n2:\\n" \\
	".pushsection __ex_table,\\"a\\"\\n .balign 4\\n .long 1b - ., 2b - ., " #handled "\\n" \\
	".popsection" : : "r" (p) : "eax")
#define HANDLED(handler) asm volatile("1: mov (%0), %%eax\\n2:\\n" \\
	".pushsection __ex_table,\\"a\\"\\n .balign 4\\n .long 1b - ., 2b - ., " #handler " - .\\n" \\
	".popsection" : : "r" (p) : "eax")
#define ALTERNATIVE(old, new, feature) asm volatile("661: " old "\\n662:\\n" \\
	".pushsection .altinstructions,\\"a\\"\\n .long 661b - ., 663f - .\\n .word " #feature "\\n" \\
	".byte 662b-661b, 664f-663f\\n .popsection\\n" \\
	".pushsection .altinstr_replacement,\\"ax\\"\\n663: " new "\\n664: .popsection" : : : "memory")
#define PARAVIRT(type) asm volatile("771: .byte 0xff,0x14,0x25\\n .long pv_ops\\n772:\\n" \\
	".pushsection .parainstructions,\\"a\\"\\n .balign 8\\n .quad 771b\\n" \\
	".byte " #type ", 772b-771b\\n .popsection" : : : "memory")
#define LOCK() asm volatile(".pushsection .smp_locks,\\"a\\"\\n .balign 4\\n .long 671f - .\\n" \\
	".popsection\\n671: lock incl (%0)" : : "r" (p) : "memory")
#define NOKPROBE(f) static unsigned long used __attribute__((section("_kprobe_blacklist"))) \\
	kbl_##f = (unsigned long)f;
extern int some_key, other_key;
"""
MANY = (
    MACROS
    + """
void f(int *p) { EXTABLE(3); JUMP(some_key, 0, no); helper(1); no: LOCK(); PARAVIRT(4); }
void g(int *p)
{
	ALTERNATIVE("nop; nop", "", 5);
	ALTERNATIVE("call helper", "call other", 7);
	EXTABLE(1);
	if (*p) BUG_SITE(1);
	JUMP(other_key, 1, no);
	PARAVIRT(9);
	helper(2);
no:	LOCK();
	PARAVIRT(11);
}
void h(int *p) { ALTERNATIVE("call other", "call helper", 9); LOCK(); EXTABLE(2); PARAVIRT(2); }
NOKPROBE(g)
"""
)


class Everywhere:
    def positions_of(self, object_name: str, name: str) -> tuple[int, ...]:
        return (0,)


@pytest.mark.parametrize("edits", [("helper(2)",), ("helper(1)", "helper(2)"), ("feature 9",), ()])
def test_emitted_entries_equal_those_of_the_object(
    compile_c: Compile, edits: tuple[str, ...]
) -> None:
    after = MANY
    for edit in edits:
        if edit == "feature 9":
            after = after.replace('"call helper", 9', '"call helper", 8')
        else:
            after = after.replace(edit, edit.replace(")", " + p[3])"))
    orig, patched = compile_c(MANY, "orig"), compile_c(after, "patched")
    elf = read(orig)
    delta = diff(elf, read(patched))
    assert not delta.refused and len(delta.changed) == len(edits)
    names = elf.symbols.names
    proofs = {i: Proof(name, 0) for i, name in enumerate(names)}
    unit = emit(delta, Resolver("vmlinux", {}, frozenset(), proofs, Everywhere()), 0)
    included = {s.name for p in delta.pieces if p.kind is PieceKind.FUNCTION for s in p.symbols}
    wanted = entries(Object(patched.read_bytes()), included)
    assert entries(Object(unit.data), None) == wanted
    assert bool(wanted) == bool(edits)
    counts = {t.section: t.entries for t in delta.special}
    assert sum(counts.values()) == sum(wanted.values()) + delta_of_snippets(delta)


def delta_of_snippets(delta: Delta) -> int:
    """Entries for places in replacements; our C has none."""
    return sum(t.entries for t in delta.special if t.section.startswith(".altinstr_r"))


def test_unpadded_table_of_two_entries(pair: Pair) -> None:
    """26 bytes are two entries of 16, of which the last lacks its padding, and not two of 13."""
    before = MACROS + "void f(void) { PARAVIRT(1); helper(1); }\nvoid g(void) { PARAVIRT(2); }"
    assert pair(before, before).is_empty
    delta = pair(before, before.replace("PARAVIRT(2)", "PARAVIRT(3)"))
    assert [(f.name, f.reason) for f in delta.changed] == [
        ("g", "different entries in .parainstructions")
    ]


def test_exception_entries_with_a_handler(pair: Pair) -> None:
    """Three relocations each, as before Linux 5.17."""
    before = (
        MACROS
        + """
    void f(int *p) { HANDLED(ex_default); }
    void g(int *p) { HANDLED(ex_default); helper(1); HANDLED(ex_fault); }
    """
    )
    delta = pair(before, before.replace("ex_fault", "ex_copy"))
    assert [f.name for f in delta.changed] == ["g"]
    (table,) = (p for p in delta.pieces if p.name == "__ex_table")
    assert (table.entsize, table.size, len(table.relocs)) == (12, 24, 6)


def test_fixup_code_follows_its_function(pair: Pair) -> None:
    """Before Linux 5.17, exception entries lead to code in a section of its own."""
    fixup = """
    #define GET(error) asm volatile("1: mov (%0), %%eax\\n2:\\n" \\
    ".pushsection .fixup,\\"ax\\"\\n3: mov $" #error ", %%eax\\n jmp 2b\\n .popsection\\n" \\
    ".pushsection __ex_table,\\"a\\"\\n .long 1b - ., 3b - ., ex_default - .\\n .popsection" \\
    : : "r" (p) : "eax")
    """
    before = fixup + "void f(int *p) { GET(1); }\nvoid g(int *p) { GET(2); helper(*p); }"
    delta = pair(before, before.replace("GET(2)", "GET(5)"))
    assert [f.name for f in delta.changed] == ["g"] and not delta.refused
    (code,) = (p for p in delta.pieces if p.section == ".fixup")
    assert b"\xb8\x05\0\0\0" in code.data and len(code.relocs) == 1


def test_replacement_calls_something_else(pair: Pair) -> None:
    """The bytes of the replacement are the same; only its relocation is not."""
    delta = pair(MANY, MANY.replace('"call other", 7', '"call get", 7'))
    assert [f.name for f in delta.changed] == ["g"]
    assert ".altinstructions" in delta.changed[0].reason


def test_empty_replacement_does_not_borrow_its_neighbour(pair: Pair) -> None:
    before = (
        MACROS
        + """
    void f(void) { ALTERNATIVE("nop; nop", "", 5); }
    void g(void) { ALTERNATIVE("call helper", "call other", 7); }
    """
    )
    delta = pair(before, before.replace("call other", "call get"))
    assert [f.name for f in delta.changed] == ["g"]
    delta = pair(before, before.replace('"", 5', '"", 6'))
    assert [f.name for f in delta.changed] == ["f"]
    assert not [p for p in delta.pieces if p.section == ".altinstr_replacement"]


def test_entries_of_code_that_an_entry_brings_in(pair: Pair) -> None:
    """A new function that only a replacement calls has entries too."""
    before = MACROS + 'void f(int *p) { ALTERNATIVE("call helper", "call other", 7); }'
    after = before.replace(
        "void f",
        """
    static used noinline void fresh(int *p)
    { EXTABLE(3); ALTERNATIVE("nop; nop", "call get", 8); if (*p) BUG_SITE(1); LOCK(); }
    void f""",
    ).replace("call other", "call fresh")
    delta = pair(before, after)
    assert [f.name for f in delta.changed] == ["f"] and [f.name for f in delta.new] == ["fresh"]
    assert {t.section: t.entries for t in delta.special} == {
        ".altinstructions": 2,
        ".smp_locks": 1,
        "__bug_table": 1,
        "__ex_table": 1,
        "__mcount_loc": 2,
    }


def test_calls_and_jumps_of_replacements_to_a_function_without_fentry(pair: Pair) -> None:
    """A jump back into it is its own; who calls it from a replacement cannot be told."""
    before = (
        MACROS
        + """
    static noinline notrace int quiet(int x)
    {
        asm goto("jmp 6f\\n .pushsection .altinstr_aux,\\"ax\\"\\n6: jmp %l[yes]\\n .popsection"
                 : : : : yes);
        return helper(x);
    yes:
        return helper(x) + 2;
    }
    int f(int x) { return quiet(x) * 2; }
    void z(void) { helper(1); }
    """
    )
    delta = pair(before, before.replace("+ 2", "+ 7"))
    assert [f.name for f in delta.changed] == ["f"] and not delta.refused
    assert [f.name for f in delta.carried] == ["quiet"]
    before += 'void g(void) { ALTERNATIVE("call helper", "call quiet", 7); }\n'
    delta = pair(before, before.replace("+ 2", "+ 7"))
    assert [(f.code, f.symbol) for f in delta.refused] == [("no-fentry", "quiet")]


def test_bug_entry_with_a_format(pair: Pair) -> None:
    """A wider bug entry: its format is compared, its file and line are not."""
    bug = """
    #define BUG(format) asm volatile("1: .byte 0x0f, 0x0b\\n" \\
    ".pushsection __bug_table,\\"aw\\"\\n 2: .long 1b - ., %c0 - ., %c1 - .\\n" \\
    ".word %c2, 9\\n .popsection" : : "i" (format), "i" (__FILE__), "i" (__LINE__))
    """
    text = bug + 'void f(void) { BUG("one"); }\nvoid g(void) { BUG("two"); }'
    assert pair(text, text.replace("void g", "\n\nvoid g")).is_empty
    delta = pair(text, text.replace('"two"', '"six"'))
    assert [f.name for f in delta.changed] == ["g"]


def test_unknown_table_for_patched_code_is_refused(pair: Pair) -> None:
    """One of a newer kernel: the place is the same, and what becomes of the code is not known."""
    site = """
    #define SITE() asm volatile("1: movabs $0x0123456789abcdef, %%rax\\n" \\
    ".pushsection future_sites,\\"a\\"\\n .long 1b - .\\n .popsection" : : : "rax")
    """
    before = site + "void f(void) { SITE(); helper(1); }\nvoid g(void) { SITE(); helper(2); }"
    assert pair(before, before).is_empty
    delta = pair(before, before.replace("helper(2)", "helper(3)"))
    assert [(f.code, f.symbol) for f in delta.refused] == [("unsupported-section", "future_sites")]
    plain = before + "void h(void) { helper(4); }"
    assert not pair(plain, plain.replace("helper(4)", "helper(5)")).refused


def test_unknown_table_is_told_once_by_its_function(pair: Pair) -> None:
    """The place of an entry moves with the code: that says nothing about the table itself."""
    site = """
    #define SITE() asm volatile("1: movabs $0x0123456789abcdef, %%rax\\n" \\
    ".pushsection new_table,\\"a\\"\\n .long 1b - .\\n .popsection" : : : "rax")
    """
    before = site + "void f(int *p) { SITE(); }\nvoid g(int *p) { helper(2); SITE(); }"
    delta = pair(before, before.replace("helper(2)", "helper(*p + 70000)"))
    (finding,) = delta.refused
    assert (finding.code, finding.symbol) == ("unsupported-section", "new_table")
    assert "'g'" in finding.message
    delta = pair(before, before.replace("helper(2);", "helper(2); SITE();"))
    assert {f.symbol for f in delta.refused} == {"new_table"}
    plain = before.replace("1b - .", "1b - ., 5")
    assert "content" in pair(plain, plain.replace("., 5", "., 6")).refused[0].message


@pytest.mark.parametrize(
    ("section", "compared"), [(".kcfi_traps", True), (".cfi_sites", False), (".call_sites", False)]
)
def test_sites_of_newer_kernels(pair: Pair, section: str, compared: bool) -> None:
    """clang's -fsanitize=kcfi and call thunks: one place each, and no other relocation."""
    site = f"""
    #define SITE() asm volatile("1: ud2\\n .pushsection {section},\\"a\\"\\n" \\
    ".long 1b - .\\n .popsection")
    #define NOTHING() asm volatile("ud2")
    """
    before = site + "void f(int *p) { SITE(); }\nvoid g(int *p) { helper(2); SITE(); SITE(); }"
    delta = pair(before, before.replace("helper(2)", "helper(3)"))
    assert [f.name for f in delta.changed] == ["g"] and not delta.refused
    assert {t.section: t.entries for t in delta.special}[section] == 2
    assert pair(before, before.replace("SITE(); }", "NOTHING(); }", 1)).is_empty != compared


def test_code_that_must_not_be_instrumented_keeps_its_section(pair: Pair) -> None:
    """The kernel allows no probe there, in modules either."""
    quiet = '__attribute__((section(".noinstr.text"), no_instrument_function)) noinline'
    before = "int f(int x) { return helper(x); }\n"
    fresh = f"static {quiet} int quiet(int x) {{ return other(x) + 1; }}\n"
    delta = pair(before, fresh + before.replace("helper(x)", "quiet(x)"))
    assert not delta.refused and [f.name for f in delta.new] == ["quiet"]
    assert [p.section for p in delta.pieces if p.name == "quiet"] == [".noinstr.text"]


def test_what_tools_leave_in_objects_is_no_change(pair: Pair) -> None:
    """Sections that never run, or that the module's link makes anew."""
    other = """
    asm(".pushsection SECTION\\n .long f - ., NUMBER\\n .popsection");
    """
    base = "void f(int *p) { helper(1); }\nvoid g(int *p) { helper(2); }\n"
    for section in (
        '.discard.reachable,\\"\\"',
        '.discard.addressable,\\"aw\\"',
        '.orc_header,\\"a\\"',
        '.ibt_endbr_seal,\\"a\\"',
        '.static_call_tramp_key,\\"a\\"',
        '.printk_index,\\"aw\\"',
        '__bpf_raw_tp_map,\\"aw\\"',
        '.note.gnu.property,\\"a\\"',
    ):
        text = base + other.replace("SECTION", section)
        before = text.replace("NUMBER", "1")
        assert pair(before, text.replace("NUMBER", "2")).is_empty, section
        delta = pair(before, before.replace("helper(1)", "helper(3)"))
        assert [f.name for f in delta.changed] == ["f"] and not delta.refused, section
        assert not [p for p in delta.pieces if p.section == section.split(",")[0]]


def test_printk_index(pair: Pair) -> None:
    """Each message has an entry that names its line: neither a change, nor part of the patch."""
    before = """
    struct pi_entry { const char *fmt, *func, *file; unsigned int line; };
    #define PRINTK(text, number) do { \\
        static const struct pi_entry _entry used = { text, __func__, "unit.c", number }; \\
        static const struct pi_entry *_entry_ptr \\
            used __attribute__((section(".printk_index"))) = &_entry; \\
        printk(text); } while (0)
    void f(int x) { PRINTK("f says", 10); if (x) PRINTK("f says more", 11); }
    void g(int x) { PRINTK("g says", 15); }
    """
    assert pair(before, before.replace('", 1', '", 2')).is_empty, "only lines moved"
    delta = pair(before, before.replace('"f says more"', '"f asks"'))
    assert [f.name for f in delta.changed] == ["f"]
    assert not delta.refused and not delta.warnings and not delta.new_data
    assert not [p for p in delta.pieces if "_entry" in p.name or "printk" in p.section]
    more = before.replace("void g(int x) {", 'void g(int x) { PRINTK("g is new", 14);')
    delta = pair(before, more)
    assert [f.name for f in delta.changed] == ["g"] and not delta.refused


def test_named_entry_for_a_place_in_patched_code(pair: Pair) -> None:
    """Macros may give entries names; the place that one tells is that of the old code."""
    site = """
    #define SITE(name) asm volatile("1: nop\\n .pushsection new_table,\\"a\\"\\n" \\
    ".type " #name ", @object\\n .size " #name ", 8\\n " #name ": .quad 1b\\n .popsection")
    """
    before = site + "void f(int *p) { helper(1); SITE(one); }\nvoid g(int *p) { helper(2); }"
    delta = pair(before, before.replace("helper(1)", "helper(3)"))
    assert [(f.code, f.symbol) for f in delta.refused] == [("unsupported-section", "new_table")]
    assert not pair(before, before.replace("helper(2)", "helper(3)")).refused
    pointer = """
    static void *const used __attribute__((section("callbacks"))) one = (void *)f;
    """
    before = "void f(int *p) { helper(1); }\n" + pointer
    assert not pair(before, before.replace("helper(1)", "helper(3)")).refused


def test_code_that_a_function_keeps_in_another_section(pair: Pair) -> None:
    """Without a symbol: some macros put the unlikely way there."""
    away = """
    #define AWAY(n) asm volatile("test %%eax, %%eax\\n jne 1f\\n 2:\\n" \\
    ".pushsection .text.unlikely,\\"ax\\"\\n 1: mov $" #n ", %%eax\\n call other\\n jmp 2b\\n" \\
    ".popsection" : : : "memory", "eax")
    """
    before = away + "void f(int *p) { AWAY(1); helper(1); }\nvoid g(int *p) { AWAY(2); helper(2); }"
    assert pair(before, before).is_empty
    for number, edit in ((2, ("helper(2)", "helper(3)")), (3, ("AWAY(2)", "AWAY(3)"))):
        delta = pair(before, before.replace(*edit))
        assert [f.name for f in delta.changed] == ["g"] and not delta.refused
        (piece,) = (n for n, p in enumerate(delta.pieces) if p.section == ".text.unlikely")
        assert delta.pieces[piece].data[:5] == b"\xb8" + bytes([number, 0, 0, 0])
        back = [r.target for r in delta.pieces[piece].relocs]
        (patched,) = (n for n, p in enumerate(delta.pieces) if p.name == "g")
        assert PieceRef(patched) in back and PieceRef(piece) in [
            r.target for r in delta.pieces[patched].relocs
        ]


def test_entry_in_the_middle_of_a_replacement(pair: Pair) -> None:
    """A place in a replacement does not end it: the kernel copies all of its bytes."""
    locked = """
    #define SWAP() asm volatile("661: nop\\n .skip 9, 0x90\\n 662:\\n" \\
    ".pushsection .altinstructions,\\"a\\"\\n .long 661b - ., 663f - .\\n .word 5\\n" \\
    ".byte 662b-661b, 664f-663f\\n .popsection\\n" \\
    ".pushsection .altinstr_replacement,\\"ax\\"\\n" \\
    "663: inc %%eax\\n 1: lock incl (%0)\\n 2: dec %%eax\\n 664: .popsection\\n" \\
    ".pushsection .smp_locks,\\"a\\"\\n .balign 4\\n .long 1b - .\\n .popsection\\n" \\
    ".pushsection __ex_table,\\"a\\"\\n .balign 4\\n .long 1b - ., 2b - ., 3\\n .popsection" \\
    : : "r" (p) : "memory", "eax")
    """
    before = MACROS + locked + "void f(int *p) { SWAP(); helper(1); }\nvoid g(int *p) { SWAP(); }"
    delta = pair(before, before.replace("helper(1)", "helper(3)"))
    assert [f.name for f in delta.changed] == ["f"] and not delta.refused
    (code,) = (n for n, p in enumerate(delta.pieces) if p.section == ".altinstr_replacement")
    assert delta.pieces[code].size == 7
    for section, fields in ((".smp_locks", [2]), ("__ex_table", [2, 5])):
        (table,) = (p for p in delta.pieces if p.name == section)
        assert [(r.target, r.addend) for r in table.relocs] == [(PieceRef(code), n) for n in fields]
    assert [f.name for f in pair(before, before.replace("dec %%", "inc %%")).changed] == ["f", "g"]
    delta = pair(before, before.replace("2b - ., 3", "2b - ., 4"))
    assert [f.name for f in delta.changed] == ["f", "g"], "it is handled otherwise"


def test_order_of_alternatives_of_one_place(pair: Pair) -> None:
    """Of those whose feature is there, the kernel takes the last."""
    twice = """
    #define TWICE(one, two) asm volatile("661: .skip 3, 0x90\\n 662:\\n" \\
    ".pushsection .altinstructions,\\"a\\"\\n" \\
    ".long 661b - ., 663f - .\\n .word " #one "\\n .byte 3, 664f-663f\\n" \\
    ".long 661b - ., 664f - .\\n .word " #two "\\n .byte 3, 665f-664f\\n .popsection\\n" \\
    ".pushsection .altinstr_replacement,\\"ax\\"\\n 663: lfence\\n 664: mfence\\n 665:\\n" \\
    ".popsection" : : : "memory")
    #define SWAPPED(one, two) asm volatile("661: .skip 3, 0x90\\n 662:\\n" \\
    ".pushsection .altinstructions,\\"a\\"\\n" \\
    ".long 661b - ., 664f - .\\n .word " #two "\\n .byte 3, 665f-664f\\n" \\
    ".long 661b - ., 663f - .\\n .word " #one "\\n .byte 3, 664f-663f\\n .popsection\\n" \\
    ".pushsection .altinstr_replacement,\\"ax\\"\\n 663: lfence\\n 664: mfence\\n 665:\\n" \\
    ".popsection" : : : "memory")
    """
    before = twice + "void f(void) { TWICE(5, 6); }\nvoid g(void) { TWICE(5, 6); helper(1); }"
    assert pair(before, before).is_empty
    delta = pair(before, before.replace("g(void) { TWICE", "g(void) { SWAPPED"))
    assert [f.name for f in delta.changed] == ["g"]
