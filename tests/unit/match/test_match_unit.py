"""Run-pre matching on units compiled and linked here."""

from __future__ import annotations

from pathlib import Path

import pytest
from match_files import as_shipped, built, module, vmlinux

from rebootless.base.errors import MismatchError
from rebootless.elf import reader
from rebootless.elf.model import ElfFile
from rebootless.match import Proven, Status, UnitMatch, match_unit
from rebootless.match.unit import describe, family

LIB = """
int shared = 7;
int table[16];
__attribute__((noinline)) int helper(int x) { return x + 3; }
__attribute__((noinline)) int print(const char *text, int x) { return text[x]; }
"""
# Each of the two has a static `count`, a static `step` and a static local `x`.
UNIT = """
extern int shared, table[]; int helper(int); int print(const char *, int);
static int count = START;
struct ops { int (*run)(int); int (*other)(int); const char *name; };
static __attribute__((noinline)) int step(int x) { count += x; return helper(count) * 5; }
static __attribute__((noinline)) int leaf(int x) { return x * 3; }
static const struct ops ops = { .run = step, .other = leaf, .name = "ops of " NAME };
const struct ops *FN(get)(void) { return &ops; }
int FN(count)(int a) { static int x; x += a; return step(x) + table[3]; }
int FN(other)(int a) { static int x = 9; x ^= a; return print("hello " NAME, x) + leaf(a); }
double FN(pi)(double a) { return a * 3.25; }
int FN(past_end)(int *p) { int s = 0; while (p < table + 16) s += *p++; return s + shared; }
"""


def unit(name: str, start: int = 1, text: str | None = None) -> str:
    head = f'#define NAME "{text or name}"\n#define START {start}\n#define FN(x) {name}_##x\n'
    return head + UNIT


UNITS = {"one": unit("one"), "two": unit("two", 2), "lib": LIB}


def states(result: UnitMatch) -> dict[str, str]:
    return {f.name: f.status.value for f in result.functions}


def proof(result: UnitMatch, elf: ElfFile, name: str) -> Proven:
    (index,) = elf.symbols.by_name[name]
    return result.proven[index]


@pytest.mark.parametrize("name", ["one", "two"])
def test_everything_matches(name: str, tmp_path: Path) -> None:
    shipped = vmlinux(tmp_path, UNITS)
    elf = built(tmp_path, name, UNITS[name])
    result = match_unit(elf, shipped)
    assert set(states(result).values()) == {"matched"}
    assert {d.status for d in result.data} == {Status.MATCHED}
    # every proven symbol is the symbol of that name, static locals up to their number
    for index, proven in result.proven.items():
        symbol = elf.symbols[index]
        if symbol.name and not symbol.name.startswith(".L"):
            assert proven.name.partition(".")[0] == symbol.name.partition(".")[0]
            assert proven.offset == 0


def test_static_duplicates_are_told_apart(tmp_path: Path) -> None:
    shipped = vmlinux(tmp_path, UNITS)
    positions: dict[str, set[tuple[int | None, int]]] = {}
    for name in ("one", "two"):
        elf = built(tmp_path, name, UNITS[name])
        result = match_unit(elf, shipped)
        for symbol in ("step", "leaf", "count", "ops"):
            proven = proof(result, elf, symbol)
            assert proven.place in shipped.candidates(symbol)
            positions.setdefault(symbol, set()).add((proven.sympos, proven.place))
        value = bytes(shipped.image.read(proof(result, elf, "count").place, 4))
        assert value[0] == (1 if name == "one" else 2)
    for symbol, seen in positions.items():
        assert {sympos for sympos, _ in seen} == {1, 2}, symbol


def test_static_locals_of_other_numbers(tmp_path: Path) -> None:
    # One more before them: gcc numbers static locals by a running counter, so `x.1` is another.
    more = UNITS["one"] + "int more(int a) { static int x; x -= a; return x; }\n"
    shipped = vmlinux(tmp_path, {**UNITS, "one": more})
    elf = built(tmp_path, "one", UNITS["one"])
    result = match_unit(elf, shipped)
    assert set(states(result).values()) == {"matched"}
    ours = [n for n in elf.symbols.by_name if n.startswith("x.")]
    proofs = {proof(result, elf, n).name for n in ours}
    assert len(ours) == len(proofs) == 2
    assert set(ours) != proofs
    for name in ours:
        there = proof(result, elf, name)
        assert there.place in shipped.candidates(there.name)
        # `x = 9` is data, the other x is zero
        section = shipped.image.section_at(there.place)
        assert section is not None
        ours_in = elf.sections[elf.symbols[elf.symbols.by_name[name][0]].shndx].name
        assert ours_in.startswith(section.name)


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    changed = UNITS["one"].replace("x * 3", "x * 7").replace("return &ops", "return &ops + 1")
    shipped = vmlinux(tmp_path, {"one": changed, "lib": LIB})
    elf = built(tmp_path, "one", UNITS["one"])
    result = match_unit(elf, shipped)
    leaf = result.by_name["leaf"]
    assert leaf.status is Status.MISMATCHED
    assert leaf.first_difference == 2  # lea (%rdi,%rdi,2) has become lea 0(,%rdi,8)
    assert (leaf.expected, leaf.found[:2]) == (b"\x7f\xc3", b"\xfd\x00")
    assert "the code differs at leaf+0x2 (built 7f c3, shipped fd 00" in describe(leaf)
    assert states(result)["one_other"] == "matched"
    with pytest.raises(MismatchError, match="the build of 'leaf' is not what vmlinux ships"):
        result.require({"one_other", "leaf"})
    result.require({"one_other"})
    with pytest.raises(MismatchError, match="no function of that name was built"):
        result.require({"absent"})


def test_one_patched_byte_in_the_image(tmp_path: Path) -> None:
    vmlinux(tmp_path, UNITS)
    path = tmp_path / "vmlinux"
    pristine = as_shipped(reader.read(path))
    (place,) = pristine.candidates("one_past_end")
    text = next(s for s in pristine.image.elf.sections if s.name == ".text")
    blob = bytearray(path.read_bytes())
    start = bytes(blob).index(bytes(text.data))
    blob[start + place - text.addr + 4] ^= 1
    shipped = as_shipped(reader.parse(bytes(blob), name="vmlinux"))
    result = match_unit(built(tmp_path, "one", UNITS["one"]), shipped)
    wrong = {n for n, s in states(result).items() if s != "matched"}
    assert wrong == {"one_past_end"}
    assert (result.by_name["one_past_end"].first_difference or 0) <= 4


def test_wrong_string_is_found(tmp_path: Path) -> None:
    shipped = vmlinux(tmp_path, {"one": unit("one", text="0ne"), "lib": LIB})
    result = match_unit(built(tmp_path, "one", UNITS["one"]), shipped)
    found = result.by_name["one_other"]
    assert found.status is Status.MISMATCHED
    assert "refers to the string b'hello 0ne" in found.reason
    assert "not b'hello one" in found.reason
    # `ops` has a string too, and is data
    (bad,) = [d for d in result.data if d.status is not Status.MATCHED]
    assert bad.name == "ops"
    assert "refers to the string b'ops of 0ne" in bad.reason


def test_wrong_constant_is_found(tmp_path: Path) -> None:
    shipped = vmlinux(tmp_path, {"one": UNITS["one"].replace("3.25", "3.5"), "lib": LIB})
    result = match_unit(built(tmp_path, "one", UNITS["one"]), shipped)
    assert states(result)["one_pi"] == "mismatched"
    assert "refers to the constant" in result.by_name["one_pi"].reason


def test_wrong_target_is_found(tmp_path: Path) -> None:
    """The same bytes, but the call goes to another function."""
    code = UNITS["one"].replace("return helper(count)", "return helpme(count)")
    code = "int helpme(int);\n" + code
    lib = LIB + "__attribute__((noinline)) int helpme(int x) { return x + 4; }"
    shipped = vmlinux(tmp_path, {"one": code, "lib": lib})
    result = match_unit(built(tmp_path, "one", UNITS["one"]), shipped)
    assert states(result)["step"] == "mismatched"
    assert result.by_name["step"].reason == "refers to helpme+0x0, not to helper"


def test_changed_data_is_found(tmp_path: Path) -> None:
    shipped = vmlinux(tmp_path, {**UNITS, "one": unit("one", 5)})
    result = match_unit(built(tmp_path, "one", UNITS["one"]), shipped)
    (bad,) = [d for d in result.data if d.status is not Status.MATCHED]
    assert (bad.name, bad.first_difference) == ("count", 0)
    assert (bad.expected[0], bad.found[0]) == (1, 5)
    assert set(states(result).values()) == {"matched"}


def test_weak_and_absent(tmp_path: Path) -> None:
    weak = "__attribute__((weak, noinline)) int hook(int x) { return x + 1; }\n"
    gone = "int only_here(int x) { return x - 8; }\n"
    strong = "int hook(int x) { return x * 77 + 2; }\n"
    caller = "int call_hook(int x) { return hook(x) + 1; }\n"
    shipped = vmlinux(tmp_path, {"one": weak + caller, "two": strong})
    result = match_unit(built(tmp_path, "one", weak + caller + gone), shipped)
    assert states(result) == {
        "hook": "absent", "call_hook": "matched", "only_here": "absent",
    }  # fmt: skip
    assert "weak, and overridden" in result.by_name["hook"].reason
    assert "has no symbol of that name" in result.by_name["only_here"].reason
    # A weak function that is the one linked must match like any other.
    changed = weak.replace("x + 1", "x + 2")
    shipped = vmlinux(tmp_path / "b", {"one": changed + caller})
    result = match_unit(built(tmp_path, "one", weak + caller), shipped)
    assert states(result)["hook"] == "mismatched"


SAME = """
static __attribute__((noinline, used)) int same(int x) { return x * 11 + 4; }
int NAME1(int x) { return x + 1; }
static __attribute__((noinline, used)) int twin(int x) { return x * 13 + 4; }
int NAME2(int x) { return x + 2; }
"""


def test_equal_code_is_told_apart_by_order_or_ambiguous(tmp_path: Path) -> None:
    """Equal static functions that nothing refers to."""
    units = {n: SAME.replace("NAME", n) for n in ("one", "two")}
    shipped = vmlinux(tmp_path, units, "-fno-toplevel-reorder")
    elf = built(tmp_path, "two", units["two"], "-fno-toplevel-reorder")
    result = match_unit(elf, shipped)
    places = {n: shipped.candidates(n) for n in ("same", "twin", "two1", "two2")}
    assert places["same"][1] < places["two1"][0] < places["twin"][1] < places["two2"][0]
    assert result.by_name["twin"].status is Status.MATCHED
    assert result.by_name["twin"].address == places["twin"][1]
    # `same` comes first in the unit, right before two1
    assert result.by_name["same"].status is Status.MATCHED
    assert result.by_name["same"].address == places["same"][1]


def test_equal_code_alone_is_ambiguous(tmp_path: Path) -> None:
    code = "static __attribute__((noinline, used)) int same(int x) { return x * 11 + 4; }\n"
    shipped = vmlinux(tmp_path, {"one": code, "two": code})
    result = match_unit(built(tmp_path, "two", code), shipped)
    assert result.by_name["same"].status is Status.AMBIGUOUS
    assert "nothing tells which" in result.by_name["same"].reason
    assert result.mismatches == result.functions


END = """
int print(const char *, int);
int end_of_text(const char *p) { const char *text = "some text"; return p == text + 14; }
"""


def test_reference_past_a_string(tmp_path: Path) -> None:
    """The string itself is compared when a pointer past its end is what the code has."""
    other = 'int first(int x) { return __builtin_strlen("other") + print("before", x); }\n'
    code = "int print(const char *, int);\n" + other + END
    for text, state in (("some text", "matched"), ("same text", "mismatched")):
        units = {"lib": LIB, "one": code.replace("some text", text)}
        shipped = vmlinux(tmp_path, units)
        result = match_unit(built(tmp_path, "one", code), shipped)
        assert states(result)["end_of_text"] == state


LABELS = """
extern int shared; int helper(int);
static struct key { long v; } one_key;
extern char __start___jump_table[], __stop___jump_table[];
long table_size(void) { return __stop___jump_table - __start___jump_table; }
#ifdef SHIPPED
#define SITE ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\\n"
#else
#define SITE ".byte 0xe9\\n.long %l[yes] - 2f\\n2:\\n"
#endif
int label(int x) {
    asm goto("1:" SITE
        ".pushsection __jump_table, \\"aw\\"\\n.balign 8\\n.long 1b - ., %l[yes] - .\\n"
        ".quad %c0 + 1 - .\\n.popsection" : : "i"(&one_key) : : yes);
    return x + 1;
yes:
    return helper(x) + shared;
}
int plain(int x) {
#ifdef SHIPPED_NOP
    asm volatile(".byte 0x0f, 0x1f, 0x44, 0x00, 0x00");
#endif
    return x + 1;
}
"""


def test_jump_labels_are_explained(tmp_path: Path) -> None:
    shipped = vmlinux(tmp_path, {"one": LABELS, "lib": LIB}, "-DSHIPPED")
    elf = built(tmp_path, "one", LABELS)
    result = match_unit(elf, shipped)
    assert set(states(result).values()) == {"matched"}
    assert result.by_name["label"].explained == ("1 jump-label sites",)
    # only the entry in __jump_table tells where the static key is
    (index,) = elf.symbols.by_name["one_key"]
    assert result.proven[index].place == shipped.candidates("one_key")[0]


def test_a_jump_label_of_another_key_is_a_difference(tmp_path: Path) -> None:
    code = LABELS.replace("} one_key;", "} one_key, no_key;").replace("&one_key", "&no_key")
    shipped = vmlinux(tmp_path, {"one": code, "lib": LIB}, "-DSHIPPED")
    result = match_unit(built(tmp_path, "one", LABELS), shipped)
    assert states(result)["label"] == "mismatched"
    assert "refers to no_key+0x0, not to one_key" in result.by_name["label"].reason


def test_a_nop_too_much_is_a_difference(tmp_path: Path) -> None:
    flags = ("-DSHIPPED", "-DSHIPPED_NOP")
    shipped = vmlinux(tmp_path, {"one": LABELS, "lib": LIB}, *flags)
    assert states(match_unit(built(tmp_path, "one", LABELS), shipped))["plain"] == "mismatched"


TAIL = """
__attribute__((noinline)) int target(int x) { return x * 5 + 1; }
int jumper(int x) { return target(x + 1); }
int looper(int *p, int n)
{ int s = 0; for (int i = 0; i < n; i++) s += p[i] ^ target(i); return s; }
"""


def test_short_jumps_and_alignment_are_explained(tmp_path: Path) -> None:
    shipped = vmlinux(tmp_path, {"one": TAIL}, "-falign-functions=1")
    elf = built(tmp_path, "one", TAIL)
    result = match_unit(elf, shipped)
    assert set(states(result).values()) == {"matched"}
    assert "1 short jumps" in result.by_name["jumper"].explained
    assert proof(result, elf, "target").place == shipped.candidates("target")[0]


def test_a_short_jump_elsewhere_is_a_difference(tmp_path: Path) -> None:
    other = TAIL + "__attribute__((noinline)) int target2(int x) { return x * 9 + 1; }"
    wrong = other.replace("return target(x + 1)", "return target2(x + 1)")
    wrong = "int target2(int);" + wrong
    shipped = vmlinux(tmp_path, {"one": wrong})
    result = match_unit(built(tmp_path, "one", "int target2(int);" + other), shipped)
    assert states(result)["jumper"] == "mismatched"
    assert "refers to target2" in result.by_name["jumper"].reason


def test_module(tmp_path: Path) -> None:
    """`lib` stays outside: its symbols are imports of the module."""
    units = {n: UNITS[n] for n in ("one", "two")}
    shipped = module(tmp_path, units)
    assert shipped.name == "test_module"
    for position, name in enumerate(units, 1):
        elf = built(tmp_path, name, units[name])
        result = match_unit(elf, shipped)
        assert set(states(result).values()) == {"matched"}
        assert {d.status for d in result.data} <= {Status.MATCHED}
        for symbol in ("step", "leaf", "count", "ops"):
            found = proof(result, elf, symbol)
            assert (found.name, found.sympos, found.external) == (symbol, position, False)
        helper = proof(result, elf, "helper")
        assert (helper.name, helper.sympos, helper.offset, helper.external) == (
            "helper", None, 0, True,
        )  # fmt: skip


def test_module_that_differs(tmp_path: Path) -> None:
    code = UNITS["one"].replace("table[3]", "table[4]").replace("+ shared", "+ table[1]")
    shipped = module(tmp_path, {"one": code.replace("hello ", "hullo "), "two": UNITS["two"]})
    result = match_unit(built(tmp_path, "one", UNITS["one"]), shipped)
    wrong = {n: f.reason for n, f in result.by_name.items() if f.status is not Status.MATCHED}
    assert set(wrong) == {"one_count", "one_other", "one_past_end"}
    assert "refers to the string b'hullo one" in wrong["one_other"]


@pytest.mark.parametrize(
    ("section", "group"),
    [
        (".text", ".text"),
        (".text.foo", ".text"),
        (".text.unlikely.foo", ".text.unlikely"),
        (".text.unlikely", ".text.unlikely"),
        (".text.unlikely_named", ".text"),
        (".text..refcount", ".text..refcount"),
        (".init.text", ".init.text"),
    ],
)
def test_family(section: str, group: str) -> None:
    assert family(section) == group
