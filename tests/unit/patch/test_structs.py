"""New members put elsewhere in the text of a struct."""

from __future__ import annotations

import pytest

from rebootless.patch.structs import Placement, with_members

BEFORE = """
struct s; /* struct s { int no; }; */
struct other { int a; };
struct s {
	int a; /* one; two */
	u8 b, c;
	struct list_head *(*call)(int x, int y);
	union { int u1; long u2; };
	struct { u8 s1; int s2; };
	struct { u8 q1; } named;
#ifdef CONFIG_X
	DECLARE_BITMAP(map, 8);
#endif
	u8 array[4] __aligned(4);
	unsigned int bits:3;
	char data[];
} __packed;
"""
MEMBERS = ["a", "b", "c", "call", "u1", "u2", "s1", "s2", "named", "map", "array", "bits", "data"]


def placed(after: str, *pairs: tuple[str, str]) -> str | None:
    return with_members(BEFORE, after, [Placement("s", *pair) for pair in pairs])


@pytest.mark.parametrize("anchor", MEMBERS)
def test_every_way_to_declare_a_member_is_found(anchor: str) -> None:
    after = BEFORE.replace("\tint a;", "\tbool fresh;\n\tint a;")
    made = placed(after, ("fresh", anchor))
    assert made is not None and made.count("bool fresh;") == 1
    assert made.replace(" bool fresh;", "") == BEFORE
    before = made[: made.index(" bool fresh;")]
    assert before.endswith(";") and anchor in before


def test_what_a_union_has_is_followed_not_shared() -> None:
    after = BEFORE.replace("\tint a;", "\tbool fresh;\n\tint a;")
    made = placed(after, ("fresh", "u1"))
    assert made is not None and "union { int u1; long u2; }; bool fresh;" in made
    made = placed(after, ("fresh", "s1"))
    assert made is not None and "struct { u8 s1; bool fresh; int s2; };" in made


def test_several_members_of_all_kinds() -> None:
    fresh = "\tu8 n1, n2;\n\tint (*cb)(struct s *s);\n\tstruct timer_list __rcu *timer;\n"
    after = BEFORE.replace("\tint a;", fresh + "\tint a;").replace("\tunsigned int bits:3;\n", "")
    made = placed(after, ("n1", "c"), ("n2", "n1"), ("cb", "data"), ("timer", "named"))
    assert made is not None
    assert "\tu8 b, c; u8 n1, n2;\n" in made
    assert "char data[]; int (*cb)(struct s *s);\n}" in made
    assert "} named; struct timer_list __rcu *timer;\n" in made
    assert "unsigned int bits:3;" in made, "what the patch removes stays"


def test_what_is_not_simple_is_left_alone() -> None:
    after = BEFORE.replace("\tint a;", "\tbool fresh;\n\tint a;")
    assert placed(after, ("fresh", "nowhere")) is None
    assert placed(after, ("missing", "a")) is None
    assert placed(BEFORE.replace("u8 b, c;", "u8 b, c, fresh;"), ("fresh", "a")) is None
    inside = "\tint a; bool\n#ifdef CONFIG_Y\n\tfresh\n#endif\n\t;"
    assert placed(BEFORE.replace("\tint a;", inside), ("fresh", "a")) is None
    assert placed(after + BEFORE, ("fresh", "a")) == after + BEFORE, "defined twice"
    assert placed("int x;\n", ("fresh", "a")) == "int x;\n"
