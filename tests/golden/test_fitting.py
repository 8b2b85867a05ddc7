"""New members of compiled structs, put into free bytes: the layout stays what it was."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless.patch.structs import with_members
from rebootless.safety.fitting import placements
from rebootless.safety.layout import type_findings
from rebootless.safety.typediff import compare_types
from rebootless.types.btf import Btf

from .test_layout import btf_of

if shutil.which("pahole") is None:
    pytest.skip("pahole is not installed, so NO layout is tested", allow_module_level=True)

USE = "int user(struct s *p) { return p->last; }\n"
BEFORE = """
struct count { int refs; };
typedef struct { int counter; } atomic_t;
struct s {
	long a;
	unsigned char b;
	long c;
	struct { int d; union { short e; char f; }; };
	int gone;
	long g;
	struct { long h; char i; } named;
	char last;
};
"""


@pytest.fixture
def types(compile_c: Callable[..., Path]) -> Callable[[str], Btf]:
    return lambda text: btf_of(compile_c(text + USE, "unit", "-g"))


FITTING = {
    "in the middle": ("\tlong c;", "\tlong c;\n\tint fresh;", ["fresh"]),
    "first": ("\tlong a;", "\t_Bool fresh;\n\tlong a;", ["fresh"]),
    "a counter": ("\tlong a;", "\tatomic_t fresh;\n\tlong a;", ["fresh"]),
    "an array": ("\tlong a;", "\tunsigned short fresh[2];\n\tlong a;", ["fresh"]),
    "several": ("\tlong a;", "\tchar one, two;\n\tint three;\n\tlong a;", ["one", "two", "three"]),
    "largest first": ("\tlong a;", "\tchar x;\n\tint y;\n\tshort z;\n\tlong a;", ["x", "y", "z"]),
    "one more is gone": ("\tint gone;", "\tshort fresh;", ["fresh"]),
    "a bit": ("\tlong a;", "\tunsigned int bit:1;\n\tlong a;", ["bit"]),
}


@pytest.mark.parametrize("case", FITTING)
def test_new_members_go_where_there_is_room(types: Callable[[str], Btf], case: str) -> None:
    old_text, new_text, names = FITTING[case]
    before, after = types(BEFORE), BEFORE.replace(old_text, new_text)
    refused = type_findings(compare_types(before, types(after))).refused
    assert [f.code for f in refused] == ["layout-changed"]
    found = placements(before, types(after))
    assert {p.member for p in found} == set(names)
    made = with_members(BEFORE, after, found)
    assert made is not None
    verdict = type_findings(compare_types(before, types(made)))
    assert not verdict.refused and [f.code for f in verdict.warnings] == ["layout-hole-used"]


NOT_FITTING = {
    "not plain": ("\tlong a;", "\tstruct count fresh;\n\tlong a;"),
    "too large": ("\tlong c;", "\tlong fresh;\n\tlong c;"),
    "too many": ("\tlong a;", "\tint one, two, three, four;\n\tlong a;"),
    "another type": ("\tlong c;", "\tchar fresh;\n\tvoid *c;"),
    "inside of another": ("\tstruct { long h;", "\tstruct { char fresh; long h;"),
    "nothing": ("\tlong c;", "\tlong c;"),
}


@pytest.mark.parametrize("case", NOT_FITTING)
def test_what_has_no_room_has_no_place(types: Callable[[str], Btf], case: str) -> None:
    after = BEFORE.replace(*NOT_FITTING[case])
    assert placements(types(BEFORE), types(after)) == ()
