"""The BTF reader, on sections written here record by record, and on damaged ones."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebootless.base.errors import ElfError
from rebootless.safety.layout import type_findings
from rebootless.safety.typediff import compare_types
from rebootless.types.btf import BOOL, CHAR, SIGNED, Btf, Kind, Member, Parameter, parse
from rebootless.types.declare import declare
from rebootless.types.shape import Shapes

FLAG = 1 << 31


class Writer:
    """Writes a section; types are numbered in the order in which they are added."""

    def __init__(self, first: int = 1, first_string: int = 0) -> None:
        self.records, self.strings = b"", b"\0" if not first_string else b""
        self.next, self.first_string = first, first_string

    def text(self, name: str) -> int:
        if not name:
            return 0
        at = self.first_string + len(self.strings)
        self.strings += name.encode() + b"\0"
        return at

    def add(self, kind: Kind, name: str, target: int, *words: int, vlen: int = 0, flag: int = 0,
            ) -> int:  # fmt: skip
        info = kind << 24 | vlen | flag
        self.records += struct.pack(f"<{3 + len(words)}I", self.text(name), info, target, *words)
        self.next += 1
        return self.next - 1

    def bytes(self) -> bytes:
        sizes = (0, len(self.records), len(self.records), len(self.strings))
        return struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, *sizes) + self.records + self.strings


def every_kind() -> bytes:
    """A section with a type of each kind."""
    w = Writer()
    integer = w.add(Kind.INT, "int", 4, SIGNED << 24 | 32)
    pointer = w.add(Kind.PTR, "", integer)
    array = w.add(Kind.ARRAY, "", 0, integer, integer, 3)
    whole = w.add(
        Kind.STRUCT, "s", 24,
        w.text("a"), integer, 0,
        w.text("b"), array, 32,
        w.text("p"), pointer, 128,
        vlen=3,
    )  # fmt: skip
    bits = w.add(
        Kind.STRUCT, "bits", 4, w.text("f"), integer, 3 << 24, w.text("g"), integer, 5 << 24 | 3,
        vlen=2, flag=FLAG,
    )  # fmt: skip
    w.add(Kind.UNION, "u", 24, w.text("s"), whole, 0, w.text("bits"), bits, 0, vlen=2)
    w.add(Kind.ENUM, "e", 4, w.text("LOW"), 0xFFFFFFFF, w.text("ONE"), 1, vlen=2, flag=FLAG)
    w.add(Kind.FWD, "later", 0)
    w.add(Kind.FWD, "choice", 0, flag=FLAG)
    alias = w.add(Kind.TYPEDEF, "alias_t", whole)
    fixed = w.add(Kind.CONST, "", w.add(Kind.VOLATILE, "", alias))
    w.add(Kind.RESTRICT, "", pointer)
    proto = w.add(
        Kind.FUNC_PROTO, "", pointer, w.text("x"), integer, 0, w.add(Kind.PTR, "", 0), 0, 0, vlen=3
    )
    w.add(Kind.FUNC, "call", proto, vlen=1)
    variable = w.add(Kind.VAR, "v", integer, 1)
    w.add(Kind.DATASEC, ".data", 4, variable, 0, 4, vlen=1)
    w.add(Kind.FLOAT, "double", 8)
    w.add(Kind.DECL_TAG, "tag", whole, 0xFFFFFFFF)
    w.add(Kind.TYPE_TAG, "user", fixed)
    w.add(
        Kind.ENUM64, "wide", 8, w.text("BIG"), 1, 0xFFFFFFFF, w.text("MINUS"), 0xFFFFFFFE,
        0xFFFFFFFF, vlen=2,
    )  # fmt: skip
    w.add(
        Kind.ENUM64, "signed", 8, w.text("MINUS2"), 0xFFFFFFFE, 0xFFFFFFFF, vlen=1, flag=FLAG
    )  # fmt: skip
    return w.bytes()


def named(btf: Btf) -> dict[str, int]:
    """The numbers of types with a name."""
    return {btf.type_name(n): n for n in btf.numbers() if btf.type_name(n)}


def test_every_kind_is_read() -> None:
    btf = parse(every_kind(), name="x")
    of = named(btf)
    assert {Kind(btf.kinds[n]) for n in btf.numbers()} == set(Kind) - {Kind.VOID}
    assert btf.size(of["s"]) == 24 and btf.integer(of["int"]) == (SIGNED, 0, 32)
    assert btf.members(of["s"]) == (
        Member("a", of["int"], 0, 0), Member("b", 3, 32, 0), Member("p", 2, 128, 0)
    )  # fmt: skip
    assert btf.members(of["bits"]) == (
        Member("f", of["int"], 0, 3), Member("g", of["int"], 3, 5)
    )  # fmt: skip
    assert btf.enumerators(of["e"]) == (("LOW", -1), ("ONE", 1))
    assert btf.enumerators(of["wide"]) == (("BIG", 0xFFFFFFFF << 32 | 1), ("MINUS", 2**64 - 2))
    assert btf.enumerators(of["signed"]) == (("MINUS2", -2),)
    assert btf.array(3) == (of["int"], 3)
    assert btf.parameters(btf.targets[of["call"]])[0] == Parameter("x", of["int"])
    assert btf.plain(of["user"]) == of["alias_t"]
    assert btf.is_flagged(of["choice"]) and not btf.is_flagged(of["later"])


def test_c_and_signatures() -> None:
    btf = parse(every_kind(), name="x")
    of, shapes = named(btf), Shapes(btf)
    assert declare(btf, of["call"], "call") == "int *call(int, void *, ...)"
    assert shapes.signature(of["call"]) == "(s4, *void, ...)->*s4"
    assert declare(btf, of["user"], "x") == "const volatile alias_t x"
    assert shapes.signature(of["user"]) == "struct s"
    assert declare(btf, of["choice"]) == "union choice"
    assert shapes.size(of["u"]) == 24 * 8 and shapes.size(of["later"]) == 0
    assert [f[:3] for f in shapes.fields(of["bits"])] == [("f", 0, 3), ("g", 3, 5)]
    assert [f.is_bits for f in shapes.fields(of["s"])] == [False] * 3


def test_declarators() -> None:
    w = Writer()
    char = w.add(Kind.INT, "char", 1, CHAR << 24 | 8)
    flag = w.add(Kind.INT, "_Bool", 1, BOOL << 24 | 8)
    constant = w.add(Kind.CONST, "", char)
    text = w.add(Kind.PTR, "", constant)
    rows = w.add(Kind.ARRAY, "", 0, text, char, 4)
    to_rows = w.add(Kind.PTR, "", rows)
    call = w.add(Kind.FUNC_PROTO, "", flag, w.text(""), text, vlen=1)
    to_call = w.add(Kind.PTR, "", call)
    fixed = w.add(Kind.CONST, "", text)
    calls = w.add(Kind.ARRAY, "", 0, to_call, char, 0)
    nothing = w.add(Kind.FUNC_PROTO, "", 0)
    btf = parse(w.bytes(), name="x")
    assert declare(btf, rows, "n") == "const char *n[4]"
    assert declare(btf, to_rows, "n") == "const char *(*n)[4]"
    assert declare(btf, to_call, "n") == "_Bool (*n)(const char *)"
    assert declare(btf, fixed, "n") == "const char * const n"
    assert declare(btf, calls, "n") == "_Bool (*n[])(const char *)"
    assert declare(btf, nothing, "n") == "void n(void)"


def test_bitfields_of_older_btf() -> None:
    w = Writer()
    three = w.add(Kind.INT, "int", 4, 5 << 16 | 3)
    w.add(Kind.STRUCT, "s", 4, w.text("f"), three, 0, vlen=1)
    btf = parse(w.bytes(), name="x")
    (field,) = Shapes(btf).fields(named(btf)["s"])
    assert (field.offset, field.size, field.is_bits) == (5, 3, True)


@pytest.mark.parametrize("name", ["char", "signed char"])
def test_characters_are_told_by_name(name: str) -> None:
    signatures = set()
    for encoding in (0, CHAR, SIGNED):  # as several versions of pahole write them
        w = Writer()
        number = w.add(Kind.INT, name, 1, encoding << 24 | 8)
        signatures.add(Shapes(parse(w.bytes(), name="x")).signature(number))
    assert signatures == {name}


def test_a_module_builds_on_the_kernel() -> None:
    base = parse(every_kind(), name="vmlinux")
    w = Writer(len(base.kinds), len(base.strings))
    w.add(Kind.STRUCT, "mine", 24, w.text("inner"), named(base)["s"], 0, vlen=1)
    btf = parse(w.bytes(), name="module", base=base)
    assert [name for _, name, _ in btf.named()] == ["mine"]
    assert btf.members(btf.first) == (Member("inner", named(base)["s"], 0, 0),)
    assert declare(btf, btf.first) == "struct mine"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda b: b[:10], "too short for BTF"),
        (lambda b: b"\0" + b[1:], "not BTF.* at offset 0"),
        (lambda b: b[:2] + b"\7" + b[3:], "version 7 at offset 2"),
        (lambda b: b[:-1], "strings at offset"),
        (lambda b: b[:12] + b"\xff\xff\0\0" + b[16:], "types at offset 24"),
        (lambda b: b[:31] + b"\x1f" + b[32:], "unknown kind 31 of type at offset 24"),
        (lambda b: b[:24] + b"\0\xff\xff\0" + b[28:], "offset 24 refers to string"),
        (lambda b: b[:48] + b"\xff\0\0\0" + b[52:], "offset 40 refers to type 255"),
        (lambda b: b[:64] + b"\xff\0\0\0" + b[68:], "offset 52 refers to type 255"),
    ],
)
def test_damage_names_the_offset(damage: object, message: str) -> None:
    with pytest.raises(ElfError, match=message):
        parse(damage(every_kind()), name="x")  # type: ignore[operator]


def walk(blob: bytes) -> None:
    """All that is done with types."""
    try:
        btf = parse(blob, name="x")
        shapes = Shapes(btf)
        for number in btf.numbers():
            shapes.signature(number)
            shapes.size(number)
            declare(btf, number, "x")
            if btf.kinds[number] in (Kind.STRUCT, Kind.UNION):
                shapes.fields(number)
        whole = parse(every_kind(), name="y")
        for old, new in ((btf, whole), (whole, btf)):
            type_findings(compare_types(old, new))
    except ElfError as exc:
        assert "offset" in exc.message


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8))
def test_damaged_sections_are_errors_or_values(changes: list[tuple[int, int]]) -> None:
    blob = bytearray(every_kind())
    for at, value in changes:
        blob[at % len(blob)] = value
    walk(bytes(blob))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 40))
def test_any_bytes_are_errors_or_values(noise: bytes, kept: int) -> None:
    walk(every_kind()[:kept] + noise)


def test_types_that_never_end_are_damage() -> None:
    w = Writer()
    w.add(Kind.PTR, "", 1)
    w.add(Kind.CONST, "", 2)
    w.add(Kind.STRUCT, "", 8, 0, 3, 0, vlen=1)
    w.add(Kind.TYPEDEF, "t", 4)
    btf = parse(w.bytes(), name="x")
    for number in btf.numbers():
        with pytest.raises(ElfError, match="type at offset"):
            Shapes(btf).signature(number)
        if btf.kinds[number] not in (Kind.STRUCT, Kind.TYPEDEF):
            with pytest.raises(ElfError, match="type at offset"):
                declare(btf, number)


def test_types_that_double_at_each_step_are_damage() -> None:
    w = Writer()
    inner = w.add(Kind.INT, "int", 4, SIGNED << 24 | 32)
    for _ in range(60):
        inner = w.add(Kind.STRUCT, "", 8, 0, inner, 0, 0, inner, 32, vlen=2)
    btf = parse(w.bytes(), name="x")
    with pytest.raises(ElfError, match="type at offset"):
        Shapes(btf).fields(inner)
