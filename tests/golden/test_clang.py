"""What clang names and lays out in another way than gcc."""

from __future__ import annotations

import pytest

from .conftest import BOTH, Pair
from .deltas import changed, codes, kernel_refs, own_refs, piece

only_clang = pytest.mark.parametrize("compiler", ["clang"], indirect=True)


@only_clang
def test_two_statics_of_one_name_in_a_function(pair: Pair) -> None:
    """`f.n` and `f.n.1`: the one without a number is only the first that clang met."""
    before = """
    int f(int x)
    {
        if (x) { static int n; return (n += 3) + get(); }
        static int n;
        return (n += 5) * helper(x);
    }
    """
    assert pair(before, before).is_empty
    after = """
    int f(int x)
    {
        if (!x) { static int n; return (n += 5) * other(x); }
        static int n;
        return (n += 3) + other(get());
    }
    """
    assert codes(pair(before, after)) == [("ambiguous-static-local", "n")]
    distinct = before.replace("static int n; return", "static int n = 7; return")
    delta = pair(distinct, after.replace("int n;\n        return", "int n = 7;\n        return"))
    assert changed(delta) == {"f"} and not delta.refused and not delta.new_data
    refs = {
        r.target.name: r.type
        for r in piece(delta, "f").relocs
        if getattr(r.target, "name", "").startswith("f.n")
    }
    assert set(refs) == {"f.n", "f.n.1"}


@only_clang
def test_statics_of_macros_come_anew(pair: Pair) -> None:
    before = """
    int f(int x)
    {
        static int __warned, __key[4];
        static int __attribute__((section(".data.once"))) ___done;
        if (!__warned) { __warned = 1; sink(__func__, __key); }
        if (!___done) { ___done = 1; sink(0); }
        return x;
    }
    """
    delta = pair(before, before.replace("return x", "return x + 1"))
    assert changed(delta) == {"f"} and not delta.new_data
    assert {"f.__warned", "f.__key"} <= own_refs(delta, piece(delta, "f"))
    assert "f.___done" in kernel_refs(piece(delta, "f")), "what is done once stays done"


@only_clang
def test_removed_static_is_named_as_in_the_source(pair: Pair) -> None:
    delta = pair(
        "int f(void) { static int state; return state++; }", "int f(void) { return get(); }"
    )
    assert codes(delta) == [("static-local-removed", "state")]


SWITCH = "int f(int x) {{ switch (x) {{ {} }} return 0; }}\nint g(int x) {{ return x; }}\n".format(
    " ".join(f"case {n}: return helper({n * 7}) + {n};" for n in range(8))
)


@BOTH
def test_jump_table(pair: Pair) -> None:
    delta = pair(SWITCH, SWITCH.replace("helper(21)", "other(21)"), "-fjump-tables")
    assert changed(delta) == {"f"} and not delta.refused
    table = piece(delta, ".rodata.f")
    assert len(table.relocs) == 8 and own_refs(delta, table) == {"f"}
    assert pair(SWITCH, "int z(int x) { return x; }\n" + SWITCH, "-fjump-tables").changed == ()


@BOTH
def test_jump_table_whose_cases_are_swapped(pair: Pair) -> None:
    """The code is the same but for which value leads to which place."""
    before = SWITCH.replace("helper(21) + 3", "helper(21)").replace("helper(28) + 4", "other(21)")
    after = before.replace("helper(21)", "swap").replace("other(21)", "helper(21)")
    delta = pair(before, after.replace("swap", "other(21)"), "-fjump-tables")
    assert changed(delta) == {"f"} and not delta.refused
    assert own_refs(delta, piece(delta, ".rodata.f")) == {"f"}
