"""What belongs together in a change of C source, and what does not."""

from __future__ import annotations

import difflib

from rebootless.translate import blocks, csource, facts
from rebootless.translate.csource import What
from rebootless.translate.split import Part, split

HEADER = """\
#ifndef FOO_H
#define FOO_H
struct foo {
	int a;
	/* of the second kind */
	int b;
};

#define FOO_MAX(x) ((x) > 4)

int foo_read(struct foo *f, int n);

static inline int foo_get(const struct foo *f)
{
	return f->a;
}
#endif
"""
UNIT = """\
#include "foo.h"

static int count;

static int helper(struct foo *f)
{
	return f->a + count;
}

int foo_read(struct foo *f, int n)
{
	if (FOO_MAX(n))
		return 0;
	return helper(f) + n;
}
EXPORT_SYMBOL(foo_read);

static int other(void)
{
	return 1;
}

SYSCALL_DEFINE1(foo, int, x)
{
	return other() + x;
}
"""


def examined(path: str, old: str, new: str) -> facts.File:
    lines = difflib.unified_diff(
        old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}"
    )
    (change,) = blocks.read_diff("".join(lines), {path: old})
    return facts.examine(change, old, new)


def parts(*files: tuple[str, str, dict[str, str]]) -> tuple[Part, ...]:
    found = []
    for path, old, edits in files:
        new = old
        for before, after in edits.items():
            assert before in new
            new = new.replace(before, after, 1)
        found.append(examined(path, old, new))
    return split(found)


def test_items_of_a_file() -> None:
    found = {(i.what, i.names[:1]): (i.first, i.last) for i in csource.read(UNIT).items}
    assert found[What.FUNCTION, ("helper",)] == (5, 8)
    assert found[What.FUNCTION, ("foo",)] == (23, 26)
    assert found[What.DATA, ("count",)] == (3, 3)
    assert found[What.CALL, ()] == (16, 16)
    header = {i.names[:1]: i for i in csource.read(HEADER).items}
    assert header[("foo",)].inner == ("a", "b")
    assert header[("FOO_MAX",)].what is What.MACRO
    assert header[("foo_read",)].what is What.DECLARATION
    assert header[("foo_get",)].is_static


def test_a_branch_that_leaves_a_brace_open_does_not_lose_the_rest() -> None:
    text = "#ifdef A\nint f(void)\n{\n\tif (x) {\n#else\nint f(int a)\n{\n\t{\n#endif\n"
    text += "\t}\n}\nint g;\n"
    assert csource.read(text).items[-1].names == ("g",)


def test_changes_that_have_nothing_in_common_are_apart() -> None:
    edits = {"f->a + count": "f->a - count", "return 1;": "return 2;"}
    assert len(parts(("x/u.c", UNIT, edits))) == 2


def test_a_new_function_and_its_callers_are_together() -> None:
    edits = {
        "static int other": "static int fresh(int n)\n{\n\treturn n;\n}\n\nstatic int other",
        "helper(f) + n": "helper(f) + fresh(n)",
        "return 1;": "return 2;",
    }
    found = parts(("x/u.c", UNIT, edits))
    assert sorted(len(p.pieces) for p in found) == [1, 2]
    (two,) = (p for p in found if len(p.pieces) == 2)
    assert two.reasons == ("x/u.c: 'fresh' is new, and used",)


def test_a_new_member_and_who_sets_it_are_together() -> None:
    header = ("include/foo.h", HEADER, {"\tint b;\n": "\tint b;\n\tint last_seen;\n"})
    unit = ("x/u.c", UNIT, {"f->a + count": "(f->last_seen = count)", "return 1;": "return 2;"})
    found = parts(header, unit)
    assert sorted(p.paths for p in found) == [("include/foo.h", "x/u.c"), ("x/u.c",)]


def test_another_prototype_takes_its_callers_along() -> None:
    header = ("include/foo.h", HEADER, {"(struct foo *f, int n);": "(struct foo *f, long n);"})
    unit = ("x/u.c", UNIT, {"foo_read(struct foo *f, int n)": "foo_read(struct foo *f, long n)"})
    user = "#include <foo.h>\nint use(struct foo *f)\n{\n\treturn foo_read(f, 1);\n}\n"
    caller = ("y/c.c", user, {"foo_read(f, 1)": "foo_read(f, 1L)"})
    (found,) = parts(header, unit, caller)
    assert found.paths == ("include/foo.h", "x/u.c", "y/c.c")


def test_a_call_over_several_lines_follows_the_prototype() -> None:
    header = (
        "include/foo.h",
        HEADER,
        {"(struct foo *f, int n);": "(struct foo *f, int n, int m);"},
    )
    unit = (
        "x/u.c",
        UNIT,
        {"foo_read(struct foo *f, int n)": "foo_read(struct foo *f, int n, int m)"},
    )
    user = "int use(struct foo *f)\n{\n\treturn foo_read(f,\n\t\t\t1);\n}\n"
    caller = ("y/c.c", user, {"\t\t\t1)": "\t\t\t1, 2)"})
    other = ("y/d.c", user.replace("foo_read", "bar"), {"\t\t\t1)": "\t\t\t2)"})
    found = parts(header, unit, caller, other)
    assert sorted(p.paths for p in found) == [("include/foo.h", "x/u.c", "y/c.c"), ("y/d.c",)]


def test_a_pointer_to_functions_follows_their_prototype() -> None:
    header = "struct ops {\n\tint (*dump)(int a);\n\tint n;\n};\n"
    unit = "static int my_dump(int a)\n{\n\treturn a;\n}\n"
    unit += "static const struct ops my_ops = {\n\t.dump = my_dump,\n};\n"
    other = unit.replace("struct ops", "struct others")
    found = parts(
        ("include/ops.h", header, {"int a": "int a, int b"}),
        ("x/u.c", unit, {"int a": "int a, int b"}),
        ("x/v.c", other, {"int a": "int a, int b"}),
    )
    assert sorted(p.paths for p in found) == [("include/ops.h", "x/u.c"), ("x/v.c",)]


def test_a_static_function_is_nobody_elses() -> None:
    new = {"static int helper(struct foo *f)": "static int helper(struct foo *f, int n)"}
    other = "static int helper(int n)\n{\n\treturn n;\n}\nint v(void)\n{\n\treturn helper(2);\n}\n"
    found = parts(("x/u.c", UNIT, new), ("x/w.c", other, {"helper(2)": "helper(3)"}))
    assert len(found) == 2


def test_a_function_that_works_otherwise_takes_its_changed_callers_along() -> None:
    edits = {"return 1;": "return 2;", "return other() + x;": "return other() - x;"}
    assert len(parts(("x/u.c", UNIT, edits))) == 1
    edits = {"return 1;": "return 2;", "if (FOO_MAX(n))": "if (!FOO_MAX(n))"}
    assert len(parts(("x/u.c", UNIT, edits))) == 2


def test_a_variable_that_is_used_otherwise_in_two_places() -> None:
    edits = {"return f->a + count;": "return f->a;", "return 1;": "return count;"}
    (found,) = parts(("x/u.c", UNIT, edits))
    assert found.reasons == ("x/u.c: what is done with 'count' changes in both",)


def test_a_type_that_each_branch_of_a_condition_has() -> None:
    header = "#ifdef A\nstruct t {\n\tint ref;\n};\n#else\nstruct t {\n\tint x;\n};\n#endif\n"
    user = "int f(struct t *t)\n{\n\treturn t->ref++;\n}\n"
    (found,) = parts(
        ("x/t.h", header, {"int ref;": "atomic_t ref;"}),
        ("x/f.c", user, {"t->ref++": "atomic_inc(&t->ref)"}),
    )
    assert found.paths == ("x/f.c", "x/t.h")


def test_a_half_of_a_condition_is_not_left_alone() -> None:
    edits = {
        "static int other(void)": "#ifdef CONFIG_X\nstatic int other(void)",
        "SYSCALL_DEFINE1": "#endif\nSYSCALL_DEFINE1",
    }
    (found,) = parts(("x/u.c", UNIT, edits))
    assert len(found.pieces) == 2


def test_comments_are_no_change_and_includes_go_along() -> None:
    file = examined("x/u.c", UNIT, UNIT.replace("static int count;", "static int count; /* n */"))
    assert not file.pieces and len(file.idle) == 1
    file = examined("x/u.c", UNIT, '#include "bar.h"\n' + UNIT)
    assert file.pieces[0].is_include
    assert split([file]) == ()
    inside = HEADER.replace("of the second kind", "of the third kind")
    assert not examined("include/foo.h", HEADER, inside).pieces


def test_an_end_of_line_counts_in_a_directive() -> None:
    file = examined("a.h", "#define A 1\nint b;\n", "#define A \\\n1\nint b;\n")
    assert not file.pieces
    file = examined("a.h", "#define A int b;\n", "#define A\nint b;\n")
    assert len(file.pieces) == 1
