"""A hand-written patch's object as a Delta: what it replaces, what it brings, what it must say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import rebootless
from rebootless.base.errors import ElfError
from rebootless.diff import Delta
from rebootless.diff.delta import KernelRef
from rebootless.diff.handwritten import handwritten
from rebootless.diff.records import SymbolRecord, read_records
from rebootless.elf.reader import read

HEADER = (Path(rebootless.__file__).parent / "kmod/rebootless_patch.h").read_text()
UNIT = """
static int state;
static noinline int private(int x) { return helper(x) + state++; }
int f(int x) { return private(x) + 1; }
static noinline int g(int x) { static int count; return f(x) + count++; }
int h(int x) { return g(x) + g(x + 1); }
init int start(int x) { return private(x); }
notrace int quiet(int x) { return private(x); }
"""
Write = Callable[[str], Delta]


@pytest.fixture
def write(compile_c: Callable[[str, str], Path]) -> Write:
    """The Delta of a hand-written file against UNIT, which is of vmlinux."""

    def run(text: str) -> Delta:
        made = compile_c(f"{HEADER}\n#line 1\n{text}", "made")
        return handwritten(read(compile_c(UNIT, "orig")), read(made), "vmlinux")

    return run


def refs(delta: Delta) -> dict[str, KernelRef]:
    targets = (r.target for p in delta.pieces for r in p.relocs)
    return {t.name: t for t in targets if isinstance(t, KernelRef)}


def codes(delta: Delta) -> set[tuple[str, str]]:
    return {(f.code, f.symbol) for f in delta.refused}


def test_replacement_and_what_it_brings(write: Write) -> None:
    delta = write(
        "static int seen;\n"
        "static noinline int more(int x) { return helper(x) + seen++; }\n"
        "static int new_f(int x) { return more(x) + more(x + 2); }\n"
        "REBOOTLESS_PATCH(vmlinux, f, new_f);"
    )
    assert not delta.refused
    assert [(c.name, c.size_old > 0) for c in delta.changed] == [("f", True)]
    assert {c.name for c in delta.new} == {"more"} and delta.new_data == ("seen",)
    assert {p.name for p in delta.pieces} >= {"new_f", "more", "seen"}
    assert set(refs(delta)) >= {"helper"}


def test_declared_symbols_are_what_the_author_says(write: Write) -> None:
    delta = write(
        "extern int private(int), counter, elsewhere(int);\n"
        "REBOOTLESS_SYMBOL(vmlinux, private, 0);\n"
        'REBOOTLESS_SYMBOL_AS(vmlinux, counter, "count.7", 2);\n'
        "REBOOTLESS_SYMBOL(some-module, elsewhere, 3);\n"
        "int new_h(int x) { return private(x) + counter + elsewhere(x); }\n"
        "REBOOTLESS_PATCH(vmlinux, h, new_h);"
    )
    assert not delta.refused
    found = refs(delta)
    assert (found["private"].position, found["private"].object) == (0, "vmlinux")
    assert found["private"].orig_symbol is not None
    # The numbers of static locals differ between builds: the unit's own must not be taken for it.
    assert (found["count.7"].position, found["count.7"].orig_symbol) == (2, None)
    assert (found["elsewhere"].position, found["elsewhere"].object) == (3, "some_module")


def test_private_symbol_must_be_declared(write: Write) -> None:
    delta = write(
        "extern int private(int);\nint new_h(int x) { return private(x); }\n"
        "REBOOTLESS_PATCH(vmlinux, h, new_h);"
    )
    assert codes(delta) == {("undeclared-symbol", "private")}
    assert "REBOOTLESS_SYMBOL(vmlinux, private, 0);" in delta.refused[0].message


def test_the_old_function_may_be_called_and_the_name_kept(write: Write) -> None:
    delta = write(
        "static noinline int g(int x) { return x ? g(x - 1) : helper(x); }\n"
        "REBOOTLESS_PATCH(vmlinux, g, g);\n"
        "int new_f(int x) { return f(x - 1); }\nint f(int);\n"
        "REBOOTLESS_PATCH(vmlinux, f, new_f);"
    )
    assert not delta.refused
    assert {c.name for c in delta.changed} == {"f", "g"}
    assert refs(delta)["f"].orig_symbol is not None, "the old one, which leads to the new one"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("int n(int x) { return x; } REBOOTLESS_PATCH(vmlinux, gone, n);", "not-in-unit"),
        ("int n(int x) { return x; } REBOOTLESS_PATCH(ext4, f, n);", "wrong-object"),
        ("int n(int x) { return x; } REBOOTLESS_PATCH(vmlinux, start, n);", "init-function"),
        ("int n(int x) { return x; } REBOOTLESS_PATCH(vmlinux, quiet, n);", "no-fentry"),
        (
            "int n(int x) { return x; } int m(int x) { return x; }"
            "REBOOTLESS_PATCH(vmlinux, f, n); REBOOTLESS_PATCH(vmlinux, f, m);",
            "replaced-twice",
        ),
        ("extern int n(int); REBOOTLESS_PATCH(vmlinux, f, n);", "not-in-unit"),
    ],
)
def test_refusals(write: Write, text: str, code: str) -> None:
    assert code in {c for c, _ in codes(write(text))}


def test_clone_has_no_way_of_its_own(compile_c: Callable[[str, str], Path]) -> None:
    unit = "static noinline int two(int x, int y) { return y ? helper(x) : x; }\n"
    unit += "int f(int x) { return two(x, 1); }\nint g(int x) { return two(x, 1) + 1; }"
    made = f"{HEADER}\nint n(int x, int y) {{ return x; }}\nREBOOTLESS_PATCH(vmlinux, two, n);"
    delta = handwritten(read(compile_c(unit, "orig")), read(compile_c(made, "made")), "vmlinux")
    (finding,) = delta.refused
    assert finding.code == "not-in-unit" and "two.constprop.0" in finding.message


def test_records_of_the_macros(compile_c: Callable[[str, str], Path]) -> None:
    text = 'REBOOTLESS_UNIT("a/b.c");\nextern int a;\nREBOOTLESS_SYMBOL_AS(m-x, a, "a.1", 12);'
    records = read_records(read(compile_c(f"{HEADER}\n{text}", "made")))
    assert records.symbols == (SymbolRecord("m_x", "a", "a.1", 12),) and not records.patches
    wrong = 'REBOOTLESS_RECORD(a, b, "symbol", "vmlinux|x|x|y");'
    with pytest.raises(ElfError, match="is no record"):
        read_records(read(compile_c(f"{HEADER}\n{wrong}", "made")))
