"""Functions that come, go, move, are cloned, or have another name as well."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rebootless.diff import diff
from rebootless.diff.delta import KernelRef
from rebootless.elf.reader import parse, read
from rebootless.module.emit import emit
from rebootless.module.resolve import Proof, Resolver

from .conftest import BOTH, Compile, Pair
from .deltas import changed, codes, kernel_refs, new, own_refs, piece, target, warned
from .test_differ import COLD

PLAIN = "int f(int x) { return helper(x); }\n"
SECTION = '__attribute__((section("{}"))) '


def test_cold_part_comes_goes_and_changes_with_its_parent(pair: Pair) -> None:
    without = COLD.replace("if (x < 0)", "if (0)")
    for before, after, parts in (
        (without, COLD, {"f", "f.cold"}),
        (COLD, without, {"f"}),
        (COLD, COLD.replace("-22", "-5").replace("return helper", "return 3 * helper"),
         {"f", "f.cold"}),
    ):  # fmt: skip
        delta = pair(before, after)
        assert changed(delta) == {"f"} and not delta.refused and not new(delta)
        assert {p.name for p in delta.pieces if p.kind.value == "function"} == parts
        assert delta.removed == ()


PART = """
int work(int *p, int y)
{
    if (!p)
        return 0;
    EXTRA for (int i = 0; i < 50; i++) {
        y += helper(y * i);
        y ^= other(y);
        if (y > 100)
            printk("x %d", y);
    }
    return y;
}
int f(int *p) { return work(p, 1) + helper(3); }
int g(int *p) { return work(p, 2) - helper(3); }
"""


def test_partial_inlining_appears_and_vanishes(pair: Pair) -> None:
    """GCC takes the body of `work` out as work.part.0, or leaves it where it is."""
    whole, split = PART.replace("EXTRA", ""), PART.replace("EXTRA", "get();")
    delta = pair(whole, split)
    assert "work.part.0" in new(delta) and not delta.refused
    assert changed(delta) == {"work", "f", "g"}
    for name in ("work", "f", "g"):
        assert "work.part.0" in own_refs(delta, piece(delta, name))
    back = pair(split, whole)
    assert back.removed == ("work.part.0",) and changed(back) == {"work", "f", "g"}
    assert not back.refused
    same = pair(split, split.replace("y > 100", "y > 101"))
    assert changed(same) == {"work.part.0"} and not same.refused


def test_static_local_moves_into_a_part(compile_c: Compile) -> None:
    """Its state is the kernel's, whichever of the two functions the compiler has it in."""
    text = PART.replace("EXTRA", "").replace("^= other(y)", "^= other(y + seen++)")
    text = text.replace("if (!p)", "static int seen;\n    if (!p)")
    whole = read(compile_c(text, "whole", "-fno-partial-inlining"))
    split = read(compile_c(text, "split"))
    delta, back = diff(whole, split), diff(split, whole)
    assert changed(delta) == {"work", "f", "g"} and new(delta) == {"work.part.0"}
    assert changed(back) == {"work", "f", "g"} and back.removed == ("work.part.0",)
    for found in (delta, back):
        assert not found.refused and not found.new_data
        code = [p for p in found.pieces if p.kind.value == "function"]
        assert "seen.0" in set().union(*(kernel_refs(p) for p in code))


def test_scalar_replacement_appears_and_vanishes(pair: Pair) -> None:
    by_value = """
    static noinline int work(int *p, int unused) { return *p + get(); }
    int f(int x) { return work(&x, 1) + helper(x); }
    """
    by_reference = by_value.replace("return *p", "sink(p); return *p")
    for before, after in ((by_value, by_reference), (by_reference, by_value)):
        delta = pair(before, after)
        (gone,), (fresh,) = delta.removed, new(delta)
        assert gone.split(".")[0] == fresh.split(".")[0] == "work" and gone != fresh
        assert changed(delta) == {"f"} and not delta.refused
        assert fresh in own_refs(delta, piece(delta, "f"))


@BOTH
def test_inlined_everywhere_and_no_longer_inlined(pair: Pair) -> None:
    apart = """
    static noinline int in(int x) { static int n; printk("in %d", n++); return helper(x); }
    int f(int x) { return in(x) + 1; }
    int g(int x) { return in(x) + 2; }
    """
    inside = apart.replace("static noinline", "static inline __attribute__((always_inline))")
    delta = pair(apart, inside)
    assert changed(delta) == {"f", "g"} and delta.removed == ("in",)
    assert not delta.refused and not delta.new_data, "the counter is the kernel's"
    delta = pair(inside, apart)
    assert changed(delta) == {"f", "g"} and new(delta) == {"in"}
    assert not delta.refused and not delta.new_data


@BOTH
def test_function_pointers_in_code_and_in_new_data(pair: Pair) -> None:
    """To a patched function: the original. To a new one: the new one. Calls: the new code."""
    before = """
    static noinline int callee(int x) { return x + 1; }
    void reg(void) { sink(callee); }
    int calls(int x) { return callee(x); }
    """
    after = """
    static noinline int callee(int x) { return x + 2; }
    static noinline int fresh(int x) { return x + 3; }
    static int (*ops[])(int) = { callee, fresh, helper, callee };
    void reg(void) { sink(callee, fresh, ops); }
    int calls(int x) { return callee(x) + 1; }
    """
    delta = pair(before, after)
    assert changed(delta) == {"callee", "reg", "calls"} and new(delta) == {"fresh"}
    ops = piece(delta, "ops")
    assert [target(delta, ops, at) for at in (0, 8, 16, 24)] == [
        ("kernel", "callee"), ("own", "fresh"), ("kernel", "helper"), ("kernel", "callee"),
    ]  # fmt: skip
    assert "callee" in kernel_refs(piece(delta, "reg"))
    assert own_refs(delta, piece(delta, "reg")) == {"fresh", "ops"}
    assert "callee" in own_refs(delta, piece(delta, "calls"))


@BOTH
def test_removed_function_that_data_still_points_at(pair: Pair) -> None:
    before = """
    static int gone(int x) { return x + 1; }
    int (*hook)(int) = gone;
    int f(int x) { return hook(x); }
    """
    after = before.replace("gone(int x) { return x + 1", "next(int x) { return x + 2")
    delta = pair(before, after.replace("= gone", "= next"))
    assert codes(delta) == [("data-changed", "hook")]
    delta = pair(before, "int (*hook)(int);\nint f(int x) { return hook(x); }")
    assert codes(delta) == [("data-changed", "hook")]


WEAK = """
int __attribute__((weak)) maybe(int x) { return x * 3 + get(); }
int f(int x) { return helper(x); }
int also(int x) __attribute__((weak, alias("f")));
int uses_maybe(int x) { return maybe(x); }
int uses_also(int x) { return also(x); }
int uses_f(int x) { return f(x); }
"""


@BOTH
@pytest.mark.parametrize("linkage", ["", "static noinline "])
def test_removed_caller_of_a_function_without_fentry(linkage: str, pair: Pair) -> None:
    """It keeps its old code; there is nothing to redirect it to."""
    gone = f"{linkage}int gone(int x) {{ return quiet(x) - 3; }}\n"
    before = (
        "static noinline notrace int quiet(int x) { return helper(x) + 1; }\n"
        f"{gone}int f(int x) {{ return gone(x) * 2; }}\nint h(int x) {{ return helper(x); }}\n"
    )
    after = before.replace(gone, "").replace("+ 1", "+ 7").replace("gone(x)", "quiet(x)")
    delta = pair(before, after.replace("return helper(x); }", "return other(x); }"))
    assert not delta.refused and changed(delta) == {"f", "h"}
    assert [c.name for c in delta.carried] == ["quiet"] and delta.removed == ("gone",)


def test_function_without_fentry_that_only_init_code_calls(pair: Pair) -> None:
    """Nothing would be redirected, and nothing can reach the new code."""
    before = (
        "static noinline notrace int quiet(int x) { return helper(x) + 1; }\n"
        f"init int setup(int x) {{ return quiet(x) - 3; }}\n{PLAIN}"
    )
    after = before.replace("+ 1", "+ 7")
    assert codes(pair(before, after)) == [("init-function", "setup")]
    delta = pair(before, after.replace(PLAIN, PLAIN.replace("helper", "other")))
    assert changed(delta) == {"f"} and not delta.refused
    assert warned(delta) == [("init-function", "setup")]


@BOTH
def test_weak_symbols_stay_what_the_kernel_linked(pair: Pair) -> None:
    """Another unit may have the real `maybe`, and the real `also`: no use leads to ours."""
    after = WEAK.replace("return maybe(x)", "return 5 + maybe(x)")
    delta = pair(WEAK, after.replace("return also(x)", "return 5 + also(x)"))
    assert changed(delta) == {"uses_maybe", "uses_also"}
    for name in ("maybe", "also"):
        found = piece(delta, f"uses_{name}")
        (ref,) = (
            r.target
            for r in found.relocs
            if isinstance(r.target, KernelRef) and r.target.name not in ("__fentry__", "get")
        )
        assert (ref.name, ref.is_weak, ref.is_global, ref.defined) == (name, True, True, True)
    delta = pair(WEAK, WEAK.replace("helper(x)", "other(x)").replace("also(x);", "1 + also(x);"))
    assert changed(delta) >= {"f", "uses_also"}
    assert "also" in kernel_refs(piece(delta, "uses_also")), "even though f goes along"


@BOTH
def test_call_through_a_weak_alias_is_a_change(pair: Pair) -> None:
    delta = pair(WEAK, WEAK.replace("uses_f(int x) { return f(", "uses_f(int x) { return also("))
    assert changed(delta) >= {"uses_f"} and changed(delta) <= {"uses_f", "f"}


@BOTH
def test_weak_function_patched_and_alias_of_a_patched_one(pair: Pair) -> None:
    delta = pair(WEAK, WEAK.replace("x * 3", "x * 5"))
    assert changed(delta) == {"maybe"} and not delta.refused
    strong = WEAK.replace("weak, alias", "alias").replace("int f(", "noinline int f(")
    delta = pair(strong, strong.replace("helper(x)", "other(x)"))
    assert "f" in changed(delta) and not delta.refused
    assert {s.name for s in piece(delta, "f").symbols} == {"f", "also"}
    assert not any(s.is_global for s in piece(delta, "f").symbols)


@BOTH
def test_weak_symbol_defined_nowhere(pair: Pair) -> None:
    delta = pair(
        PLAIN,
        "extern int __attribute__((weak)) absent(int);\n"
        + PLAIN.replace("return", "if (absent) return absent(x); return"),
    )
    absent = {
        r.target for r in piece(delta, "f").relocs if getattr(r.target, "name", "") == "absent"
    }
    assert {(t.is_weak, t.defined) for t in absent if isinstance(t, KernelRef)} == {(True, False)}


MOVES = [
    (".sched.text", ".noinstr.text"), (".spinlock.text", ".text..refcount"),
    (".text.unlikely.f", ".sched.text"), (".kprobes.text", ".text.f"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "fresh"), MOVES, ids=[f"{a}-{b}" for a, b in MOVES])
def test_function_that_moves_to_another_section(pair: Pair, old: str, fresh: str) -> None:
    delta = pair(SECTION.format(old) + PLAIN, SECTION.format(fresh) + PLAIN)
    assert delta.is_empty and warned(delta) == [("section-moved", "f")]
    assert old in delta.warnings[0].message and fresh in delta.warnings[0].message
    delta = pair(SECTION.format(old) + PLAIN, SECTION.format(fresh) + PLAIN.replace("(x)", "(3)"))
    assert changed(delta) == {"f"} and not delta.refused
    unmoved = pair(SECTION.format(old) + PLAIN, SECTION.format(old) + PLAIN.replace("(x)", "(3)"))
    assert changed(unmoved) == {"f"} and not unmoved.warnings


def test_hot_and_cold_are_the_compilers_choice(pair: Pair) -> None:
    assert not pair("cold " + PLAIN, PLAIN).warnings


def test_function_that_is_no_longer_init_is_new(pair: Pair) -> None:
    """The kernel freed its own after boot: nothing may call that."""
    before = "init noinline int setup(int x) { return get() + x; }\n" + PLAIN
    after = before.replace("init noinline", "noinline").replace("helper(x)", "setup(x)")
    delta = pair(before, after)
    assert changed(delta) == {"f"} and new(delta) == {"setup"} and not delta.refused
    assert "setup" in own_refs(delta, piece(delta, "f"))
    assert [s.is_global for s in piece(delta, "setup").symbols] == [True]
    data = SECTION.format(".init.data") + "int limit = 4;\n" + PLAIN
    after = data.replace(SECTION.format(".init.data"), "").replace("(x);", "(x) + limit++;")
    delta = pair(data, after)
    assert delta.new_data == ("limit",) and not delta.refused
    assert "limit" in own_refs(delta, piece(delta, "f"))


@BOTH
def test_padding_for_calls_goes_along(compile_c: Compile) -> None:
    """-fpatchable-function-entry=16,16: the kernel writes into the 16 bytes before a function."""
    options = ("-fpatchable-function-entry=16,16",)
    text = PLAIN + "int g(int x) { return f(x) + 1; }"
    orig = read(compile_c(text, "orig", *options))
    delta = diff(orig, read(compile_c(text.replace("+ 1", "+ 2"), "patched", *options)))
    assert changed(delta) == {"g"} and piece(delta, "g").prefix == b"\x90" * 16
    check_padding(delta, orig.symbols.names)


def check_padding(delta: object, names: tuple[str, ...]) -> None:
    proofs = {i: Proof(name, 0) for i, name in enumerate(names)}
    unit = emit(delta, Resolver("vmlinux", {}, frozenset(), proofs, Everywhere()), 0)  # type: ignore[arg-type]
    elf = parse(unit.data, name="unit.o")
    symbol = elf.symbols[elf.symbols.by_name["g"][0]]
    section = elf.sections[symbol.shndx]
    assert symbol.value % 16 == 0 and symbol.value >= 16
    assert bytes(section.data[symbol.value - 16 : symbol.value]) == b"\x90" * 16


class Everywhere:
    """Every name is unique in the kernel."""

    def positions_of(self, object_name: str, name: str) -> tuple[int, ...]:
        return (0,)


def test_named_padding(compile_c: Compile) -> None:
    """Since Linux 6.2, objtool gives the padding a symbol of its own."""
    options = ("-fpatchable-function-entry=16,16",)
    objects = []
    for name, extra in (("orig", 1), ("patched", 2)):
        text = PLAIN + f"int g(int x) {{ return f(x) + {extra}; }}"
        objects.append(read(with_named_padding(compile_c(text, name, *options))))
    delta = diff(*objects)
    assert changed(delta) == {"g"} and not delta.refused
    assert piece(delta, "g").prefix == b"\x90" * 16
    assert {s.name for p in delta.pieces for s in p.symbols} == {"g"}
    check_padding(delta, objects[0].symbols.names)


def with_named_padding(path: Path) -> Path:
    """Adds `__pfx_f` and `__pfx_g` to an object, as objtool does."""
    add = [f"--add-symbol=__pfx_{f}=.text.{f}:0,function,local" for f in "fg"]
    subprocess.run(["objcopy", *add, path], check=True)
    subprocess.run(["strip", "--strip-debug", "-N", "x", path], check=True)
    return path


GROUP = """
asm(".section .text.thunk,\\"axG\\",@progbits,thunk,comdat\\n .hidden thunk\\n .globl thunk\\n"
    ".type thunk,@function\\n thunk: BODY\\n ret\\n .size thunk, .-thunk\\n .previous");
extern void thunk(void);
"""


@BOTH
def test_section_groups(pair: Pair) -> None:
    """Harmless unless what is in the group changes: of that, another unit's copy may be used."""
    group = GROUP.replace("BODY", "nop")
    uses = group + PLAIN.replace("return", "thunk(); return")
    delta = pair(uses, uses.replace("return", "return 1 +"))
    assert changed(delta) == {"f"} and not delta.refused
    assert "thunk" in kernel_refs(piece(delta, "f"))
    delta = pair(PLAIN, uses)
    assert new(delta) == {"thunk"} and not delta.refused
    assert not any(s.is_global for s in piece(delta, "thunk").symbols), "as in any other unit"
    assert pair(PLAIN, group + PLAIN).is_empty
    delta = pair(uses, uses.replace("nop", "nop; nop"))
    assert ("section-group", "thunk") in codes(delta)


def test_groups_of_debug_information_are_nothing(pair: Pair) -> None:
    delta = pair(PLAIN, PLAIN.replace("helper", "other"), "-g3")
    assert changed(delta) == {"f"} and not delta.refused


def test_long_and_dotted_names(pair: Pair) -> None:
    long = "n" * 511
    before = f"""
    noinline int {long}(int x) {{ return helper(x); }}
    int dotted asm("some.odd..name") = 3;
    int f(int x) {{ return {long}(x) + dotted++; }}
    """
    assert pair(before, before).is_empty
    delta = pair(before, before.replace("dotted++", "dotted--"))
    assert changed(delta) == {"f"} and not delta.refused
    assert {long, "some.odd..name"} <= kernel_refs(piece(delta, "f"))


TLS = "static __thread int t;\n" + PLAIN.replace("helper(x)", "helper(x) + t++")


@BOTH
@pytest.mark.parametrize("model", ["local-exec", "initial-exec"])
def test_thread_local_storage_is_refused(pair: Pair, model: str) -> None:
    text = TLS.replace("static", "extern") if model == "initial-exec" else TLS
    delta = pair(PLAIN, text, f"-ftls-model={model}")
    assert codes(delta) == [("thread-local", "t")]


@BOTH
def test_global_offset_table_is_refused(pair: Pair) -> None:
    load = 'long r; asm("movq thing@GOTPCREL(%%rip), %0" : "=r"(r)); return r +'
    delta = pair(PLAIN, PLAIN.replace("return", load))
    assert codes(delta) == [("unsupported-relocation", "f")]
    assert "'thing'" in delta.refused[0].message and "offset table" in delta.refused[0].message


@BOTH
def test_large_code_model(pair: Pair) -> None:
    """Absolute 64-bit addresses in code, which the module loader knows."""
    delta = pair(PLAIN, PLAIN.replace("helper", "3 + other"), "-mcmodel=large")
    assert changed(delta) == {"f"} and not delta.refused
    assert {
        r.type for r in piece(delta, "f").relocs if getattr(r.target, "name", "") == "other"
    } == {1}
