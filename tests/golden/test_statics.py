"""Static locals, constants and aliases: which is which, and what may come along."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from rebootless.diff import Delta, diff
from rebootless.diff.delta import KernelRef, Piece, PieceRef
from rebootless.elf.reader import read

from .conftest import BOTH, KERNEL_FLAGS, PRELUDE

Pair = Callable[[str, str], Delta]
ONCE = """
#define KEYED(key, label) asm goto("1: .byte 0x0f,0x1f,0x44,0,0\\n" \\
	".pushsection __jump_table,\\"aw\\"\\n .balign 8\\n .long 1b - ., %l[" #label "] - .\\n" \\
	".quad %c0 - .\\n .popsection" : : "i" (&key) : : label)
"""


def changed(delta: Delta) -> set[str]:
    return {f.name for f in delta.changed}


def codes(delta: Delta) -> list[tuple[str, str]]:
    return [(f.code, f.symbol) for f in delta.refused]


def piece(delta: Delta, name: str) -> Piece:
    (found,) = (p for p in delta.pieces if p.name == name)
    return found


def refs(found: Piece) -> set[str]:
    return {r.target.name for r in found.relocs if isinstance(r.target, KernelRef)}


def test_what_is_done_once_stays_done(pair: Pair) -> None:
    """A second run of DO_ONCE() would make a new secret for a hash table that is in use."""
    before = """
    int f(int x)
    {
        static int __attribute__((section(".data.once"))) ___done;
        static int __attribute__((section(".data.once"))) __already_done;
        if (!___done) { ___done = 1; sink(&___done); }
        if (x < 0 && !__already_done) { __already_done = 1; printk("negative"); }
        return x;
    }
    """
    delta = pair(before, before.replace("return x", "return x + 1"))
    assert changed(delta) == {"f"}
    names = {n.split(".")[0] for n in refs(piece(delta, "f"))}
    assert "___done" in names and "__already_done" not in names


def test_static_key_that_only_a_jump_label_names(pair: Pair) -> None:
    before = (
        ONCE
        + """
    int f(int x) { static int key = 1; KEYED(key, no); return helper(x); no: return x; }
    """
    )
    assert pair(before, before).is_empty
    delta = pair(before, before.replace("helper(x)", "helper(x + 1)"))
    assert changed(delta) == {"f"} and not delta.new_data
    assert refs(piece(delta, "__jump_table")) == {"key.0"}


def test_equal_statics_of_one_function_are_not_swapped(pair: Pair) -> None:
    """Both are inlined into f, are zero, and now used in the other order."""
    before = """
    static inline int a(void) { static int n; return ++n * 3; }
    static inline int b(void) { static int n; return ++n * 5; }
    int f(int x) { int s = a(); get(); return s + b() + x; }
    """
    delta = pair(
        before,
        before.replace("int s = a(); get(); return s + b()", "int s = b(); get(); return s + a()"),
    )
    assert ("ambiguous-static-local", "n") in codes(delta)
    distinct = before.replace("int n; return ++n * 5", "int n = 9; return ++n * 5")
    delta = pair(distinct, distinct.replace("+ x;", "- x;"))
    assert changed(delta) == {"f"} and not delta.refused and not delta.new_data


def test_static_of_a_function_that_is_no_longer_inlined(pair: Pair) -> None:
    before = """
    static inline int count(void) { static int n = 4; return ++n; }
    int f(int x) { return helper(x) + count(); }
    """
    after = before.replace("static inline int count", "static noinline int count")
    delta = pair(before, after)
    assert changed(delta) == {"f"} and not delta.refused and not delta.new_data
    assert refs(piece(delta, "count")) >= {"n.0"}
    back = pair(after, before)
    assert changed(back) == {"f"} and not back.refused and not back.new_data


@BOTH
def test_rate_limit_that_changes_is_a_change(pair: Pair) -> None:
    before = """
    int f(int x)
    {
        static int _rs[3] = { 0, 250, 10 };
        if (helper((long)_rs)) printk("x");
        return x;
    }
    int g(int x) { return helper(x); }
    """
    delta = pair(before, before.replace("250, 10", "500, 10"))
    assert changed(delta) == {"f"} and not delta.refused


@BOTH
def test_constant_that_becomes_writable_is_refused(pair: Pair) -> None:
    """The running kernel has it in read-only memory."""
    before = """
    static const used int table[] = { 1, 2, 3 };
    int f(int i) { sink(table); return i; }
    """
    delta = pair(
        before, before.replace("const used", "used").replace("sink(table)", "table[i] = 0")
    )
    assert codes(delta) == [("data-changed", "table")]
    assert "read-only" in delta.refused[0].message


def test_switch_table_follows_its_function(tmp_path: Path) -> None:
    text = "\n".join(f"        case {n}: return helper({n * 7});" for n in range(8))
    before = (
        f"int f(int x) {{ switch (x) {{\n{text}\n }} return 0; }}\nint g(int x) {{ return x; }}"
    )
    delta = compiled(tmp_path, before, before.replace("helper(21)", "other(21) + get()"))
    assert changed(delta) == {"f"} and not delta.refused
    table = piece(delta, ".rodata.f")
    assert len(table.relocs) == 8 and table.size == 64
    assert {
        delta.pieces[r.target.piece].name for r in table.relocs if isinstance(r.target, PieceRef)
    } == {"f"}


def test_unchanged_table_of_labels_comes_along(pair: Pair) -> None:
    """Its addresses are within the function: the kernel's table leads into the old code."""
    before = """
    int f(int x)
    {
        static const void *const labels[] = { &&a, &&b, &&c };
        goto *labels[x];
    a:  return helper(1);
    b:  return helper(2);
    c:  return helper(3);
    }
    """
    delta = pair(before, before.replace("helper(3)", "helper(4)"))
    assert changed(delta) == {"f"} and not delta.refused
    names = [p.name.split(".")[0] for p in delta.pieces]
    assert "labels" in names


@BOTH
def test_neighbour_in_a_shared_section_changes_no_padding(pair: Pair) -> None:
    """Padding belongs to nobody, in data and in code."""
    mostly = '__attribute__((section(".data..read_mostly")))'
    quiet = 'notrace __attribute__((section(".noinstr.text")))'
    before = f"""
    {mostly} int small = 1;
    {quiet} int one(int x) {{ return helper(x); }}
    int f(int x) {{ return x + small; }}
    """
    after = (
        before
        + f"""
    {mostly} long wide __attribute__((aligned(32))) = 2;
    {quiet} int two(int x) {{ return other(x); }}
    """
    )
    delta = pair(before, after)
    assert not delta.refused and not delta.changed
    assert {f.name for f in delta.new} == {"two"} and delta.new_data == ("wide",)


@BOTH
def test_aliases_keep_their_meaning(pair: Pair) -> None:
    before = """
    int f(int x) { return helper(x); }
    int g(int x) { return other(x); }
    int a(int x) __attribute__((alias("f")));
    """
    assert pair(before, before).is_empty
    delta = pair(before, before.replace('alias("f")', 'alias("g")'))
    assert codes(delta) == [("alias-changed", "a")]
    delta = pair(before, before.replace("int a(int", "int b(int"))
    assert not delta.changed and not delta.removed and not delta.refused


CLONE = """
int NAME(int x) asm("work.constprop.NUMBER");
int NAME(int x)
{
    int sum = 0;
    for (int i = 0; i < 10; i++)
        sum += helper(x + i) * FACTOR;
    if (x < 0) {
        complain("negative %d", x);
        complain("so it is %d", sum);
        return -ERROR;
    }
    return helper(x);
}
"""


def clones(*numbers: tuple[int, int]) -> str:
    text = "extern int cold complain(const char *, ...);\n"
    for n, (factor, error) in enumerate(numbers):
        body = CLONE.replace("NAME", f"work{n}").replace("NUMBER", str(n))
        text += body.replace("FACTOR", str(factor)).replace("ERROR", str(error))
    return text


def test_cold_parts_of_several_clones(pair: Pair) -> None:
    """The cold part that changed is that of one clone, and so is its parent."""
    before = clones((3, 22), (5, 23))
    for number, after in enumerate((clones((3, 12), (5, 23)), clones((3, 22), (5, 13)))):
        delta = pair(before, after)
        assert changed(delta) == {f"work.constprop.{number}"} and not delta.refused
        assert piece(delta, f"work.constprop.{number}.cold")


@BOTH
def test_reordered_functions_are_no_change(pair: Pair) -> None:
    parts = [
        'int a(int x) { static int n; printk("a %d", n++); return x; }',
        'int b(int x) { static int n; printk("b %d", n++); return helper(x); }',
        "static noinline int c(int x) { static const int t[] = { 5, 6, 7 }; return t[x] + get(); }",
        "int d(int x) { return c(x) + c(x + 1); }",
    ]
    parts[2:3] = ["static noinline int c(int x);", parts[2]]
    before, after = "\n".join(parts), "\n".join([parts[2], *parts[3:], *parts[1::-1]])
    assert pair(before, after).is_empty


def test_what_is_added_changes_only_its_users(pair: Pair) -> None:
    before = 'int a(int x) { static int n; printk("a %d", n++); return x; }\n'
    after = (
        """
    static noinline int fresh(int x) { static int n = 3; printk("fresh %d", n++); return x; }
    int user(int x) { static int n = 8; printk("user %d", n); return fresh(x) + n++; }
    """
        + before
    )
    delta = pair(before, after)
    assert not delta.changed and not delta.refused
    assert {f.name for f in delta.new} == {"fresh", "user"}
    assert [n.split(".")[0] for n in delta.new_data] == ["n", "n"]


def compiled(tmp_path: Path, before: str, after: str) -> Delta:
    """The Delta of two texts compiled with jump tables, as some architectures and options do."""
    objects = []
    for name, text in (("orig", before), ("patched", after)):
        source, out = tmp_path / "unit.c", tmp_path / f"{name}.o"
        source.write_text(PRELUDE + "#line 1\n" + text)
        flags = [*KERNEL_FLAGS, "-fjump-tables", "-o", str(out), str(source)]
        subprocess.run(["gcc", *flags], check=True)
        objects.append(read(out))
    return diff(*objects)
