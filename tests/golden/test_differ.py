"""The differ on real compiler output: what changed, what comes along, what is refused."""

from __future__ import annotations

from collections.abc import Callable

from rebootless.diff import Delta
from rebootless.diff.delta import KernelRef, Piece, PieceKind, PieceRef

from .conftest import BOTH

Pair = Callable[[str, str], Delta]


def changed(delta: Delta) -> set[str]:
    return {f.name for f in delta.changed}


def new(delta: Delta) -> set[str]:
    return {f.name for f in delta.new}


def codes(delta: Delta) -> set[str]:
    return {f.code for f in delta.refused}


def piece(delta: Delta, name: str) -> Piece:
    found = [p for p in delta.pieces if p.name == name]
    assert len(found) == 1, f"{name}: {[p.name for p in delta.pieces]}"
    return found[0]


def kernel_refs(found: Piece) -> set[str]:
    return {r.target.name for r in found.relocs if isinstance(r.target, KernelRef)}


def inner_refs(delta: Delta, found: Piece) -> set[str]:
    return {
        delta.pieces[r.target.piece].name for r in found.relocs if isinstance(r.target, PieceRef)
    }


def strings(delta: Delta) -> set[bytes]:
    return {p.data for p in delta.pieces if p.kind is PieceKind.CONSTANT}


@BOTH
def test_same_source_is_no_change(pair: Pair) -> None:
    text = 'int f(int x) { printk("%d", x); return helper(x); }'
    assert pair(text, text).is_empty


def test_comment_and_blank_lines_are_no_change(pair: Pair) -> None:
    before = 'int f(int x) { printk("a"); return x; }\nint g(int x) { return helper(x); }'
    delta = pair(before, "/* why */\n\n" + before)
    assert delta.is_empty


def test_one_of_two_functions(pair: Pair) -> None:
    delta = pair(
        "int f(int x) { return helper(x); }\nint g(int x) { return helper(x) + 1; }",
        "int f(int x) { return helper(x); }\nint g(int x) { return helper(x) + 2; }",
    )
    assert changed(delta) == {"g"} and not delta.refused
    assert kernel_refs(piece(delta, "g")) == {"helper", "__fentry__"}


@BOTH
def test_only_the_callee_differs(pair: Pair) -> None:
    delta = pair("int f(int x) { return helper(x); }", "int f(int x) { return other(x); }")
    assert changed(delta) == {"f"}
    assert "other" in delta.changed[0].reason


@BOTH
def test_string_change_and_shifted_pool(pair: Pair) -> None:
    before = """
    void f(void) { printk("first"); }
    void g(void) { printk("second"); }
    """
    delta = pair(before, before.replace('"first"', '"a longer first"'))
    assert changed(delta) == {"f"}
    assert strings(delta) == {b"a longer first\0"}


def test_reason_stays_on_one_line(pair: Pair) -> None:
    delta = pair('void f(void) { printk("a"); }', 'void f(void) { printk("b\\n\\t\\001"); }')
    assert delta.changed[0].reason.endswith(r'the string "b\n\t\x01"')


@BOTH
def test_new_static_function_and_its_string(pair: Pair) -> None:
    delta = pair(
        "int f(int x) { return x; }",
        """
        static noinline int fresh(int x) { printk("new"); return helper(x); }
        int f(int x) { return fresh(x); }
        """,
    )
    assert changed(delta) == {"f"} and new(delta) == {"fresh"}
    assert inner_refs(delta, piece(delta, "f")) == {"fresh"}
    assert strings(delta) == {b"new\0"}


@BOTH
def test_new_global_function_and_variable_are_global(pair: Pair) -> None:
    delta = pair(
        "int f(int x) { return x; }",
        "int level = 3; int fresh(int x) { return level + x; } int f(int x) { return x + 1; }",
    )
    symbols = {s.name: s.is_global for p in delta.pieces for s in p.symbols}
    assert symbols == {"f": False, "fresh": True, "level": True}
    assert delta.new_data == ("level",)


def test_unused_local_function_is_left_out(pair: Pair) -> None:
    delta = pair(
        "int f(int x) { return x; }",
        "static used int idle(int x) { return x; } int f(int x) { return x; }",
    )
    assert delta.is_empty


@BOTH
def test_new_static_data_with_pointer(pair: Pair) -> None:
    delta = pair(
        "int f(void) { return 0; }",
        """
        static noinline int callback(int x) { return x * 3; }
        static int (*table[2])(int) = { callback, helper };
        int f(void) { return table[get() & 1](2); }
        """,
    )
    assert delta.new_data == ("table",)
    assert inner_refs(delta, piece(delta, "table")) == {"callback"}
    assert kernel_refs(piece(delta, "table")) == {"helper"}


def test_static_local_is_shared_with_the_kernel(pair: Pair) -> None:
    before = """
    int a(void) { static int count = 1; return ++count; }
    int b(void) { static int count = 2; return ++count; }
    """
    delta = pair(before, before.replace("static int count = 2;", "static int count = 2; sink(0);"))
    assert changed(delta) == {"b"} and not delta.new_data and not delta.refused
    (ref,) = {r for r in kernel_refs(piece(delta, "b")) if r.startswith("count")}
    assert ref == "count.0", "b's own counter, by the number it has in the original"


def test_static_locals_renumbered_by_a_new_one(pair: Pair) -> None:
    before = "int a(void) { static int n = 5; return n++; }\nint b(void) { return get(); }"
    after = """
    int fresh(void) { static int n = 9; return n++; }
    int a(void) { static int n = 5; return n++; }
    int b(void) { return get() + fresh(); }
    """
    delta = pair(before, after)
    assert changed(delta) == {"b"} and new(delta) == {"fresh"}
    assert [name.split(".")[0] for name in delta.new_data] == ["n"]


def test_removed_static_local_is_refused(pair: Pair) -> None:
    delta = pair(
        "int f(void) { static int state; return state++; }",
        "int f(void) { return get(); }",
    )
    assert codes(delta) == {"static-local-removed"}
    assert delta.refused[0].symbol == "state"


@BOTH
def test_changed_static_data_is_refused_by_name(pair: Pair) -> None:
    delta = pair(
        "int limit = 10; int f(void) { return limit; }",
        "int limit = 20; int f(void) { return limit; }",
    )
    assert [(f.code, f.symbol) for f in delta.refused] == [("data-changed", "limit")]


def test_initialised_bss_is_changed_data(pair: Pair) -> None:
    delta = pair(
        "static int limit; int f(void) { return limit++; }",
        "static int limit = 7; int f(void) { return limit++; }",
    )
    assert codes(delta) == {"data-changed"}


def test_changed_local_constant_comes_along(pair: Pair) -> None:
    before = """
    static const int table[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    int f(int i) { return table[i & 7]; }
    int g(int i) { return helper(i); }
    """
    delta = pair(before, before.replace("8 }", "9 }"))
    assert changed(delta) == {"f"} and not delta.refused
    assert inner_refs(delta, piece(delta, "f")) == {"table"}


def test_changed_operations_table_is_refused(pair: Pair) -> None:
    before = """
    static int one(int x) { return x; }
    static int two(int x) { return x + 1; }
    static const struct { int (*op)(int); } operations = { one };
    int used_two(int x) { return helper((long)two) + x; }
    void f(void) { sink(&operations); }
    """
    delta = pair(before, before.replace("{ one }", "{ two }"))
    assert codes(delta) == {"data-changed"}


@BOTH
def test_pointer_to_patched_function_stays_with_the_original(pair: Pair) -> None:
    before = """
    static noinline int callee(int x) { return x + 1; }
    void registers(void) { sink(callee); }
    int calls(int x) { return callee(x); }
    """
    after = before.replace("x + 1", "x + 2").replace("sink(callee)", "sink(callee, 1)")
    delta = pair(before, after.replace("return callee(x)", "return 7 * callee(x)"))
    assert changed(delta) == {"callee", "registers", "calls"}
    assert "callee" in kernel_refs(piece(delta, "registers"))
    assert inner_refs(delta, piece(delta, "calls")) == {"callee"}


def test_clone_number_is_no_change(pair: Pair) -> None:
    body = """
    static noinline int clone(int *p, int unused) { return *p + get(); }
    int f(int x) { return clone(&x, 1) + helper(x); }
    """
    other = """
    static noinline int another(int *p, int unused) { return *p - get(); }
    int g(int x) { return another(&x, 2) * helper(x); }
    """
    delta = pair(body, other + body)
    assert not changed(delta) and not delta.refused
    assert "g" in new(delta)


COLD = """
extern int cold complain(const char *, ...);
int f(int x)
{
	int sum = 0;

	for (int i = 0; i < 10; i++)
		sum += helper(x + i);
	if (x < 0) {
		complain("negative %d", x);
		complain("so it is %d", sum);
		return -22;
	}
	return helper(x);
}
"""


def test_cold_part_changes_its_parent(pair: Pair) -> None:
    delta = pair(COLD, COLD.replace("-22", "-5"))
    assert changed(delta) == {"f"}, "the part that changed has no fentry; its parent is patched"
    names = {p.name for p in delta.pieces if p.kind is PieceKind.FUNCTION}
    assert names == {"f", "f.cold"}
    assert "f.cold" in inner_refs(delta, piece(delta, "f"))


def test_bug_line_is_no_change_and_flags_are(pair: Pair) -> None:
    text = "void f(int x) { if (x) BUG_SITE(1); helper(x); }"
    assert pair(text, "\n\n\n" + text).is_empty
    delta = pair(text, text.replace("BUG_SITE(1)", "BUG_SITE(5)"))
    assert changed(delta) == {"f"}
    assert "__bug_table" in delta.changed[0].reason
    assert {t.section: t.entries for t in delta.special}["__bug_table"] == 1


@BOTH
def test_table_entries_follow_their_function(pair: Pair) -> None:
    before = """
    void f(int x) { if (x) BUG_SITE(1); helper(x); }
    void g(int x) { if (x) BUG_SITE(2); helper(x); if (x > 3) BUG_SITE(3); }
    """
    delta = pair(before, before.replace("x > 3", "x > 4"))
    assert changed(delta) == {"g"}
    tables = {t.section: t.entries for t in delta.special}
    assert tables == {"__bug_table": 2, "__mcount_loc": 1}
    bug = piece(delta, "__bug_table")
    assert bug.entsize == 12 and bug.size == 24
    assert {bug.data[10], bug.data[22]} == {2, 3}


def test_init_function_is_refused(pair: Pair) -> None:
    before = "init int setup(void) { return helper(1); }\nint f(int x) { return helper(x); }"
    delta = pair(before, before.replace("helper(1)", "helper(2)"))
    assert [(f.code, f.symbol) for f in delta.refused] == [("init-function", "setup")]


def test_init_function_beside_another_is_a_warning(pair: Pair) -> None:
    before = "init int setup(void) { return helper(1); }\nint f(int x) { return helper(x); }"
    after = before.replace("helper(1)", "helper(2)").replace("helper(x)", "other(x)")
    delta = pair(before, after)
    assert changed(delta) == {"f"} and not delta.refused
    assert [(f.code, f.symbol) for f in delta.warnings] == [("init-function", "setup")]


def test_notrace_function_is_refused(pair: Pair) -> None:
    before = "notrace int early(int x) { return helper(x); }\nint f(int x) { return helper(x); }"
    delta = pair(
        before, before.replace("early(int x) { return helper", "early(int x) { return 3*helper")
    )
    assert [(f.code, f.symbol) for f in delta.refused] == [("no-fentry", "early")]


QUIET = """
static noinline notrace int quiet(int x) { return helper(x) + 1; }
int f(int x) { return quiet(x) * 2; }
int g(int x) { return x ? quiet(x) : other(x); }
int h(int x) { return helper(x); }
"""


def test_static_function_without_fentry_goes_along_with_its_callers(pair: Pair) -> None:
    """The kernel's `inline` is notrace: left out of line, such a function has no fentry."""
    delta = pair(QUIET, QUIET.replace("+ 1", "+ 7"))
    assert not delta.refused and changed(delta) == {"f", "g"}
    assert [c.name for c in delta.carried] == ["quiet"]
    assert "quiet" in inner_refs(delta, piece(delta, "f"))
    assert "quiet" in inner_refs(delta, piece(delta, "g"))
    assert "calls 'quiet'" in delta.changed[0].reason


def test_callers_without_fentry_are_climbed(pair: Pair) -> None:
    before = QUIET.replace("int f(int x)", "static noinline notrace int f(int x)")
    before += "int top(int x) { return f(x) - 1; }"
    delta = pair(before, before.replace("+ 1", "+ 7"))
    assert not delta.refused and changed(delta) == {"top", "g"}
    assert {c.name for c in delta.carried} == {"quiet", "f"}


@BOTH
def test_function_without_fentry_whose_address_is_taken_is_refused(pair: Pair) -> None:
    before = QUIET + "void registers(void) { sink(quiet); }"
    delta = pair(before, before.replace("+ 1", "+ 7"))
    assert [(f.code, f.symbol) for f in delta.refused] == [("no-fentry", "quiet")]


def test_special_statics_come_anew(pair: Pair) -> None:
    before = """
    int f(int x)
    {
        static int __warned;
        if (!__warned) { __warned = 1; printk(__func__); }
        return x;
    }
    """
    delta = pair(before, before.replace("return x", "return x + 1"))
    assert changed(delta) == {"f"}
    inner = {n.split(".")[0] for n in inner_refs(delta, piece(delta, "f"))}
    assert inner == {"__warned", "__func__"}
    assert not delta.new_data, "what macros make is not the author's data"


def test_removed_function_is_named(pair: Pair) -> None:
    delta = pair(
        "int gone(int x) { return x; }\nint f(int x) { return helper(x); }",
        "int f(int x) { return other(x); }",
    )
    assert delta.removed == ("gone",)
    assert [w.code for w in delta.warnings] == ["global-removed"]


@BOTH
def test_end_of_array_reference(pair: Pair) -> None:
    before = """
    static int values[4] = { 1, 2, 3, 4 };
    static int next_thing = 5;
    int f(void) { int s = 0; for (int *p = values; p < values + 4; p++) s += *p + get(); return s; }
    int g(void) { values[get() & 3]++; return next_thing++; }
    """
    delta = pair(before, before.replace("s += *p", "s -= *p"))
    assert changed(delta) == {"f"}
    assert kernel_refs(piece(delta, "f")) == {"values", "get", "__fentry__"}


def test_clone_for_a_constant_changes_with_it(pair: Pair) -> None:
    before = """
    static noinline int work(int a, int b) { return a * b + get(); }
    int f(int x) { return work(x, 3); }
    """
    delta = pair(before, before.replace("work(x, 3)", "work(x, 5)"))
    assert changed(delta) == {"work.constprop.0"} and not delta.refused


def test_json_has_the_documented_shape(pair: Pair) -> None:
    facts = pair("int f(int x) { return x; }", "int f(int x) { return x + 1; }").to_json()
    assert facts["schema"] == 1
    assert [f["name"] for f in facts["changed"]] == ["f"]
    assert facts["new"] == facts["refused"] == []


def test_diff_is_deterministic(pair: Pair) -> None:
    before = "int f(int x) { return x; }\nint g(int x) { return helper(x); }"
    after = before.replace("return x;", "return x + 1;").replace("helper(x)", "other(x)")
    first, second = pair(before, after), pair(before, after)
    assert first == second
