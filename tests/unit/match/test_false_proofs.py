"""What must never be taken for a proof: code and data that only look like the unit's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from match_files import as_shipped, built, module, vmlinux

from rebootless.base.errors import MismatchError
from rebootless.elf import reader
from rebootless.elf.model import ElfFile
from rebootless.match import Shipped, ShippedVmlinux, Status, match_unit

HEAD = "#define NOINLINE __attribute__((noinline, used))\n"
SAME = HEAD + "static NOINLINE int same(int x) { return x * 11 + STEP; }\n"


def same(step: int, more: str = "") -> str:
    return f"#define STEP {step}\n{SAME}{more}"


def image(path: Path, blob: bytes, place: int, new: bytes) -> ShippedVmlinux:
    """The linked image at `path` with other bytes at `place`."""
    elf = reader.parse(blob, name=str(path))
    section = next(s for s in elf.sections if s.addr <= place < s.addr + len(s.data))
    at = blob.index(bytes(section.data)) + place - section.addr
    changed = blob[:at] + new + blob[at + len(new) :]
    return as_shipped(reader.parse(changed, name=str(path)))


@pytest.mark.parametrize("link", [vmlinux, module])
@pytest.mark.parametrize("more", ["", "int mine(int x) { return x * 23; }\n"])
def test_equal_code_of_another_unit(
    link: Callable[[Path, dict[str, str]], Shipped], more: str, tmp_path: Path
) -> None:
    """The unit's own `same` is shipped with another step, and another unit has our `same`."""
    units = {"one": same(4, more), "two": same(5, "int other(int x) { return x * 29; }\n")}
    shipped = link(tmp_path, units)
    result = match_unit(built(tmp_path, "one", same(5, more)), shipped)
    assert result.by_name["same"].status in (Status.AMBIGUOUS, Status.MISMATCHED)
    with pytest.raises(MismatchError, match="'same'"):
        result.require({"same"})


def test_a_unique_name_in_another_unit_is_away_from_home(tmp_path: Path) -> None:
    """`same` was inlined where it is shipped: the only one of that name is another unit's."""
    mine = "".join(f"int mine{n}(int x) {{ return x * {n} - 7; }}\n" for n in range(21, 25))
    room = 'char space(void) { asm volatile(".skip 16384, 0x90"); return 1; }\n'
    shipped = vmlinux(tmp_path, {"one": mine, "room": room, "two": same(5)})
    result = match_unit(built(tmp_path, "one", same(5, mine)), shipped)
    assert result.by_name["mine22"].status is Status.MATCHED
    assert result.by_name["same"].status is Status.MISMATCHED
    assert "away from the unit's code" in result.by_name["same"].reason


def test_numbers_of_static_locals_tell_nothing(tmp_path: Path) -> None:
    """`x.0` of another unit is not ours, although it is the only one of that name and number."""
    code = "int FN(int a) { static int x; x OP a; return x; }\n"
    ours, other = code.replace("FN", "mine"), code.replace("FN", "other").replace("OP", "-=")
    shipped_as = "int mine(int a) { return a; }\n"
    elf = built(tmp_path, "one", ours.replace("OP", "+="))
    (name,) = (n for n in elf.symbols.by_name if n.startswith("x."))
    shipped = vmlinux(tmp_path, {"one": shipped_as, "two": other})
    assert shipped.candidates(name)
    result = match_unit(elf, shipped)
    assert elf.symbols.by_name[name][0] not in result.proven


def test_two_static_locals_are_not_one(tmp_path: Path) -> None:
    code = "int f(int a) { static int x; x += a; { static int x; x ^= a; } return x * 3; }\n"
    code = code.replace("x ^= a;", "x ^= a; a += x;").replace("x * 3", "x * a")
    merged = code.replace("{ static int x; x ^=", "{ x ^=")
    for shipped_as, state in ((code, Status.MATCHED), (merged, Status.MISMATCHED)):
        elf = built(tmp_path, "one", code, "-O0")
        shipped = vmlinux(tmp_path, {"one": shipped_as}, "-O0")
        assert match_unit(elf, shipped).by_name["f"].status is state


def test_the_cold_part_belongs_to_the_function(tmp_path: Path) -> None:
    code = HEAD + (
        '__attribute__((cold, noinline)) void report(int x) { asm volatile("" :: "r"(x)); }\n'
        "int f(int x) { if (x == 5) { report(x * 77); report(x); x *= 99; } return x + 1; }\n"
    )
    elf = built(tmp_path, "one", code)
    pristine = vmlinux(tmp_path, {"one": code})
    match = match_unit(elf, pristine)
    match.require({"f"})
    cold = match.by_name["f.cold"]
    assert cold.address is not None
    blob = (tmp_path / "vmlinux").read_bytes()
    result = match_unit(elf, image(tmp_path / "vmlinux", blob, cold.address, b"\x90"))
    assert result.by_name["f"].status is Status.MATCHED
    with pytest.raises(MismatchError, match=r"'f\.cold'"):
        result.require({"f"})


TABLE = (
    HEAD
    + """
static NOINLINE int callee(int x) { return x * 41 + STEP; }
int caller(int x) { return callee(x) ^ 3; }
int look(int x) { static const int table[] = { 3, 1, 4, 1, STEP, 9 }; return table[x]; }
int plain(int x) { return x * 7; }
"""
)


def test_data_and_called_originals_must_not_differ(tmp_path: Path) -> None:
    elf = built(tmp_path, "one", "#define STEP 5\n" + TABLE)
    result = match_unit(elf, vmlinux(tmp_path, {"one": "#define STEP 6\n" + TABLE}))
    assert result.by_name["look"].status is Status.MATCHED
    with pytest.raises(MismatchError, match=r"'look'.*it refers to 'table.*the data differs"):
        result.require({"look"})
    result.require({"plain", "caller"})
    (callee,) = elf.symbols.by_name["callee"]
    with pytest.raises(MismatchError, match=r"'callee'.*the patch calls it"):
        result.require({"plain"}, {callee})


def test_a_weak_symbol_that_is_nowhere_is_not_what_lies_at_zero(tmp_path: Path) -> None:
    code = "int maybe(int) __attribute__((weak)); int f(int x) { return maybe ? maybe(x) : 3; }\n"
    zero = 'asm(".globl per_cpu_start\\n.set per_cpu_start, 0");\n'
    shipped = vmlinux(tmp_path, {"one": code, "zero": zero})
    assert shipped.names_at(0) == ("per_cpu_start",)
    elf = built(tmp_path, "one", code)
    result = match_unit(elf, shipped)
    assert result.by_name["f"].status is Status.MATCHED
    assert elf.symbols.by_name["maybe"][0] not in result.proven


LABEL = """
int shared; int helper(int x) { return x * 3 + shared; }
static struct key { long v; } one_key;
extern char __start___jump_table[], __stop___jump_table[];
long table_size(void) { return __stop___jump_table - __start___jump_table; }
int label(int x) {
    asm goto(PADDING "1:" SITE
        ".pushsection __jump_table, \\"aw\\"\\n.balign 8\\n.long 1b - ., TARGET - .\\n"
        ".quad %c0 + 1 - .\\n.popsection" : : "i"(&one_key) : : yes);
    return x + 1;
yes:
    return helper(x) + shared;
}
"""
NOP = ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\\n"
JUMP = ".byte 0xe9\\n.long {} - 2f\\n2:\\n"


def labelled(site: str, target: str = "%l[yes]", padding: str = "") -> str:
    return f'#define SITE "{site}"\n#define PADDING "{padding}"\n' + LABEL.replace("TARGET", target)


@pytest.mark.parametrize(
    ("shipped_as", "state"),
    [
        (labelled(NOP), Status.MATCHED),
        (labelled(JUMP.format("%l[yes]")), Status.MATCHED),
        (labelled(JUMP.format("2f")), Status.MISMATCHED),  # jumps where the table does not say
        (labelled(NOP, "1b"), Status.MISMATCHED),
        (labelled(NOP, padding=".balign 8\\n"), Status.MATCHED),
        (labelled(NOP, "1b", padding=".balign 8\\n"), Status.MISMATCHED),
    ],
)
def test_targets_of_jump_labels(shipped_as: str, state: Status, tmp_path: Path) -> None:
    shipped = vmlinux(tmp_path, {"one": shipped_as})
    result = match_unit(built(tmp_path, "one", labelled(NOP)), shipped)
    assert result.by_name["label"].status is state, result.by_name["label"].reason


MANY = (
    HEAD
    + """
int shared; static int first = 4, second = 6;
static const int table[] = { 5, 7, 11, 13 };
static NOINLINE int one(int x) { first += x; return table[x & 3] * first; }
static NOINLINE int two(int x) { second += x; return table[x & 3] * second; }
int print(const char *s, int x) { return s[x]; }
int both(int x) { return one(x) > 9 ? two(x) + 1 : x; }
int text(int x) { return print("a text", x) + print("another", x) + 0x1234567; }
double real(double x) { return x * 2.75 + 1.5; }
int loop(int *p, int n) { int s = 0; for (int i = 0; i < n; i++) s += p[i] ^ two(i); return s; }
"""
)


# Nops for alignment may differ, and are no code.
UNALIGNED = ("-fno-align-loops", "-fno-align-jumps", "-fno-align-labels")


@dataclass(frozen=True)
class Pristine:
    """A linked image, and the object as it is built."""

    path: Path
    blob: bytes = field(repr=False)
    elf: ElfFile = field(repr=False)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Pristine:
    folder = tmp_path_factory.mktemp("many")
    vmlinux(folder, {"one": MANY}, *UNALIGNED)
    elf = built(folder, "one", MANY, *UNALIGNED)
    return Pristine(folder / "vmlinux", (folder / "vmlinux").read_bytes(), elf)


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32), flip=st.integers(1, 255))
def test_any_changed_byte_is_found(many: Pristine, seed: int, flip: int) -> None:
    """One byte of a function or of what it refers to (opcode, operand, displacement, string)."""
    pristine = as_shipped(reader.parse(many.blob, name="vmlinux"))
    match = match_unit(many.elf, pristine)
    names = {f.name for f in match.functions}
    match.require(names)
    spans = [(f.address, f.size) for f in match.functions if f.address is not None]
    spans += [(d.address, d.size) for d in match.data if d.address is not None and d.size == 16]
    texts = next(s for s in pristine.image.elf.sections if s.name == ".rodata")
    for text in (b"a text\0", b"another\0"):
        spans.append((texts.addr + bytes(texts.data).index(text), len(text)))
    start, size = random.Random(seed).choice(spans)
    place = start + seed % size
    old = pristine.image.read(place, 1)[0]
    shipped = image(many.path, many.blob, place, bytes([old ^ flip]))
    with pytest.raises(MismatchError):
        match_unit(many.elf, shipped).require(names)
