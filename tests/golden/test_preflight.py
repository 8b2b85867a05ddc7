"""What the shipped kernel says of the functions to be patched: entries, names, inlined copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rebootless.compile.reach import HeaderReach, read, write
from rebootless.diff import Delta
from rebootless.elf.reader import read as read_elf
from rebootless.safety import Verdict
from rebootless.safety.code import CodeUnit
from rebootless.safety.copies import Searched, changed_inlines, check_copies
from rebootless.safety.entries import Entry
from rebootless.safety.preflight import Target, check_entries, has_room

Unit = Callable[..., CodeUnit]
PLAIN = "int f(int x) { return helper(x) + 1; }\n"
KEY = """
asm(".pushsection __jump_table,\\"aw\\"\\n .balign 8\\n .long f+{0} - .\\n .long f+{1} - .\\n"
    ".quad key - .\\n .popsection");
"""


@dataclass(frozen=True)
class Known:
    """A shipped file that says the same of every function."""

    traced: bool | None = True
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def entry(self, name: str, sympos: int) -> Entry | None:
        return Entry((name, *self.names.get(name, ())), self.traced) if sympos < 3 else None


@pytest.fixture
def unit(compile_c: Callable[..., Path]) -> Unit:
    def make(source: str, *options: str) -> CodeUnit:
        return CodeUnit(read_elf(compile_c(source, "orig", *options)))

    return make


def judge(code: CodeUnit, shipped: Known, name: str = "f") -> Verdict:
    return check_entries(code, [Target(name, name, 0)], shipped, "vmlinux")


def test_a_function_that_ftrace_does_not_know_is_left_to_the_jump(unit: Unit) -> None:
    code = unit(PLAIN)
    verdict = judge(code, Known(traced=False))
    (warning,) = verdict.warnings
    assert not verdict.refused
    assert (warning.code, warning.symbol, warning.engine) == ("not-traceable", "f", "atomic")
    assert "only the engine atomic" in warning.message
    for known in (True, None):
        assert judge(code, Known(traced=known)) == Verdict()
    assert check_entries(code, [Target("f", "f", 3)], Known(traced=False), "x") == Verdict()


NOKPROBE = """
static unsigned long used __attribute__((section("_kprobe_blacklist"))) no = (unsigned long)f;
"""


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("notrace void f(void) { }", "no room"),
        (f'__attribute__((section(".noinstr.text"))) {PLAIN}', "noinstr"),
        (f'__attribute__((section(".entry.text"))) {PLAIN}', "noinstr"),
        (PLAIN + NOKPROBE, "NOKPROBE"),
    ],
)
def test_a_function_that_must_have_no_jump_is_refused(unit: Unit, source: str, why: str) -> None:
    verdict = judge(unit(source), Known(traced=False))
    (refused,) = verdict.refused
    assert not verdict.warnings
    assert (refused.code, refused.symbol, refused.engine) == ("not-traceable", "f", "")
    assert why in refused.message
    assert judge(unit(source), Known(traced=True)) == Verdict()


def test_room_for_a_jump(unit: Unit) -> None:
    assert has_room(unit(PLAIN), "f")
    assert has_room(unit(PLAIN, "-fcf-protection=branch"), "f")
    tiny = "notrace void f(void) { }"
    assert not has_room(unit(tiny), "f")
    loop = 'void notrace f(void) { asm volatile("1: dec %eax; nop; jnz 1b; nop; nop"); }'
    assert has_room(unit(loop), "f"), "a jump to the first byte finds the new jump"
    inner = 'void notrace f(void) { asm volatile("nop; 1: dec %eax; jnz 1b; nop; nop"); }'
    assert not has_room(unit(inner), "f")


def test_a_kernel_without_ftrace_needs_room_for_a_jump(unit: Unit) -> None:
    target = [Target("f", "f", 0)]
    for traced in (None, False):
        known = Known(traced=traced)
        assert check_entries(unit(PLAIN), target, known, "vmlinux", ftrace=False) == Verdict()
        tiny = unit("notrace void f(void) { }")
        (refused,) = check_entries(tiny, target, known, "ext4", ftrace=False).refused
        assert (refused.code, refused.symbol) == ("no-room", "f") and "of ext4" in refused.message


def test_no_room_where_the_kernel_patches_itself(unit: Unit) -> None:
    text = 'extern char key; void notrace f(void) { asm volatile(".rept 16; nop; .endr"); }'
    assert has_room(unit(text), "f")
    assert not has_room(unit(text + KEY.replace("{0}", "2").replace("{1}", "9")), "f")
    assert has_room(unit(text + KEY.replace("{0}", "9").replace("{1}", "12")), "f")


def test_other_names_of_the_code_are_told(unit: Unit) -> None:
    alias = PLAIN + 'int other_name(int) __attribute__((alias("f")));\n'
    (warning,) = judge(unit(alias), Known(names={"f": ("other_name",)})).warnings
    assert warning.code == "alias-patched" and "'other_name'" in warning.message
    assert judge(unit(PLAIN), Known(names={"f": ("__sched_text_start",)})) == Verdict()
    call = "int __x64_sys_f(int x) { return helper(x); }"
    several = {"__x64_sys_f": ("__do_sys_f", "__ia32_sys_f")}
    assert judge(unit(call), Known(names=several), "__x64_sys_f") == Verdict()
    own = 'int f_end(int) __attribute__((alias("f")));\n'
    assert judge(unit(PLAIN + own), Known(names={"f": ("f_end",)})).warnings


def test_functions_that_the_compiler_merged_are_told(unit: Unit) -> None:
    """One entry for two functions: when one is redirected, so is the other."""
    text = "".join(
        f"static noinline void {n}(int *p) {{ p[helper(3)] = p[1] * 7 + helper(2); }}\n"
        for n in ("f", "g")
    )
    code = unit(text + "void h(int *p) { f(p); sink(p); g(p); }\n")
    symbols = code.elf.symbols
    merged = {n for n in ("f", "g") if n in symbols.by_name}
    assert merged == {"f", "g"}
    (warning,) = judge(code, Known(names={"f": ("g",)})).warnings
    assert warning.code == "alias-patched"


def test_where_a_changed_inline_function_is_inlined_is_patched(
    pair: Callable[[str, str], Delta],
) -> None:
    text = """static inline __attribute__((always_inline)) int check(int x) { return x < %d; }
    int one(int x) { return check(x) ? helper(x) : 0; }
    int two(int x) { return helper(check(x)); }
    int three(int x) { return helper(x); }"""
    delta = pair(text % 10, text % 20)
    assert {f.name for f in delta.changed} == {"one", "two"}


REACH = HeaderReach(("include/linux/thing.h",), 7, ("arch/x86/entry/entry.S", "lib/a.c"))


def test_those_who_may_hold_inlined_copies_are_told() -> None:
    (warning,) = check_copies(REACH, 3, ["zfs", "nvidia"]).warnings
    assert (warning.code, warning.symbol) == ("inline-copies", "include/linux/thing.h")
    for part in ("rebuilt: 7;", "patch: 3)", "2 files", "entry.S", "2 modules", "nvidia, zfs"):
        assert part in warning.message
    assert check_copies(HeaderReach(), 3, ["zfs"]) == Verdict(), "no header is touched"
    assert check_copies(HeaderReach(("a.h",), 2), 1, []) == Verdict(), "all was rebuilt"


HEADER = """
#include <linux/other.h>
#define twice(x) ({ \\
	rare(x); })
extern void rare(int x); /* rare(1); { */
int common(void);
struct thing { int (*call)(int); };
static inline void first(struct thing *t)
{
	if (t) /* } */
		rare(t->call(1));
	else
		elsewhere("}");
}

static inline int second(void)
{
	return common() ? sizeof(int) : 1;
}
"""


def test_what_changed_inline_functions_call() -> None:
    at = {text: n for n, text in enumerate(HEADER.splitlines(), 1)}
    line = at['\t\telsewhere("}");']
    (first,) = changed_inlines(HEADER, [line])
    assert (first.name, first.calls) == ("first", ("rare", "call", "elsewhere"))
    assert first.declared == {"rare"}
    both = changed_inlines(HEADER, [line, at["\treturn common() ? sizeof(int) : 1;"]])
    assert [inline.name for inline in both] == ["first", "second"]
    assert changed_inlines(HEADER, [at["int common(void);"]]) == (), "no function changes"


def test_what_the_search_for_copies_found_is_told() -> None:
    quiet = Searched("hold", "__hold", ())
    found = Searched("hold", "__hold", ("'keep'", "'take' of zfs"))
    assert check_copies(HeaderReach(("a.h",), 2), 1, [], [quiet]) == Verdict(), "all was rebuilt"
    (warning,) = check_copies(HeaderReach(("a.h",), 2), 1, [], [found]).warnings
    for part in ("in code that was not rebuilt", "'__hold' as the old 'hold' does: 'keep', 'take'"):
        assert part in warning.message
    own = Searched("hold", "__hold", (), 2)
    (warning,) = check_copies(HeaderReach(("a.h",), 2), 1, [], [own]).warnings
    assert "2 functions 'hold' of vmlinux not rebuilt. See" in warning.message
    (warning,) = check_copies(REACH, 3, ["zfs"], [quiet, Searched("drop")]).warnings
    for part in ("No code that was not rebuilt calls '__hold'", "Copies of 'drop' cannot be told"):
        assert part in warning.message


def test_the_reach_of_headers_is_kept_with_the_stage(tmp_path: Path) -> None:
    assert read(tmp_path) == HeaderReach()
    write(tmp_path, REACH)
    assert read(tmp_path) == REACH
