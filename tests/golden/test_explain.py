"""Explaining compiled pairs: first difference, source, inlining, relocations, neighbours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless.diff import diff
from rebootless.elf.reader import read
from rebootless.report import patchview
from rebootless.report.explain import explain_unit
from rebootless.report.facts import FunctionFacts, Mark, UnitFacts, to_json

Explain = Callable[..., UnitFacts]


@pytest.fixture
def explain(compile_c: Callable[..., Path]) -> Explain:
    """The facts of two C texts, compiled with -g unless other flags are given."""

    def run(before: str, after: str, *flags: str) -> UnitFacts:
        flags = flags or ("-g",)
        orig = read(compile_c(before, "orig", *flags))
        patched = read(compile_c(after, "patched", *flags))
        return explain_unit(orig, patched, diff(orig, patched), source="unit.c")

    return run


def only(unit: UnitFacts) -> FunctionFacts:
    (function,) = unit.functions
    return function


def marks(function: FunctionFacts) -> str:
    return "".join(row.mark.value for row in function.listings[0].rows)


INLINED = """
static inline int above(int x)
{
	return x > 1000;
}
static inline int twice(int x)
{
	return above(x) + other(x);
}
int entry(int x)
{
	return helper(x) + twice(x);
}
"""


def test_the_first_difference_and_the_inlining_that_brought_it_in(explain: Explain) -> None:
    unit = explain(INLINED, INLINED.replace("1000", "2000"))
    function = only(unit)
    first = function.first
    assert unit.has_lines and first is not None
    assert (function.name, function.kind, first.listing) == ("entry", "changed", "entry")
    assert "0x3e8" in first.text_old and "0x7d0" in first.text_new
    assert first.offset_old == first.offset_new
    assert [(f.function, f.line) for f in first.chain] == [
        ("above", 4),
        ("twice", 8),
        ("entry", 12),
    ]
    assert {f.file for f in first.chain} == {"unit.c"}
    assert marks(function).count("~") == 1


def test_the_lines_of_the_patch_that_show_in_the_code(explain: Explain) -> None:
    patch = "--- a/unit.c\n+++ b/unit.c\n@@ -4 +4 @@\n-\treturn x > 1000;\n+\treturn x > 2000;\n"
    facts = to_json((explain(INLINED, INLINED.replace("1000", "2000")),))
    found = patchview.causes(facts["units"][0]["functions"][0], patchview.read(patch))
    assert [(c["mark"], c["line"], c["text"]) for c in found] == [
        ("+", 4, "return x > 2000;"),
        ("-", 4, "return x > 1000;"),
    ]
    assert [frame[0] for frame in found[0]["chain"]] == ["above", "twice", "entry"]


def test_jumps_that_only_move_are_no_difference(explain: Explain) -> None:
    source = """
int f(int x)
{
	asm goto("testl %0, %0; jne %l1" : : "r" (x) : : out);
	return 1;
out:	helper(1);
	return 5;
}
"""
    function = only(explain(source, source.replace("; jne", "; nop; nop; jne")))
    assert marks(function).replace("=", "") == "++"
    (jump,) = [r for r in function.listings[0].rows if r.new and r.new.text.startswith("jne")]
    assert jump.mark is Mark.SAME and jump.old and jump.new
    assert jump.old.target != jump.new.target


def test_a_jump_to_another_place_is_a_difference(explain: Explain) -> None:
    source = """
int f(int x)
{
	asm goto("testl %0, %0; jne %l1; nop" : : "r" (x) : : a, b, c);
	return 1;
a:	helper(1); return 5;
b:	helper(2); return 6;
c:	helper(3); return 7;
}
"""
    function = only(explain(source, source.replace("%l1", "%l2")))
    changed = [row for row in function.listings[0].rows if row.mark is not Mark.SAME]
    assert [row.old.text.split()[0] for row in changed if row.old] == ["jne"]


def test_relocations_references_and_what_is_gone(explain: Explain) -> None:
    source = "int seen; int f(int x) {{ {0} return seen; }}"
    before = source.format("helper(x);")
    after = source.format('printk("new\\n"); other(x); sink(&seen);')
    function = only(explain(before, after))
    assert dict(function.relocs_old) == {"PC32": 1, "PLT32": 2}
    kinds = dict(function.relocs_new)
    assert kinds["PLT32"] == 4 and kinds["32S"] >= 2
    found = {r.name: r for r in function.references}
    assert found['"new\\n"'].kind == "string" and found['"new\\n"'].how == "patch"
    assert found["printk"].is_called and found["printk"].is_new
    assert found["printk"].how == "elsewhere" and not found["printk"].in_unit
    assert found["seen"].how == "unit" and found["seen"].in_unit and not found["seen"].is_new
    assert "__fentry__" not in found
    assert function.gone == ("helper",)


def test_callers_by_call_and_by_pointer(explain: Explain) -> None:
    source = """
static noinline int f(int x) { return helper(x) + 1; }
int direct(int x) { return f(x) + 2; }
int (*const table[])(int) = { f };
int (*get_it(void))(int) { return f; }
"""
    function = only(explain(source, source.replace("helper(x) + 1", "helper(x) + 7")))
    assert [(c.name, c.how) for c in function.callers] == [
        ("direct", "call"),
        ("get_it", "pointer"),
        ("table", "pointer"),
    ]


def test_new_functions_have_a_listing_and_no_first_difference(explain: Explain) -> None:
    source = "int f(int x) { return helper(x); }"
    unit = explain(source, "int g(int x) { return other(x) * 3; } " + source)
    # A new function that nothing calls changes nothing; here it is all there is.
    function = only(unit)
    assert (function.name, function.kind, function.first) == ("g", "new", None)
    assert set(marks(function)) == {"+"} and function.gone == ()


def test_special_sections_are_counted_by_function(explain: Explain) -> None:
    source = (
        "int f(int x) { BUG_SITE(1); return helper(x); } int g(int x) { BUG_SITE(2); return x; }"
    )
    function = only(explain(source, source.replace("helper(x)", "helper(x) + 1")))
    assert dict(function.special)["__bug_table"] == 1


COLD = """
extern void cold fail(int);
int f(int x)
{
	if (unlikely(x < 0)) {
		fail(%d);
		return other(x) + 12;
	}
	return helper(x);
}
"""


def test_a_cold_part_has_a_listing_of_its_own(explain: Explain) -> None:
    function = only(explain(COLD % 3, COLD % 4))
    assert [part.name for part in function.listings] == ["f", "f.cold"]
    assert function.first is not None and function.first.listing == "f.cold"
    assert function.first.text_new == "mov $0x4, %edi"
    assert function.first.chain[-1].line == 6


def test_numbers_of_the_compiler_are_no_difference(explain: Explain) -> None:
    source = """
int f(int x) { static int count; count += x; return count; }
int g(int x) { static int count; count -= x; return helper(x) + %d; }
"""
    before = source % 1
    after = before.replace(
        "int f(int x)", "int h(void) { static int count; return ++count; }\nint f(int x)"
    )
    unit = explain(before, after.replace("+ 1", "+ 2"))
    function = next(f for f in unit.functions if f.name == "g")
    assert marks(function).replace("=", "") == "~"


def test_without_dwarf_there_are_no_lines(explain: Explain) -> None:
    unit = explain(INLINED, INLINED.replace("1000", "2000"), "-g0")
    first = only(unit).first
    assert not unit.has_lines and first is not None and first.chain == ()


def test_the_document_is_json_and_always_the_same(explain: Explain) -> None:
    one = to_json((explain(INLINED, INLINED.replace("1000", "2000")),))
    another = to_json((explain(INLINED, INLINED.replace("1000", "2000")),))
    assert json.dumps(one) == json.dumps(another)
    function = one["units"][0]["functions"][0]
    numbers = {row[4] for row in function["listings"][0]["rows"] if row[0] == "="}
    assert numbers <= set(range(-1, len(function["chains"])))


def test_a_very_long_function_shows_what_is_around_its_changes(explain: Explain) -> None:
    lines = "\n".join(f"\tx = helper(x + {n});" for n in range(500))
    source = f"int f(int x)\n{{\n{lines}\n\treturn x;\n}}\n"
    function = only(explain(source, source.replace("x + 333)", "x + 5333)")))
    rows = function.listings[0].rows
    assert [row.mark.value for row in rows].count("~") == 1
    assert len(rows) < 120
    kept = sum(1 if row.mark is not Mark.SKIPPED else row.skipped for row in rows)
    assert kept > 900
