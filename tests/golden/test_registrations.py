"""What a patch adds to tables that are made at link or read at boot is refused or told."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rebootless.diff import Delta

Pair = Callable[[str, str], Delta]
BASE = "int f(int x) { return helper(x); }\n"
PATCHED = BASE.replace("helper", "other")
SECTION = '__attribute__((section("{}")))'


def entry(section: str, name: str, value: str = "f", kind: str = "static void *used") -> str:
    return f"{kind} {SECTION.format(section)} {name} = (void *){value};\n"


def codes(delta: Delta) -> list[tuple[str, str]]:
    return [(f.code, f.symbol) for f in delta.refused]


REFUSED = [
    (entry(".initcall4.init", "__initcall__kmod_unit__12_34_setup4"), "initcall-added", "setup"),
    (entry("__tracepoints", "__tracepoint_thing", kind="void *"), "tracepoint-added", "thing"),
    (entry(".pci_table", "quirk_9"), "section-entry-added", "quirk_9"),
    (
        f"void *{SECTION.format('.data..percpu')} counter = &counter;\n",
        "percpu-data",
        "counter",
    ),
    (
        f"int {SECTION.format('.data..percpu..decrypted')} counter;\n",
        "unsupported-section",
        "counter",
    ),
    (f"int {SECTION.format('.data..decrypted')} shared = 3;\n", "unsupported-section", "shared"),
]


@pytest.mark.parametrize(
    ("added", "code", "symbol"), REFUSED, ids=[f"{r[1]}-{r[2]}-{n}" for n, r in enumerate(REFUSED)]
)
def test_added_entry_is_refused(pair: Pair, added: str, code: str, symbol: str) -> None:
    delta = pair(BASE, PATCHED + added)
    assert codes(delta) == [(code, symbol)]
    assert pair(BASE + added, BASE + added).is_empty
    kept = pair(BASE + added, PATCHED + added)
    assert not kept.refused and [f.name for f in kept.changed] == ["f"]


WARNED = [
    (entry("__ksymtab", "__ksymtab_f"), "export-changed", "f"),
    (entry("_error_injection_whitelist", "_eil_addr_f"), "error-injection-added", "f"),
    (entry("_kprobe_blacklist", "_kbl_addr_f"), "kprobe-blacklist-added", "f"),
    (entry("__syscalls_metadata", "__p_syscall_meta__new"), "syscall-added", "new"),
    (entry("__param", "__param_depth"), "parameter-added", "depth"),
    (entry(".init.setup", "__setup_depth"), "parameter-added", "depth"),
    (
        f'static const char used {SECTION.format(".modinfo")} a1[] = "parm=depth:how deep";\n',
        "modinfo-changed",
        "parm",
    ),
]


@pytest.mark.parametrize(("added", "code", "symbol"), WARNED, ids=[w[1] for w in WARNED])
def test_added_entry_is_told(pair: Pair, added: str, code: str, symbol: str) -> None:
    delta = pair(BASE, PATCHED + added)
    assert not delta.refused
    assert [(f.code, f.symbol) for f in delta.warnings] == [(code, symbol)]
    assert not pair(BASE + added, PATCHED + added).warnings


def test_lists_of_new_functions_matter_to_nobody(pair: Pair) -> None:
    """The patch module brings its own list of what must not be probed; the kernel reads it."""
    fresh = "int used noinline fresh(int x) { return other(x); }\n"
    listed = fresh + entry("_kprobe_blacklist", "_kbl_addr_fresh", "fresh")
    delta = pair(BASE, fresh + PATCHED.replace("other(x)", "fresh(x)") + listed.split("\n", 1)[1])
    assert not delta.refused and not delta.warnings
    assert [t.entries for t in delta.special if t.section == "_kprobe_blacklist"] == [1]


def test_trace_printk_works_in_a_patch(pair: Pair) -> None:
    """The kernel takes over the formats of a module that has some."""
    text = """{ static const char *volatile trace_printk_fmt %s = "x is %%d";
    sink(trace_printk_fmt, x); return helper(x); }"""
    traced = BASE.replace("{ return helper(x); }", text % SECTION.format("__trace_printk_fmt"))
    delta = pair(BASE, traced)
    assert not delta.refused and [f.name for f in delta.changed] == ["f"]
    assert [p.size for p in delta.pieces if p.section == "__trace_printk_fmt"] == [8]


def test_initcall_numbers_are_no_change(pair: Pair) -> None:
    one = entry(".initcall4.init", "__initcall__kmod_unit__12_34_setup4")
    assert pair(BASE + one, BASE + one.replace("12_34", "13_40")).is_empty


def test_new_style_export_is_seen(pair: Pair) -> None:
    """Since Linux 6.4, one section that is not loaded holds all exports of a unit."""
    export = """
    asm(".pushsection .export_symbol,\\"\\"\\n __export_symbol_f: .asciz \\"%s\\"\\n"
        ".balign 8\\n .quad f\\n .popsection");
    """
    for before, after in (("", export % "GPL"), (export % "GPL", export % ""), (export % "", "")):
        delta = pair(BASE + before, PATCHED + after)
        assert [(w.code, w.symbol) for w in delta.warnings] == [("export-changed", "f")]
        assert not delta.refused and [f.name for f in delta.changed] == ["f"]
        assert {p.section for p in delta.pieces} == {".text.f", "__mcount_loc"}
    delta = pair(BASE + export % "GPL", PATCHED + export % "GPL")
    assert not delta.refused and not delta.warnings


BTF = """
asm(".pushsection .BTF_ids,\\"a\\"\\n .local allowed\\n allowed:\\n"
    ".local __BTF_ID__func__one__NUMBER\\n .type __BTF_ID__func__one__NUMBER, STT_OBJECT\\n"
    ".size __BTF_ID__func__one__NUMBER, 4\\n __BTF_ID__func__one__NUMBER: .zero 4\\n .popsection");
extern int allowed[];
int g(int x) { return allowed[0] == x; }
"""


def test_btf_ids(pair: Pair) -> None:
    """Their numbers say nothing, their names all; code reaches the kernel's own list."""
    before = BASE + BTF.replace("NUMBER", "12")
    assert pair(before, BASE + BTF.replace("NUMBER", "17")).is_empty
    delta = pair(before, PATCHED + BTF.replace("NUMBER", "17").replace("func__one", "func__two"))
    assert codes(delta) == [("btf-ids", "allowed")]
    delta = pair(before, before.replace("== x", "!= x"))
    assert [f.name for f in delta.changed] == ["g"] and not delta.refused
    assert codes(pair(BASE, PATCHED + BTF.replace("NUMBER", "1"))) == [
        ("unsupported-section", "allowed")
    ]


def test_data_of_attribute_sections_is_compared(pair: Pair) -> None:
    """__refdata is ordinary data, and .meminit.text ordinary code with memory hotplug."""
    before = (
        f"int {SECTION.format('.ref.data')} level = 3;\n"
        f"int {SECTION.format('.meminit.text')} g(int x) {{ return level + x; }}\n"
    )
    delta = pair(before, before.replace("= 3", "= 4"))
    assert codes(delta) == [("data-changed", "level")]
    delta = pair(before, before.replace("+ x", "- x"))
    assert [f.name for f in delta.changed] == ["g"] and not delta.refused


def test_init_data_beside_code_is_a_warning(pair: Pair) -> None:
    before = BASE + f"int {SECTION.format('.init.data')} limit = 1;\n"
    delta = pair(before, before.replace("helper", "other").replace("limit = 1", "limit = 2"))
    assert not delta.refused and [f.code for f in delta.warnings] == ["init-data"]
    assert codes(pair(before, before.replace("limit = 1", "limit = 2"))) == [("init-data", "limit")]


def test_unknown_relocations_and_symbols_are_refused(pair: Pair) -> None:
    after = BASE.replace("helper(x)", "helper(x) + other(x)")
    wide = after.replace("{", '{ asm volatile("movl $thing@SIZE, %%eax" : : : "eax");')
    assert ("unsupported-relocation", "f") in codes(pair(BASE, wide))
    common = after.replace(
        "int f", 'asm(".comm shared_thing, 8");\nextern long shared_thing;\nint f'
    )
    common = common.replace("helper(x)", "shared_thing")
    assert codes(pair(BASE, common)) == [("unsupported-symbol", "shared_thing")]


def test_allocation_tags_come_anew(pair: Pair) -> None:
    """Since Linux 6.10 each allocation may have one; the line in it says nothing."""
    section = SECTION.format("alloc_tags")
    tag = f"static long {section} _alloc_tag[5] = {{ 0, LINE }}; sink(_alloc_tag);"
    before = "int f(int x) { " + tag.replace("LINE", "7") + " return helper(x); }\n"
    assert pair(before, before.replace("0, 7", "0, 9")).is_empty
    delta = pair(before, before.replace("helper", "other").replace("0, 7", "0, 9"))
    assert not delta.refused and not delta.new_data
    assert [p.size for p in delta.pieces if p.section == "alloc_tags"] == [40]
