"""What a changed function does otherwise is told: locks, references, errors, its address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless.diff.delta import Finding
from rebootless.elf.reader import read
from rebootless.safety import semantics
from rebootless.safety.code import CodeUnit

Compare = Callable[[str, str], tuple[Finding, ...]]
KERNEL = """
struct mutex { int a; }; struct thing { int x; struct mutex one; struct mutex two; int refs; };
extern void mutex_lock(struct mutex *), mutex_unlock(struct mutex *);
extern void _raw_spin_lock(void *), _raw_spin_unlock(void *), __rcu_read_lock(void);
extern void __rcu_read_unlock(void), fput(void *), refcount_warn_saturate(void *, int);
extern void *fget(int), *widget_get(int), widget_put(void *);
extern int nla_put(void *), step(struct thing *);
extern int __preempt_count;
static struct mutex big;
"""


@pytest.fixture
def compare(compile_c: Callable[..., Path]) -> Compare:
    """The warnings about the function `f` of two texts."""

    def run(before: str, after: str) -> tuple[Finding, ...]:
        orig = read(compile_c(KERNEL + before, "orig"))
        patched = read(compile_c(KERNEL + after, "patched"))
        return semantics.compare(CodeUnit(orig), CodeUnit(patched), {"f": "f"}).warnings

    return run


def codes(found: tuple[Finding, ...]) -> list[str]:
    assert {f.symbol for f in found} <= {"f"}
    return [f.code for f in found]


LOCKED = """
int f(struct thing *t) {
    mutex_lock(&t->one);
    if (t->x == 3) {
        %s
    }
    t->x = step(t);
    mutex_unlock(&t->one);
    return 0;
}
"""


def test_a_lost_unlock_is_told_with_both_counts(compare: Compare) -> None:
    (found,) = compare(
        LOCKED % "mutex_unlock(&t->one); other(1); return 7;", LOCKED % "other(1); return 7;"
    )
    assert found.code == "lock-count-changed"
    assert "mutex: taken 1, released 2 -> 1 (a way through it now ends with +1" in found.message


def test_an_error_path_that_leaves_by_the_common_end_is_silent(compare: Compare) -> None:
    assert not compare(LOCKED % "t->x = 4;", LOCKED % "t->x = 5;")


def test_a_new_pair_of_calls_is_told(compare: Compare) -> None:
    """During the transition the old code still runs without it."""
    plain = "int f(struct thing *t) { return step(t) + 1; }"
    locked = """int f(struct thing *t) {
        int x; __rcu_read_lock(); x = step(t) + 1; __rcu_read_unlock(); return x; }"""
    (found,) = compare(plain, locked)
    assert found.code == "lock-count-changed"
    assert "RCU: taken 0 -> 1, released 0 -> 1 (each way" in found.message


def test_kinds_of_locks_are_told_apart(compare: Compare) -> None:
    body = """int f(struct thing *t) {
        {0}(&t->one); t->x = step(t); {1}(&t->one); return 0; }"""
    mutex = body.replace("{0}", "mutex_lock").replace("{1}", "mutex_unlock")
    spin = body.replace("{0}", "_raw_spin_lock").replace("{1}", "_raw_spin_unlock")
    (found,) = compare(mutex, spin)
    assert "mutex: taken 1 -> 0" in found.message and "spin lock: taken 0 -> 1" in found.message


def test_preemption_and_interrupts_without_calls_are_seen(compare: Compare) -> None:
    body = "int f(struct thing *t) { %s t->x = step(t); return 1; }"
    off = 'asm volatile("incl %%%%gs:%%0" : "+m" (__preempt_count)); asm volatile("cli");'
    alternative = """asm volatile("1: nop; nop\\n2:\\n"
        ".pushsection .altinstructions,\\"a\\"\\n .long 1b - .\\n .long 3f - .\\n .word 1\\n"
        ".byte 2b - 1b, 4f - 3f\\n .popsection\\n"
        ".pushsection .altinstr_replacement,\\"ax\\"\\n 3: sti\\n 4:\\n .popsection");"""
    (found,) = compare(body % "", body % (off % ()))
    assert "preemption off: taken 0 -> 1" in found.message
    assert "interrupts off: taken 0 -> 1" in found.message
    (found,) = compare(body % "", body % alternative)
    assert "interrupts off: taken 0, released 0 -> 1" in found.message


def test_what_the_compiler_moves_between_functions_is_no_change(compare: Compare) -> None:
    helper = """static {0} void drop(struct thing *t) {
        t->x = 0; mutex_unlock(&t->one); sink(t); }
    int f(struct thing *t) {
        mutex_lock(&t->one); if (step(t)) { drop(t); return {1}; }
        t->x = 2; drop(t); return 1; }"""
    out_of_line = helper.replace("{0}", "noinline").replace("{1}", "3")
    inlined = helper.replace("{0}", "inline __attribute__((always_inline))").replace("{1}", "4")
    assert not compare(out_of_line, inlined)
    assert not compare(inlined, out_of_line)


COUNTED = """
int f(struct thing *t) {
    void *file = fget(t->x);
    if (step(t)) { %s return 3; }
    sink(file);
    fput(file);
    return 0;
}
"""


def test_a_lost_put_is_told(compare: Compare) -> None:
    (found,) = compare(COUNTED % "other(1); fput(file);", COUNTED % "other(1);")
    assert found.code == "reference-count-changed"
    assert "file: taken 1, released 2 -> 1" in found.message


def test_pairs_are_also_known_by_their_names(compare: Compare) -> None:
    body = "int f(struct thing *t) { void *w = widget_get(2); sink(w); %s return 0; }"
    kept = "void g(void *w) { widget_put(w); }"
    (found,) = compare(kept + body % "", kept + body % "widget_put(w); other(3);")
    assert "widget: taken 1, released 0 -> 1" in found.message
    assert not compare(body % "", body % "nla_put(w);"), "it writes an attribute"


def test_a_refcount_without_calls_is_seen(compare: Compare) -> None:
    body = """int f(struct thing *t) {
        int old = {0};
        asm volatile("lock; xaddl %0, %1" : "+r" (old), "+m" (t->refs) : : "memory");
        if (unlikely(old < 0)) refcount_warn_saturate(&t->refs, 2);
        return step(t);
    }"""
    (found,) = compare(body.replace("{0}", "1"), body.replace("{0}", "-1"))
    assert found.code == "reference-count-changed"
    assert "refcount_t: taken 1 -> 0, released 0 -> 1" in found.message


def test_a_refcount_that_is_taken_unless_it_is_zero(compare: Compare) -> None:
    """As refcount_inc_not_zero() is inlined: a loop around cmpxchg."""
    take = """
        int old = t->refs;
        do {
            if (!old) break;
        } while (!__atomic_compare_exchange_n(&t->refs, &old, old + 1, 0, 0, 0));
        if (old < 0 || old + 1 < 0) refcount_warn_saturate(&t->refs, 0);
        if (!old) return 1;"""
    body = "int f(struct thing *t) { %s if (t->x) refcount_warn_saturate(t, 3); return step(t); }"
    (found,) = compare(body % "", body % take)
    assert found.code == "reference-count-changed"
    assert "refcount_t: taken 0 -> 1, released 0" in found.message
    assert not compare(body % take, body % take.replace("old + 1 < 0", "old + 1 <= 0"))
    maximum = take.replace("old + 1, 0", "old > 7 ? old : 7, 0")
    assert not compare(body % "", body % maximum), "another value is swapped in"


ORDER = """
int f(struct thing *t) {
    mutex_lock({0}); mutex_lock({1}); t->x = step(t); mutex_unlock({1}); mutex_unlock({0});
    return 0;
}
"""


def ordered(first: str, second: str) -> str:
    return ORDER.replace("{0}", first).replace("{1}", second)


@pytest.mark.parametrize("second", ["&t->two", "&big"])
def test_locks_taken_the_other_way_round(compare: Compare, second: str) -> None:
    (found,) = compare(ordered("&t->one", second), ordered(second, "&t->one"))
    assert found.code == "lock-order-changed"
    assert "mutex at +0x4" in found.message
    assert ("'big'" if second == "&big" else "mutex at +0x8") in found.message
    one_after_the_other = """int f(struct thing *t) {
        mutex_lock(&t->two); t->x = 1; mutex_unlock(&t->two);
        mutex_lock(&t->one); t->x = step(t); mutex_unlock(&t->one); return 0; }"""
    nested = ordered("&t->one", "&t->two")
    assert "lock-order-changed" not in codes(compare(nested, one_after_the_other))


def test_a_lock_whose_place_is_not_known_is_no_other_lock(compare: Compare) -> None:
    """`add 24(%rdi), %rdi`: per-CPU and computed places."""
    text = """int f(struct thing *t) {
        asm volatile("add 24(%%%%rdi), %%%%rdi; call mutex_lock" : "+D" (t) : : "memory");
        mutex_lock(&t->one);
        t->x = step(t) + %s; mutex_unlock(&t->one); mutex_unlock(&big); return 0; }"""
    assert not compare(text % "1", text % "2")


def test_changed_errors_are_named(compare: Compare) -> None:
    body = "int f(struct thing *t) { if (t->x == {0}) return {1}; t->x = 9; return step(t); }"

    def text(limit: str, error: str) -> str:
        return body.replace("{0}", limit).replace("{1}", error)

    (found,) = compare(text("3", "-22"), text("3", "-13"))
    assert found.code == "error-values-changed"
    assert "new is -EACCES" in found.message and "gone is -EINVAL" in found.message
    (found,) = compare(text("3", "0"), text("3", "-512"))
    assert "new is -ERESTARTSYS" in found.message and "gone" not in found.message
    assert not compare(text("3", "-22"), text("4", "-22"))
    assert not compare(text("3", "1"), text("-22", "1")), "a comparison returns nothing"
    assert not compare(text("3", "0"), text("3", "-4095")), "no error has that number"


def test_an_error_chosen_without_a_branch_is_seen(compare: Compare) -> None:
    body = "int f(struct thing *t) { t->x = 1; return helper(3) ? {0} : 0; }"
    (found,) = compare(body.replace("{0}", "-5"), body.replace("{0}", "-71"))
    assert "new is -EPROTO" in found.message and "gone is -EIO" in found.message


def test_an_address_in_data_is_told(compare: Compare) -> None:
    ops = "struct ops { int (*f)(int); int other; };\n"
    held = "struct ops used things = { f, 1 };\nconst struct ops used table = { f, 1 };\n"
    one, two = "int f(int x) { return helper(x); }\n", "int f(int x) { return other(x); }\n"
    (found,) = compare(ops + one + held, ops + two + held)
    assert (found.code, found.symbol) == ("address-in-data", "things"), "not that of a constant"
    assert "address of 'f':" in found.message
    called = "int g(int x) { return f(x) + 1; }\n"
    assert not compare(one + called, two + called)
