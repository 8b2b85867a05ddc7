"""Names that become global with a patch, and names that the kernel has already."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rebootless.compile.unit import UnitPair
from rebootless.diff import diff
from rebootless.diff.delta import KernelRef
from rebootless.elf.reader import read
from rebootless.kernel.kallsyms import Kallsyms
from rebootless.kernel.symbols import SymbolIndex
from rebootless.module.positions import KernelPositions
from rebootless.module.resolve import Livepatch, Resolver
from rebootless.pipeline.job import Unit
from rebootless.pipeline.newly_global import exposed_names, taken_names

from .conftest import Compile
from .deltas import changed, codes

BEFORE = """
static noinline int hidden(int x) { return helper(x); }
static int state = 3;
int f(int x) { return hidden(x) + state++; }
"""


def kernel(*symbols: tuple[str, str]) -> KernelPositions:
    """A kernel with symbols of the given names and types."""
    table = Kallsyms(
        np.arange(0x1000, 0x1000 + 16 * len(symbols), 16, dtype=np.uint64),
        np.array([ord(kind) for _, kind in symbols], np.uint8),
        tuple(name for name, _ in symbols),
    )
    return KernelPositions(SymbolIndex(table), lambda: None)


def unit(compile_c: Compile, before: str, after: str) -> Unit:
    orig, patched = compile_c(before, "orig"), compile_c(after, "patched")
    pair = UnitPair("unit.c", "vmlinux", "", orig, patched)
    return Unit(pair, read(orig), read(patched), diff(read(orig), read(patched)))


def resolver(positions: KernelPositions, names: frozenset[str]) -> Resolver:
    return Resolver("vmlinux", {}, frozenset(), {}, positions, is_exposed=names.__contains__)


def test_static_that_becomes_global_is_the_kernels(compile_c: Compile) -> None:
    after = BEFORE.replace("static noinline", "noinline").replace("static int", "int")
    found = unit(compile_c, BEFORE, after)
    assert found.delta.is_empty
    names = exposed_names([found.pair])
    assert names == {"hidden", "state"} and not exposed_names([unit(compile_c, after, after).pair])
    other = unit(
        compile_c,
        "int g(int x) { return x; }",
        "extern int state, hidden(int); int g(int x) { return hidden(x) + state; }",
    )
    refs = [r.target for p in other.delta.pieces for r in p.relocs]
    wanted = {r.name: r for r in refs if getattr(r, "name", "") in names}  # type: ignore[union-attr]
    ways = resolver(kernel(("hidden", "t"), ("state", "d")), names)
    assert {n: ways.resolve(r) for n, r in wanted.items()} == {  # type: ignore[arg-type]
        n: Livepatch("vmlinux", n, 0) for n in names
    }
    twice = resolver(kernel(("hidden", "t"), ("hidden", "t")), names)
    assert getattr(twice.resolve(wanted["hidden"]), "code", "") == "ambiguous-symbol"  # type: ignore[arg-type]
    unknown = resolver(kernel(("hidden", "t")), frozenset())
    assert getattr(unknown.resolve(wanted["hidden"]), "code", "") == "unknown-symbol"  # type: ignore[arg-type]


def test_function_without_fentry_that_becomes_global_is_not_carried(compile_c: Compile) -> None:
    """Other units would call the kernel's own, which cannot be redirected."""
    before = BEFORE.replace("noinline", "noinline notrace")
    after = before.replace("static noinline", "noinline").replace("helper", "other")
    assert codes(unit(compile_c, before, after).delta) == [("no-fentry", "hidden")]


def test_what_moves_to_another_file_is_refused(compile_c: Compile) -> None:
    """The rest of the kernel would keep to the old variable, and call the old function."""
    plain = "int f(int x) { return helper(x); }\n"
    moved = "int state = 3;\nint work(int x) { return helper(x) + state++; }\n"
    found = unit(compile_c, plain, moved + plain.replace("helper", "work"))
    assert changed(found.delta) == {"f"} and not found.delta.refused
    taken = taken_names(found, kernel(("state", "D"), ("work", "T"), ("f", "T")))
    assert [(t.code, t.symbol) for t in taken] == [
        ("symbol-moved", "state"), ("symbol-moved", "work"),
    ]  # fmt: skip
    assert not taken_names(found, kernel(("state", "d"), ("f", "T"))), "a namesake, local to a unit"
    uses = "extern int state, work(int);\nint f(int x) { return work(x) + state; }\n"
    found = unit(compile_c, uses, moved + uses)
    taken = taken_names(found, kernel(("state", "D"), ("work", "T"), ("f", "T")))
    assert [t.symbol for t in taken] == ["state", "work"], "even if the unit referred to it before"


def test_what_loses_init_is_no_move(compile_c: Compile) -> None:
    plain = "int f(int x) { return helper(x); }\n"
    setup = "init noinline int setup(int x) { return get() + x; }\n"
    found = unit(compile_c, setup + plain, setup[5:] + plain.replace("helper", "setup"))
    assert not taken_names(found, kernel(("setup", "T"), ("f", "T")))


def test_per_cpu_symbols_hide_no_global_one() -> None:
    """The kernel's table gives every per-CPU symbol the type of a global one."""
    both = kernel(("counter", "A"), ("counter", "T"))
    assert both.positions_of("vmlinux", "counter") == (2,)
    assert kernel(("counter", "A")).positions_of("vmlinux", "counter") == (0,)
    assert kernel(("counter", "A"), ("counter", "A")).positions_of("vmlinux", "counter") == (1, 2)
    assert kernel(("counter", "A"), ("counter", "t")).positions_of("vmlinux", "counter") == (1,)


def test_weak_symbol_that_another_unit_overrides() -> None:
    """What is proven counts; else the one global symbol of that name, whoever defines it."""
    ref = KernelRef("maybe", 5, defined=True, is_global=True, is_weak=True)
    nothing: frozenset[str] = frozenset()
    assert resolver(kernel(("maybe", "T")), nothing).resolve(ref) == Livepatch(
        "vmlinux", "maybe", 0
    )
    for positions in (kernel(), kernel(("maybe", "t")), kernel(("maybe", "T"), ("maybe", "T"))):
        found = resolver(positions, nothing).resolve(ref)
        assert getattr(found, "code", "") == "unproven-symbol"
    strong = replace(ref, is_weak=False)
    found = resolver(kernel(("maybe", "T")), nothing).resolve(strong)
    assert getattr(found, "code", "") == "unproven-symbol"
