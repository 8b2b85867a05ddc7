"""What an author says by the macros of rebootless.h, read from real objects."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest

from rebootless.diff import Delta, diff
from rebootless.diff.delta import CallbackKind, Finding, KernelRef, SystemState
from rebootless.diff.handwritten import handwritten
from rebootless.elf.reader import read

# What the header needs of the kernel's own, as far as these units go.
KERNEL = """
struct klp_object;
struct klp_patch;
typedef unsigned int gfp_t;
typedef int (*klp_shadow_ctor_t)(void *obj, void *shadow, void *ctor_data);
typedef void (*klp_shadow_dtor_t)(void *obj, void *shadow);
void *klp_shadow_get(void *obj, unsigned long id);
void *klp_shadow_alloc(void *obj, unsigned long id, unsigned long size, gfp_t gfp,
    klp_shadow_ctor_t ctor, void *data);
void *klp_shadow_get_or_alloc(void *obj, unsigned long id, unsigned long size, gfp_t gfp,
    klp_shadow_ctor_t ctor, void *data);
void klp_shadow_free(void *obj, unsigned long id, klp_shadow_dtor_t dtor);
void klp_shadow_free_all(unsigned long id, klp_shadow_dtor_t dtor);
#define __used __attribute__((__used__))
#define __section(name) __attribute__((__section__(name)))
#define BUILD_BUG_ON_ZERO(e) ((int)(sizeof(struct { int : (-!!(e)); })))
#define ___PASTE(a, b) a##b
#define __PASTE(a, b) ___PASTE(a, b)
"""
BODY = "int f(int x) { return helper(x); }\nint g(int x) { return other(x) + 1; }\n"
CHANGED = BODY.replace("helper(x)", "helper(x) + 3")
CALLBACK = "static int before(struct klp_object *o) { sink(o); return 0; }\n"

TYPES = "incompatible pointer type"

Marked = Callable[[str, str], Delta]


@pytest.fixture
def compile_marked(kernel_c: tuple[list[str], str], tmp_path: Path) -> Callable[[str, str], Path]:
    """Compiles a unit that includes the header."""
    include = tmp_path / "include"
    (include / "linux").mkdir(parents=True)
    contents = {"build_bug": "", "compiler": "", "kconfig": "#define IS_ENABLED(x) 1\n"}
    for name, text in (contents | {"livepatch": KERNEL}).items():
        (include / "linux" / f"{name}.h").write_text(f"#pragma once\n{text}")
    for header in (resources.files("rebootless") / "kmod").iterdir():
        if header.name.endswith(".h"):
            (include / header.name).write_bytes(header.read_bytes())
    flags, prelude = [f for f in kernel_c[0] if f != "-w"], kernel_c[1]

    def run(source: str, name: str) -> Path:
        unit, out = tmp_path / "unit.c", tmp_path / f"{name}.o"
        unit.write_text(f"#include <rebootless.h>\n{prelude}{source}")
        argv = ["gcc", *flags, "-Werror=incompatible-pointer-types", f"-I{include}"]
        subprocess.run([*argv, "-o", out, unit], check=True, capture_output=True, text=True)
        return out

    return run


@pytest.fixture
def marked(compile_marked: Callable[[str, str], Path]) -> Marked:
    """The Delta of two units that include the header."""

    def run(before: str, after: str) -> Delta:
        return diff(read(compile_marked(before, "orig")), read(compile_marked(after, "patched")))

    return run


def names(delta: Delta) -> set[str]:
    return {f.name for f in delta.changed}


def codes(findings: tuple[Finding, ...]) -> list[tuple[str, str]]:
    return [(f.code, f.symbol) for f in findings]


def test_including_the_header_changes_nothing(marked: Marked) -> None:
    assert marked(BODY, BODY + "REBOOTLESS_SHADOW(long, count, 7);\n").is_empty


def test_callbacks_go_along_with_what_they_use(marked: Marked) -> None:
    added = (
        "static int saved;\n"
        "static int before(struct klp_object *o) { saved = limit; limit = 5; return 0; }\n"
        "static void after(struct klp_object *o) { limit = saved; }\n"
        "REBOOTLESS_POST_UNPATCH(after);\nREBOOTLESS_PRE_PATCH(before);\n"
    )
    body = (
        "static int limit = 9;\nint f(int x) { return limit + x; }\nvoid set(int x) { limit = x; }"
    )
    delta = marked(body, body + "\n" + added)
    assert [(c.kind, c.name) for c in delta.callbacks] == [
        (CallbackKind.PRE_PATCH, "before"),
        (CallbackKind.POST_UNPATCH, "after"),
    ]
    assert not delta.changed and not delta.refused and not delta.is_empty
    assert {f.name for f in delta.new} == {"before", "after"} and delta.new_data == ("saved",)
    piece = delta.pieces[delta.callbacks[0].piece]
    assert piece.name == "before"
    assert "limit" in {r.target.name for r in piece.relocs if isinstance(r.target, KernelRef)}
    assert not [p for p in delta.pieces if p.section.startswith(".rebootless")]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("static void fn(struct klp_object *o) { }\nREBOOTLESS_PRE_PATCH(fn);", TYPES),
        (
            "static int fn(struct klp_object *o) { return 0; }\nREBOOTLESS_POST_PATCH(fn);",
            TYPES,
        ),
        ("static int fn(void *o, int x) { return x; }\nREBOOTLESS_PRE_PATCH(fn);", TYPES),
        (
            f"{CALLBACK}REBOOTLESS_PRE_PATCH(before);\nREBOOTLESS_PRE_PATCH(before);",
            "redefinition of '__rebootless_pre_patch'",
        ),
        ("REBOOTLESS_STATE(0, 1);", "negative width"),
    ],
    ids=["void-for-int", "int-for-void", "arguments", "twice", "state-zero"],
)
def test_compiler_refuses(
    text: str, error: str, compile_marked: Callable[[str, str], Path]
) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        compile_marked(text, "bad")
    assert error in caught.value.stderr.replace("\u2018", "'").replace("\u2019", "'")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (CALLBACK.replace("static int", "static init int"), "callback-init"),
        ("int before(struct klp_object *o);\n", "callback-elsewhere"),
    ],
)
def test_callbacks_that_cannot_be(text: str, code: str, marked: Marked) -> None:
    delta = marked(BODY, f"{CHANGED}{text}REBOOTLESS_PRE_PATCH(before);")
    assert [f.code for f in delta.refused] == [code]


def test_callback_of_the_kernel(marked: Marked) -> None:
    kept = CALLBACK + "int (*keep)(struct klp_object *) = before;\n"
    delta = marked(BODY + kept, f"{CHANGED}{kept}REBOOTLESS_PRE_PATCH(before);")
    assert codes(delta.refused) == [("callback-not-new", "before")]


def test_states(marked: Marked) -> None:
    text = "REBOOTLESS_STATE(0xabcd, 2);\nREBOOTLESS_STATE(3, 1);\nREBOOTLESS_STATE(3, 1);\n"
    delta = marked(BODY, CHANGED + text)
    assert set(delta.states) == {SystemState(0xABCD, 2), SystemState(3, 1)}
    assert len(delta.states) == 2 and names(delta) == {"f"}
    assert {"id": 3, "version": 1} in delta.to_json()["states"]


def test_ignored_function(marked: Marked) -> None:
    both = CHANGED.replace("+ 1", "+ 2")
    delta = marked(BODY, f"{both}REBOOTLESS_IGNORE_FUNCTION(g);")
    assert names(delta) == {"f"} and not delta.refused
    assert codes(delta.warnings) == [("function-ignored", "g")]


def test_ignored_caller_keeps_the_old_copy_of_what_it_calls(marked: Marked) -> None:
    """The helper has no fentry, so it goes along with its callers: those that are not ignored."""
    body = """
    static noinline notrace int part(int x) { return helper(x) * 3; }
    int f(int x) { return part(x) + 1; }
    int g(int x) { return part(x) + 2; }
    """
    delta = marked(body, body.replace("* 3", "* 5") + "REBOOTLESS_IGNORE_FUNCTION(g);")
    assert names(delta) == {"f"} and [c.name for c in delta.carried] == ["part"]
    assert not delta.refused and codes(delta.warnings) == [("function-ignored", "g")]


def test_ignored_caller_of_a_clone_is_refused(marked: Marked) -> None:
    """How a clone is called is agreed anew whenever its callers are compiled."""
    body = """
    static noinline int low(int x, int y) { return y ? helper(x) * 3 : x; }
    int f(int x) { return low(x, 1) + 1; }
    int g(int x) { return low(x, 1) + 2; }
    """
    after = body.replace("* 3", "* 5").replace("+ 2", "+ 4")
    delta = marked(body, f"{after}REBOOTLESS_IGNORE_FUNCTION(g);")
    assert names(delta) == {"low.constprop.0"}
    assert codes(delta.refused) == [("ignored-caller", "low")]
    before, after = (t.replace("y ? ", "y > x ? ").replace("(x, 1)", "(x, get())")
                     for t in (body, after))  # fmt: skip
    delta = marked(before, f"{after}REBOOTLESS_IGNORE_FUNCTION(g);")
    assert names(delta) == {"low"} and not delta.refused, "a function of a fixed prototype"
    unchanged = marked(body, body.replace("* 3", "* 5") + "REBOOTLESS_IGNORE_FUNCTION(g);")
    assert not unchanged.refused


def test_forced_function(marked: Marked) -> None:
    delta = marked(BODY, f"{BODY}REBOOTLESS_FORCE_FUNCTION(g);")
    assert names(delta) == {"g"} and "FORCE" in delta.changed[0].reason


def test_allowed_data(marked: Marked) -> None:
    body = (
        "static int limit = 9;\nint f(int x) { return limit + x; }\nvoid s(int x) { limit = x; }\n"
    )
    changed = body.replace("= 9", "= 5")
    assert codes(marked(body, changed).refused) == [("data-changed", "limit")]
    delta = marked(body, f"{changed}REBOOTLESS_ALLOW_DATA(limit);")
    assert not delta.refused and codes(delta.warnings) == [("data-changed", "limit")]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("int table[] = { 1, 2 };", "int table[] = { 1, 2, 3 };"),
        ("const int table[] = { 1, 2 };", "const int table[] = { 1, 7 };"),
    ],
    ids=["grows", "read-only"],
)
def test_data_that_no_callback_can_mend(before: str, after: str, marked: Marked) -> None:
    rest = "int f(int x) { return table[x]; }\nREBOOTLESS_ALLOW_DATA(table);"
    delta = marked(before + rest, after + rest)
    (found,) = (f for f in delta.refused if f.code == "data-changed")
    assert found.symbol == "table" and "cannot vouch" in found.message


def test_ignored_section(marked: Marked) -> None:
    entry = 'int %s used __attribute__((section(".my_table"))) = %d;\n'
    before, after = BODY + entry % ("one", 1), CHANGED + entry % ("one", 2) + entry % ("two", 3)
    assert {f.code for f in marked(before, after).refused} == {
        "data-changed",
        "section-entry-added",
    }
    delta = marked(before, f'{after}REBOOTLESS_IGNORE_SECTION(".my_table");')
    assert names(delta) == {"f"} and not delta.refused and not delta.new_data


def test_ignored_initcall(marked: Marked) -> None:
    call = (
        "static init int setup(void) { return helper(1); }\n"
        "int (*__initcall__kmod_unit__1_2_setup6)(void) used "
        '__attribute__((section(".initcall6.init"))) = setup;\n'
    )
    assert codes(marked(BODY, CHANGED + call).refused) == [("initcall-added", "setup")]
    delta = marked(BODY, f'{CHANGED}{call}REBOOTLESS_IGNORE_SECTION(".initcall6.init");')
    assert names(delta) == {"f"} and not delta.refused and not delta.new


@pytest.mark.parametrize(
    ("mark", "refused", "warned"),
    [
        ("IGNORE_FUNCTION(nowhere)", None, "mark-unknown"),
        ("ALLOW_DATA(nowhere)", None, "mark-unknown"),
        ('IGNORE_SECTION(".nowhere")', None, "mark-unknown"),
        ("FORCE_FUNCTION(nowhere)", "force-unknown", None),
        ('IGNORE_SECTION(".text.f")', "ignored-code", None),
        ("IGNORE_FUNCTION(f);REBOOTLESS_FORCE_FUNCTION(f)", "force-ignored", "function-ignored"),
    ],
)
def test_marks_that_say_nothing(
    mark: str, refused: str | None, warned: str | None, marked: Marked
) -> None:
    delta = marked(BODY, f"{CHANGED}REBOOTLESS_{mark};")
    assert [f.code for f in delta.refused] == ([refused] if refused else [])
    assert {f.code for f in delta.warnings} == ({warned} if warned else set())


def test_hand_written_patch_has_callbacks_and_states(
    compile_marked: Callable[[str, str], Path],
) -> None:
    text = (
        "static int mine(int x) { return x; }\nREBOOTLESS_PATCH(vmlinux, f, mine);\n"
        f"{CALLBACK}REBOOTLESS_PRE_PATCH(before);\nREBOOTLESS_STATE(5, 1);\n"
        "REBOOTLESS_IGNORE_FUNCTION(g);\n"
    )
    orig, made = compile_marked(BODY, "orig"), compile_marked(text, "made")
    delta = handwritten(read(orig), read(made), "vmlinux")
    assert names(delta) == {"f"} and delta.states == (SystemState(5, 1),)
    assert [c.name for c in delta.callbacks] == ["before"] and not delta.refused
    assert codes(delta.warnings) == [("mark-unknown", "g")]
