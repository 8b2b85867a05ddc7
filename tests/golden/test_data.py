"""Data that is new, that is shared with the kernel, and that must not be mixed up."""

from __future__ import annotations

import pytest

from rebootless.diff import diff
from rebootless.elf.constants import Reloc
from rebootless.elf.reader import parse, read
from rebootless.module.emit import emit
from rebootless.module.resolve import Proof, Resolver

from .conftest import BOTH, Compile, Pair
from .deltas import changed, codes, kernel_refs, own_refs, piece, target
from .test_functions import Everywhere

PLAIN = "int f(int x) { return helper(x); }\n"
PERCPU = '__attribute__((section(".data..percpu{}"))) '
NEW_DATA = """
#define in(s) __attribute__((section(s)))
struct flexible { long n; char text[]; };
static int zeroed[3], inited[3] = { 1, 2, 3 };
static const int constant[4] = { 9, 8, 7, 6 };
static int *pointer = &zeroed[1];
static int *const pointers[2] = { &inited[2], zeroed };
static const char *const names[] = { "first", "second" };
static int aligned __attribute__((aligned(64))) = 5;
static struct flexible flexible = { 1, "hello" };
static char page[4096] __attribute__((aligned(4096))) in(".bss..page_aligned");
int in(".data..read_mostly") mostly = 3;
int in(".data..ro_after_init") after_init = 4;
static int in(".data..once") once;
static long in(".data.rel.ro.local") *const in_relro = (long *)&zeroed[2];
int shared = 4;
static int none[0];
int f(int x)
{
    zeroed[x]++, inited[x]--, pointer += x, mostly++, once++, aligned++, flexible.n++, shared++;
    page[x] = 1;
    sink(pointers, names, constant, &flexible, page, &in_relro, none, &after_init);
    return constant[x] + *pointer + *pointers[x] + names[x][0];
}
"""


@BOTH
def test_new_data_of_every_kind(compile_c: Compile) -> None:
    orig = read(compile_c(PLAIN, "orig"))
    delta = diff(orig, read(compile_c(NEW_DATA, "patched")))
    assert not delta.refused and changed(delta) == {"f"}
    assert set(delta.new_data) == {
        "zeroed", "inited", "constant", "pointer", "pointers", "names", "aligned", "flexible",
        "page", "mostly", "after_init", "in_relro", "shared", "none",
    }  # fmt: skip
    assert target(delta, piece(delta, "pointer"), 0) == ("own", "zeroed")
    assert [r.addend for r in piece(delta, "pointer").relocs] == [4]
    assert [target(delta, piece(delta, "pointers"), at) for at in (0, 8)] == [
        ("own", "inited"), ("own", "zeroed"),
    ]  # fmt: skip
    assert [r.addend for r in piece(delta, "pointers").relocs] == [8, 0]
    assert [r.addend for r in piece(delta, "in_relro").relocs] == [8]
    assert piece(delta, "flexible").data[8:14] == b"hello\0"
    assert piece(delta, "none").size == 0
    check_linked(delta, orig.symbols.names)


def check_linked(delta: object, names: tuple[str, ...]) -> None:
    """The emitted object has each variable at its alignment, of its size, in its section."""
    proofs = {i: Proof(name, 0) for i, name in enumerate(names)}
    unit = emit(delta, Resolver("vmlinux", {}, frozenset(), proofs, Everywhere()), 0)  # type: ignore[arg-type]
    elf = parse(unit.data, name="unit.o")
    wanted = {"aligned": 64, "page": 4096, "flexible": 8, "pointer": 8}
    for name, align in wanted.items():
        symbol = elf.symbols[elf.symbols.by_name[name][0]]
        assert symbol.value % align == 0 and elf.sections[symbol.shndx].align >= align
    places = {
        name: elf.sections[elf.symbols[elf.symbols.by_name[name][0]].shndx]
        for name in ("after_init", "mostly", "constant", "page", "zeroed")
    }
    assert places["after_init"].name == ".data..ro_after_init"
    assert places["mostly"].name == ".data..read_mostly"
    assert not places["constant"].is_write and places["page"].is_write
    assert not len(places["zeroed"].data) and places["zeroed"].size >= 12


NEW_PERCPU = """
DEFINE int counter = 7;
DEFINE3 long table[4];
static DEFINE2 int private;
static int callback(int x) { return x; }
int f(int x)
{
    static DEFINE int local = 3;
    asm volatile("incl %%gs:%0" : "+m"(counter));
    asm volatile("incl %%gs:%0" : "+m"(private));
    asm volatile("incl %%gs:%0" : "+m"(local));
    return helper(x) + (int)(long)&table[2];
}
"""
for _name, _part in (("DEFINE3", "..shared_aligned"), ("DEFINE2", "..read_mostly"), ("DEFINE", "")):
    NEW_PERCPU = NEW_PERCPU.replace(_name, PERCPU.format(_part))


@BOTH
def test_new_per_cpu_variables(pair: Pair) -> None:
    """A module may have one section of them, and only one: all kinds go there."""
    delta = pair(PLAIN, NEW_PERCPU)
    assert changed(delta) == {"f"} and not delta.refused and len(delta.new_data) == 4
    pieces = [p for p in delta.pieces if p.kind.value == "data"]
    assert {p.section for p in pieces} == {".data..percpu"} and len(pieces) == 4
    assert piece(delta, "counter").data == (7).to_bytes(4, "little")
    assert {r.type for r in piece(delta, "f").relocs if r.addend == 16} == {int(Reloc.R32S)}
    globals_ = {s.name for p in pieces for s in p.symbols if s.is_global}
    assert globals_ == {"counter", "table"}


@BOTH
def test_per_cpu_variables_of_the_kernel_keep_their_state(pair: Pair) -> None:
    before = NEW_PERCPU.replace("int f(int x)\n{", "int f(int x)\n{\n    sink(callback);")
    delta = pair(before, before.replace("helper(x)", "other(x)"))
    assert changed(delta) == {"f"} and not delta.new_data and not delta.refused
    refs = {name.split(".")[-1 if "f." in name else 0] for name in kernel_refs(piece(delta, "f"))}
    assert {"counter", "private", "table", "local"} <= refs
    changed_value = before.replace("counter = 7", "counter = 8")
    assert codes(pair(before, changed_value)) == [("data-changed", "counter")]
    assert codes(pair(NEW_PERCPU, PLAIN)) == [("static-local-removed", "local")]


@BOTH
def test_per_cpu_variable_that_begins_with_an_address_is_refused(pair: Pair) -> None:
    text = f"static {PERCPU.format('')} void *head = &head;\n" + PLAIN.replace(
        "return", 'asm volatile("incl %%gs:%0" : "+m"(head)); return'
    )
    delta = pair(PLAIN, text)
    assert codes(delta) == [("percpu-data", "head")]
    assert "address" in delta.refused[0].message


def test_statics_of_swapped_functions_with_equal_code(pair: Pair) -> None:
    """f's bytes are the same either way; g, which did not change, tells that they were swapped."""
    before = """
    static inline int a(void) { static int n; n += 3; return n; }
    static inline int b(void) { static int n; n += 3; return n; }
    int f(int x) { int s = a(); get(); return s + b(); }
    int g(int x) { return a() * x; }
    """
    assert pair(before, before).is_empty
    swapped = before.replace("s = a(); get(); return s + b()", "s = b(); get(); return s + a()")
    assert codes(pair(before, swapped)) == [("ambiguous-static-local", "n")]


def test_statics_of_one_name_and_different_content(pair: Pair) -> None:
    before = """
    static inline int a(void) { static int n = 1; n += 3; return n; }
    static inline int b(void) { static int n = 2; n += 3; return n; }
    int f(int x) { int s = a(); get(); return s + b() + helper(x); }
    """
    delta = pair(before, before.replace("helper", "other"))
    assert changed(delta) == {"f"} and not delta.refused and not delta.new_data
    assert {"n.0", "n.1"} <= kernel_refs(piece(delta, "f"))


@BOTH
def test_static_moves_into_the_cold_part(pair: Pair) -> None:
    before = """
    extern int cold complain(const char *, ...);
    int f(int x)
    {
        static int seen;
        if (x > 100)
            return helper(x);
        seen++;
        return x;
    }
    """
    after = before.replace("seen++;", "").replace(
        "return helper(x);", '{ complain("big %d", x); complain("%d", ++seen); return helper(x); }'
    )
    delta = pair(before, after)
    assert changed(delta) == {"f"} and not delta.refused and not delta.new_data
    refs = set().union(*(kernel_refs(p) for p in delta.pieces if p.kind.value == "function"))
    assert {"seen.0", "f.seen"} & refs


@BOTH
def test_flexible_array(pair: Pair) -> None:
    before = """
    struct flexible { int n; int v[]; };
    struct flexible numbers = { 2, { 5, 6 } };
    int f(int x) { return numbers.v[x & 1] + numbers.n; }
    """
    for edit in ("5, 7", "5, 6, 7"):
        assert codes(pair(before, before.replace("5, 6", edit))) == [("data-changed", "numbers")]
    delta = pair(before, before.replace("x & 1", "x & 3"))
    assert changed(delta) == {"f"} and not delta.refused
    assert "numbers" in kernel_refs(piece(delta, "f"))


@BOTH
def test_zero_length_array_is_no_neighbour(pair: Pair) -> None:
    before = """
    static int none[0], next_thing = 9;
    int f(int x) { sink(none, &none[0]); return next_thing++; }
    """
    delta = pair(before, before.replace("next_thing++", "next_thing--"))
    assert changed(delta) == {"f"} and not delta.refused
    refs = [r for r in piece(delta, "f").relocs if getattr(r.target, "name", "") == "none"]
    assert refs and {r.addend for r in refs} == {0}


POOLS = [
    # wide characters, and a string that is the end of another
    ('void f(void) { sink(L"wide one"); }\nvoid g(void) { sink(u"wide"); }', 'u"wide"', 'u"wido"'),
    ('void f(void) { sink("hello world"); }\nvoid g(void) { sink("world"); }', '("wor', '("wur'),
    ('void f(void) { sink("world"); }\nvoid g(void) { sink("hello world" + 6); }', "+ 6", "+ 5"),
    ('void f(void) { sink("a"); }\nvoid g(void) { sink("a\\0b"); }', "0b", "0c"),
]


@BOTH
@pytest.mark.parametrize(("before", "old", "fresh"), POOLS)
def test_string_pools(pair: Pair, before: str, old: str, fresh: str) -> None:
    assert changed(pair(before, before.replace(old, fresh))) == {"g"}
    shifted = 'void e(void) { sink("another", L"and wide"); }\n' + before
    assert not pair(before, shifted).changed


@BOTH
def test_constant_pools(pair: Pair) -> None:
    options = ("-msse", "-msse2", "-mfpmath=sse")
    before = "double g(double x) { return x * 3.25; }\nfloat f(float x) { return x + 1.5f; }\n"
    delta = pair(before, before.replace("3.25", "3.5"), *options)
    assert changed(delta) == {"g"} and own_refs(delta, piece(delta, "g")) == {""}
    assert not pair(before, "double e(double x) { return x * 9; }\n" + before, *options).changed


@BOTH
def test_variables_that_bear_the_names_of_macros(pair: Pair) -> None:
    """`descriptor` and `once` of a file are its own, though macros and sections are named so."""
    before = """
    int once = 1;
    static int descriptor = 2, _rs = 3;
    struct { int a; } __key = { 4 };
    int f(int x) { return once++ + descriptor++ + _rs++ + __key.a++ + helper(x); }
    """
    delta = pair(before, before.replace("helper", "other"))
    assert changed(delta) == {"f"} and not delta.new_data
    assert {"once", "descriptor", "_rs", "__key"} <= kernel_refs(piece(delta, "f"))
    for name, value in (("once", 1), ("descriptor", 2), ("__key", 4)):
        edit = f"{name} = {{ 9" if name == "__key" else f"{name} = 9"
        old = f"{name} = {{ {value}" if name == "__key" else f"{name} = {value}"
        assert codes(pair(before, before.replace(old, edit))) == [("data-changed", name)]


@BOTH
def test_renamed_variable_is_told(pair: Pair) -> None:
    before = "static int count = 3;\nint f(int x) { return helper(x) + count++; }\n"
    delta = pair(before, before.replace("count", "counter"))
    assert [(w.code, w.symbol) for w in delta.warnings] == [("data-renamed", "count")]
    assert delta.new_data == ("counter",)
    assert not pair(before, before.replace(" + count++", "")).warnings


@BOTH
def test_what_a_sanitizer_tells_of_a_place(pair: Pair) -> None:
    """UBSAN's data has no name, and holds lines: it comes anew with its code, and is no change."""
    options = ("-fsanitize=shift",)
    before = """
    int f(int x, int y) { return helper(x << y); }
    int g(int x, int y) { return other(x << y); }
    """
    other_lines = "\n\nint e(int x, int y) { return x << y; }\n" + before
    assert not pair(before, other_lines, *options).changed
    delta = pair(before, before.replace("helper(x << y)", "helper(x << (y + 1))"), *options)
    assert changed(delta) == {"f"} and not delta.refused and not delta.new_data
    data = [p for p in delta.pieces if p.section.startswith((".data..Lubsan_d", ".data..L__unn"))]
    assert [len(p.relocs) for p in data] == [3], "f's only: the file, and the type twice"


@BOTH
def test_table_of_a_switch(pair: Pair) -> None:
    """GCC calls each CSWTCH.NUMBER; the numbers follow the order of functions."""
    rows = {"f": (7, 13, 99, 4, 55, 1000), "g": (17, 3, 9, 41, 5, 100)}
    parts = [
        f"int {name}(int x) {{ switch (x) {{ "
        + " ".join(f"case {n}: return {v};" for n, v in enumerate(row))
        + " } return -1; }\n"
        for name, row in rows.items()
    ]
    before = "".join(parts)
    options = ("-fjump-tables",)
    assert pair(before, parts[1] + parts[0], *options).is_empty
    delta = pair(before, before.replace("return 55", "return 56"), *options)
    assert changed(delta) == {"f"} and not delta.refused
    (table,) = (p for p in delta.pieces if p.section.startswith(".rodata"))
    assert table.size == 24 and (56).to_bytes(4, "little") in table.data
