"""Types before and after, compiled from small C texts with debug information."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless.diff import diff
from rebootless.elf.model import ElfFile
from rebootless.elf.reader import parse as parse_elf
from rebootless.safety import Verdict
from rebootless.safety.layout import type_findings
from rebootless.safety.prototypes import Outside, prototype_findings
from rebootless.safety.shippedtypes import ShippedTypes, shipped_findings
from rebootless.safety.typediff import compare_types
from rebootless.types.btf import Btf, parse

if shutil.which("pahole") is None:
    pytest.skip("pahole is not installed, so NO layout is tested", allow_module_level=True)

Judge = Callable[..., Verdict]
NOBODY = Outside()


def btf_of(obj: Path) -> Btf:
    """The types of an object."""
    out = obj.with_suffix(".btf")
    subprocess.run(["pahole", "-J", f"--btf_encode_detached={out}", obj], check=True)
    return parse(out.read_bytes(), name=out.name)


_made: dict[tuple[str, str], tuple[Btf, bytes]] = {}


@pytest.fixture
def judge(compiler: str, compile_c: Callable[..., Path]) -> Judge:
    """What the comparison says of two C texts; `outside` are users in other units."""

    def made(text: str) -> tuple[Btf, ElfFile]:
        if (compiler, text) not in _made:
            path = compile_c(text, "unit", "-g")
            _made[compiler, text] = btf_of(path), path.read_bytes()
        types, blob = _made[compiler, text]
        return types, parse_elf(blob, name="unit.o")

    def run(before: str, after: str, outside: Outside = NOBODY) -> Verdict:
        (old_types, old), (new_types, new) = made(before), made(after)
        changes = compare_types(old_types, new_types)
        prototypes = prototype_findings(changes, old, diff(old, new), lambda symbol: outside)
        return type_findings(changes) + Verdict(prototypes)

    return run


# What reaches the types, so that the compiler describes them.
USE = """
int user(struct s *p, enum e x, union u *q) { return p->a + x + q->one; }
"""
BASE = """
struct inner { int x; long y; };
typedef unsigned int count_t;
typedef struct { int counter; } own_t;
enum e { RED, GREEN = 4, LAST };
union u { int one; long two; };
struct later;
struct s {
	int a;
	unsigned char f:3, g:2;
	unsigned char h;
	long b;
	struct inner in;
	count_t n;
	own_t own;
	struct { int p; union { int q; short r; }; } anon;
	void (*fn)(struct s *, int);
	struct later *ptr;
	char pad[6];
	short end;
	int flex[];
};
struct outer { struct s *ref; struct { struct inner two[2]; } deep; };
int with_outer(struct outer *o) { return o->deep.two[0].x; }
enum { LIMIT = 10 };
int with_limit(int x) { return x > LIMIT; }
"""

# Change of BASE, what is refused, what is warned of (code, symbol), texts in the message.
CASES = {
    "nothing": (("int a;", "int a; "), "", ""),
    "new function": (("enum {", "struct fresh { int z; }; int fresh(struct fresh *f)"
                     " { return f->z; }\nenum {"), "", ""),
    "larger": (("\tlong b;", "\tlong b, more;"), "layout-changed s", ""),
    "grows at the end": (("int one; long two;", "int one; long two[2];"), "layout-changed u", ""),
    "moved": (("\tunsigned char h;\n", "\tunsigned char i, h;\n"), "layout-changed s", ""),
    "swapped": (("int x; long y;", "long y; int x;"), "layout-changed inner", ""),
    "bitfield wider": (("f:3, g:2", "f:4, g:2"), "layout-changed s", ""),
    "bitfield in free bits": (("g:2;", "g:2, k:3;"), "", "layout-hole-used s"),
    "member of another type": (("\tint a;", "\tfloat a;"), "layout-changed s", ""),
    "member of another sign": (("\tint a;", "\tunsigned int a;"), "layout-changed s", ""),
    "member of the same size": (("struct later *ptr", "struct inner *ptr"), "layout-changed s", ""),
    "member gone": (("\tunsigned char h;\n", ""), "layout-changed s", ""),
    "member renamed": (("\tunsigned char h;", "\tunsigned char hh;"), "", "layout-renamed s"),
    "typedef of another name": (("\tcount_t n;", "\tunsigned int n;"), "", ""),
    "typedef of another type": (("typedef unsigned int count_t", "typedef unsigned long count_t"),
                                "layout-changed count_t", ""),
    "struct with only a typedef": (("{ int counter; } own_t", "{ int counter; int more; } own_t"),
                                   "layout-changed own_t", ""),
    "anonymous struct inside": (("struct { int p;", "struct { long p;"), "layout-changed s", ""),
    "anonymous union inside": (("int q; short r;", "int q; short r, t[4];"), "layout-changed s",
                               ""),
    "anonymous union with a view": (("int q; short r;", "int q; short r; char t;"), "",
                                    "layout-hole-used s"),
    "callback of another prototype": (("(*fn)(struct s *, int)", "(*fn)(struct s *, long)"),
                                      "layout-changed s", ""),
    "forward declaration defined": (("struct later;", "struct later { int z; };"), "", ""),
    "in padding": (("char pad[6];", "char pad[4]; short more;"), "", "layout-hole-used s"),
    "padding's place": (("char pad[6];", "char more[6];"), "", "layout-hole-used s"),
    "flexible array of another type": (("int flex[];", "long flex[];"), "layout-changed s", ""),
    "flexible array gone": (("\tint flex[];\n", ""), "layout-changed s", ""),
    "enumerator added": (("LAST }", "LAST, MORE }"), "", ""),
    "enumerator in between": (("RED, GREEN", "RED, BLUE = 1, GREEN"), "", ""),
    "value changed": (("GREEN = 4", "GREEN = 3"), "enum-changed e", ""),
    "enumerator gone": (("RED, GREEN = 4, LAST", "RED, LAST = 5"), "", "layout-renamed e"),
    "enumerator renamed": (("RED, ", "CRIMSON, "), "", "layout-renamed e"),
    "second name for a value": (("LAST }", "LAST, SAME = GREEN }"), "", ""),
    "constant": (("LIMIT = 10", "LIMIT = 11"), "", "constant-changed LIMIT"),
    "const added": (("struct later *ptr", "const struct later *const ptr"), "", ""),
}  # fmt: skip


OF_CLANG = ("nothing", "moved", "bitfield wider", "anonymous struct inside", "value changed")


@pytest.mark.parametrize(
    ("compiler", "name"),
    [("gcc", name) for name in CASES] + [("clang", name) for name in OF_CLANG],
    indirect=["compiler"],
)
def test_what_becomes_of_a_change(name: str, judge: Judge) -> None:
    (old, new), refused, warned = CASES[name]
    assert old in BASE
    verdict = judge(BASE + USE, BASE.replace(old, new, 1) + USE)
    assert [f"{f.code} {f.symbol}" for f in verdict.refused] == ([refused] if refused else [])
    assert [f"{f.code} {f.symbol}" for f in verdict.warnings] == ([warned] if warned else [])


def test_both_layouts_are_shown_side_by_side(judge: Judge) -> None:
    after = BASE.replace("\tlong b;", "\tlong b;\n\tint more;", 1)
    (finding,) = judge(BASE + USE, after + USE).refused
    first, *table, way_out = finding.message.splitlines()
    assert first.startswith("struct s changes its layout:")
    assert [" ".join(line.split()) for line in table] == [
        "original, 72 bytes patched, 80 bytes",
        "... 3 members, the same",
        "5 1 unsigned char h 5 1 unsigned char h",
        "8 8 long int b 8 8 long int b",
        "+ 16 4 int more",
        "> 16 16 struct inner in 24 16 struct inner in",
        "> 32 4 count_t n 40 4 count_t n",
        "> ... 9 more members, moved",
    ]
    assert len({line.index("patched") for line in table[:1]}) == 1
    assert "shadow variable" in way_out and "(64..69)" in way_out  # 6..7 is too small for an int


def test_types_that_only_contain_a_changed_one_are_named_with_it(judge: Judge) -> None:
    (finding,) = judge(
        BASE + USE, BASE.replace("int x; long y;", "int x; long y, z;") + USE
    ).refused
    assert finding.symbol == "inner"
    assert "With it change: struct outer, struct s" in finding.message


def test_every_place_of_a_bitfield_is_shown(judge: Judge) -> None:
    (finding,) = judge(BASE + USE, BASE.replace("f:3, g:2", "f:4, g:2") + USE).refused
    text = " ".join(finding.message.split())
    assert "~ 4:0 3b unsigned char f:3 4:0 4b unsigned char f:4" in text
    assert "> 4:3 2b unsigned char g:2 4:4 2b unsigned char g:2" in text


def test_values_are_shown_side_by_side(judge: Judge) -> None:
    (finding,) = judge(BASE + USE, BASE.replace("GREEN = 4", "GREEN = 3") + USE).refused
    text = " ".join(finding.message.split())
    assert "~ GREEN = 4 GREEN = 3 ~ LAST = 5 LAST = 4" in text


def test_an_enum_without_a_name_in_an_object_is_no_constant(judge: Judge) -> None:
    text = "struct s { enum { A = 1, B } state; }; int f(struct s *p) { return p->state == B; }"
    (finding,) = judge(text, text.replace("A = 1", "A = 2")).refused[:1]
    assert (finding.code, finding.symbol) == ("enum-changed", "A")


def test_members_with_two_names(judge: Judge) -> None:
    before = "struct s { union { int a; int b; }; long c; }; int f(struct s *p) { return p->c; }"
    assert judge(before, before.replace("int b;", "")) == Verdict()
    assert judge(before.replace("int b;", ""), before) == Verdict()
    for others in ("char x; short y;", "char x;"):
        (finding,) = judge(before, before.replace("int a; int b;", others)).refused
        assert finding.symbol == "s"


def test_types_of_one_name_in_two_functions(judge: Judge) -> None:
    text = """
int f(int *p) { struct local { int a; } *l = (void *)p; return l->a; }
int g(int *p) { struct local { int a, b; } *l = (void *)p; return l->b; }
"""
    assert judge(text, text + "int h(void) { return 1; }") == Verdict()
    (finding,) = judge(text, text.replace("int a, b;", "int a, b, c;")).refused
    assert finding.symbol == "local" and "original, 8 bytes" in finding.message


def test_what_only_the_patch_uses_is_no_change(judge: Judge) -> None:
    before = "struct s { int a; }; int f(void *p) { return get(); }"
    after = "struct s { int a, b; }; int f(void *p) { struct s *q = p; return q->b; }"
    assert judge(before, after) == Verdict()
    user = "int g(struct s *q) { return q->a; }"
    assert judge(before + user, after + user).refused[0].symbol == "s"


CALLED = """
static noinline int low(int x) { return helper(x) + 1; }
int one(int x) { return low(x); }
int two(int x) { return low(x + 1) + get(); }
"""
WIDER = CALLED.replace("low(int x) { return helper(x)", "low(int x, int y) { return helper(x + y)")


def test_a_prototype_all_of_whose_callers_are_patched(judge: Judge) -> None:
    after = WIDER.replace("low(x)", "low(x, 2)").replace("low(x + 1)", "low(x + 1, 3)")
    assert judge(CALLED, after) == Verdict()


def test_a_prototype_with_a_caller_that_is_not_patched(judge: Judge) -> None:
    text = "__attribute__((noipa)) long low(long x) { return helper(x) + 1; }"
    callers = "int one(long x) { return low(x); }\nint two(void) { return low(get()); }"
    # The second parameter is passed by a caller whose code stays as it was.
    after = text.replace("(long x) { return helper(x)", "(int x) { return helper(x + x)")
    verdict = judge(text + callers, after + callers.replace("low(get())", "low(get() + 1)"))
    (finding,) = verdict.refused
    assert (finding.code, finding.symbol) == ("prototype-changed", "low")
    assert "'one' would call the new code in the old way" in finding.message
    assert "- long int low(long int)\n      + long int low(int)" in finding.message
    assert "'two'" not in finding.message


def test_a_global_function_with_callers_elsewhere(judge: Judge) -> None:
    before = "int f(int x) { return helper(x); }"
    after = "int f(int x, int y) { return helper(x + y); }"
    assert judge(before, after) == Verdict()
    (finding,) = judge(before, after, Outside(callers=("far_away",))).refused
    assert "'far_away' would call" in finding.message


def test_a_function_whose_address_is_stored(judge: Judge) -> None:
    before = "static int f(int x) { return helper(x); } int (*p)(int) = f;"
    after = "static int f(int x, int y) { return helper(x + y); } int (*p)(int) = (void *)f;"
    (finding,) = judge(before, after).refused
    assert finding.symbol == "f" and "its address is in 'p'" in finding.message


def test_a_prototype_of_unchanged_code_is_no_change(judge: Judge) -> None:
    before = "int f(int x) { return helper(x); } int g(int x) { return helper(2 * x); }"
    after = before.replace("f(int", "f(unsigned int").replace("2 * x", "3 * x")
    assert judge(before, after, Outside(callers=("far_away",))) == Verdict()


def test_types_are_those_of_the_shipped_kernel(compile_c: Callable[..., Path]) -> None:
    names = "struct s { int a; struct later *p; }; int f(struct s *s) { return s->a; }"
    more = "struct later { int x; }; struct t { int y; };"
    use = "int g(struct later *l) { return l->x; } int h(struct t *t) { return t->y; }"
    shipped = btf_of(compile_c(more + names + use, "shipped", "-g"))
    same, other = (
        btf_of(compile_c(text, name, "-g"))
        for text, name in ((names, "same"), (names.replace("int a;", "int b, a;"), "other"))
    )
    assert ShippedTypes(shipped).differing(same) == ()  # the kernel knows more of `later`
    (finding,) = shipped_findings("x.c", ShippedTypes(shipped).differing(other))
    assert (finding.code, finding.symbol) == ("layout-not-shipped", "s")
    assert "+ 0 4 int b" in " ".join(finding.message.split())
    assert ShippedTypes(same).differing(shipped) == ()  # what is not shipped says nothing


def test_one_of_several_shipped_types_of_a_name_is_enough(compile_c: Callable[..., Path]) -> None:
    text = """
int f(int *p) { struct local { int a; } *l = (void *)p; return l->a; }
int g(int *p) { struct local { int a, b; } *l = (void *)p; return l->b; }
"""
    shipped = btf_of(compile_c(text, "shipped", "-g"))
    unit = btf_of(compile_c(text.replace("int a;", "int a, b, c;"), "unit", "-g"))
    assert [c.title for c in ShippedTypes(shipped).differing(unit)] == ["struct local"]
    assert ShippedTypes(shipped).differing(shipped) == ()
