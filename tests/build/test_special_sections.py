"""Special sections as the kernel's own macros make them: a unit of ours, compiled in a real tree.

What goes into a patch is compared with an independent reading of the object (golden/entries.py).
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from rebootless.base.fs import cache_root
from rebootless.compile.tree import MARKER, Tree
from rebootless.diff import Delta, diff
from rebootless.diff.delta import PieceKind
from rebootless.elf.model import ElfFile
from rebootless.elf.reader import parse, read
from rebootless.kernel.symvers import Export
from rebootless.module.emit import EmittedUnit, emit
from rebootless.module.resolve import Proof, Resolver

SOURCE = Path(__file__).parent / "sources/special_sections.c"
VARIANTS = {
    "base": "",
    "first": "#define A 1",
    "second": "#define B 1",
    "moved": "#define DISTANCE 5",
    "text": '#define WARN_TEXT "special is now %d\\n"',
    "once": "#define WARN_ON_KIND WARN_ON_ONCE",
    "module": "",
    "module-first": "#define A 1",
}
KINDS = {
    ".altinstructions", ".orc_unwind_ip", ".parainstructions", ".retpoline_sites", ".return_sites",
    ".smp_locks", ".static_call_sites", "__bug_table", "__ex_table", "__jump_table", "__mcount_loc",
    "_kprobe_blacklist",
}  # fmt: skip


def golden_entries() -> ModuleType:
    path = Path(__file__).parents[1] / "golden/entries.py"
    spec = importlib.util.spec_from_file_location("golden_entries", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


golden = golden_entries()


@dataclass(frozen=True)
class Everywhere:
    """Every name is in vmlinux, once."""

    def positions_of(self, object_name: str, name: str) -> tuple[int, ...]:
        return (0,) if object_name == "vmlinux" else ()

    def places_of(self, object_name: str, name: str) -> tuple[str, ...]:
        return ()


def compiled(tree: Tree, folder: Path, names: Sequence[str]) -> Mapping[str, Path]:
    """The unit, compiled by the tree's own kbuild in some variants."""
    for name in names:
        (folder / name).mkdir()
        lines = f'{VARIANTS[name]}\n#line {90 if name == "moved" else 1} "special.c"\n'
        (folder / name / "special.c").write_text(lines + SOURCE.read_text())
        goal = "obj-m" if name.startswith("module") else "obj-y"
        flags = "ccflags-y := -ffunction-sections -fdata-sections -w"
        (folder / name / "Kbuild").write_text(f"{goal} := special.o\n{flags}\n")
    (folder / "Kbuild").write_text("obj-y := " + " ".join(f"{n}/" for n in names) + "\n")
    targets = [f"{name}/special.o" for name in names]
    with tree.locked():
        made = subprocess.run(
            tree.make(f"M={folder}", *targets), capture_output=True, text=True, check=False
        )
    assert made.returncode == 0 and "objtool" not in made.stderr, made.stderr
    return {name: folder / name / "special.o" for name in names}


@pytest.fixture(scope="module")
def objects(stock_tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """The unit in every variant, as the stock kernel's units are compiled."""
    return compiled(stock_tree, tmp_path_factory.mktemp("special"), tuple(VARIANTS))


def compared(objects: Mapping[str, Path], before: str, after: str) -> Delta:
    return diff(read(objects[before]), read(objects[after]))


def emitted(orig: ElfFile, delta: Delta, owner: str) -> EmittedUnit:
    """Everything that the unit defines is proven, everything else is found in vmlinux."""
    table = orig.symbols
    proofs = {i: Proof(name, 0) for i, name in enumerate(table.names) if table.shndx[i]}
    return emit(delta, Resolver(owner, {}, frozenset(), proofs, Everywhere()), 0)


@pytest.mark.parametrize(("after", "letter", "count"), [("first", "a_", 11), ("second", "b_", 10)])
def test_every_entry_of_the_kernels_macros_goes_along(
    objects: Mapping[str, Path], after: str, letter: str, count: int
) -> None:
    delta = compared(objects, "base", after)
    assert not delta.refused and not delta.warnings and not delta.new_data
    assert len(delta.changed) == count and all(letter in f.name for f in delta.changed)
    unit = emitted(read(objects["base"]), delta, "vmlinux")
    assert not unit.refused and not unit.warnings
    included = {s.name for p in delta.pieces if p.kind is PieceKind.FUNCTION for s in p.symbols}
    wanted = golden.entries(golden.Object(objects[after].read_bytes()), included)
    found = golden.entries(golden.Object(unit.data), None)
    assert found == wanted and sum(wanted.values()) > 50


def test_the_unit_has_every_kind_of_section(objects: Mapping[str, Path]) -> None:
    """Otherwise the test above would not test much."""
    deltas = [compared(objects, "base", after) for after in ("first", "second")]
    assert {t.section for d in deltas for t in d.special} == KINDS
    own = {p.section for d in deltas for p in d.pieces}
    assert {"__dyndbg", ".altinstr_replacement", ".altinstr_aux", ".data.once"} <= own


def test_moved_lines_are_no_change(objects: Mapping[str, Path]) -> None:
    """All line numbers differ: of warnings, of debug messages."""
    assert objects["base"].read_bytes() != objects["moved"].read_bytes()
    delta = compared(objects, "base", "moved")
    assert delta.is_empty and not delta.warnings


@pytest.mark.parametrize(
    ("after", "reason"), [("text", "the string"), ("once", "different entries in __bug_table")]
)
def test_what_a_warning_says_and_does_is_compared(
    objects: Mapping[str, Path], after: str, reason: str
) -> None:
    delta = compared(objects, "base", after)
    assert [f.name for f in delta.changed] == ["a_warn"] and not delta.refused
    assert reason in delta.changed[0].reason


def test_debug_messages_of_a_patched_function_are_its_own(objects: Mapping[str, Path]) -> None:
    """The descriptor, with the static key in it, comes along: the patch has its own switches."""
    delta = compared(objects, "base", "second")
    descriptors = [n for n, p in enumerate(delta.pieces) if p.section == "__dyndbg"]
    assert len(descriptors) == 2
    table = next(p for p in delta.pieces if p.name == "__jump_table")
    keys = {getattr(r.target, "piece", None) for r in table.relocs if r.offset % 16 == 8}
    assert set(descriptors) <= keys


def test_keys_of_a_module(objects: Mapping[str, Path]) -> None:
    """Those of the patched module are refused by name; those of the kernel stay."""
    delta = compared(objects, "module", "module-first")
    assert not delta.refused and {f.name for f in delta.changed} >= {"a_keys", "a_static_call"}
    unit = emitted(read(objects["module"]), delta, "special")
    assert {(f.code, f.symbol) for f in unit.refused} == {
        ("private-static-key", "own_key"), ("private-static-key", "own_fixed_key"),
    }  # fmt: skip
    assert all("static_key_enabled()" in f.message for f in unit.refused)
    before = next(p for p in delta.pieces if p.name == ".static_call_sites")
    kept = parse(unit.data, name="unit.o").section_by_name[".static_call_sites"]
    names = ("own_call", "maybe_call", "own_event")
    own = sum(any(name in str(r.target) for name in names) for r in before.relocs)
    assert own == 3 and kept.size == before.size - 3 * before.entsize


def test_keys_that_a_module_exports_are_followed(objects: Mapping[str, Path]) -> None:
    """By ordinary symbols, which the kernel's loader settles in time; private ones are refused."""
    delta = compared(objects, "module", "module-first")
    orig = read(objects["module"])
    table = orig.symbols
    proofs = {i: Proof(name, 0) for i, name in enumerate(table.names) if table.shndx[i]}
    exports = {"own_key": Export("own_key", 0, "drivers/special", True, "")}
    by = Resolver("special", exports, frozenset(), proofs, Everywhere(),
                  module_read_only=lambda module, name: False)  # fmt: skip
    unit = emit(delta, by, 0)
    assert {(f.code, f.symbol) for f in unit.refused} == {("private-static-key", "own_fixed_key")}
    assert ("module-needed", "own_key") in {(f.code, f.symbol) for f in unit.warnings}
    assert "own_key" in keys_of(unit, "a_keys")


def test_traces_of_the_kernel_stay_in_a_module(objects: Mapping[str, Path]) -> None:
    delta = compared(objects, "module", "module-first")
    unit = emitted(read(objects["module"]), delta, "special")
    assert "__tracepoint_task_rename" in keys_of(unit, "a_trace")


def test_traces_of_a_module_are_dropped_and_named(objects: Mapping[str, Path]) -> None:
    delta = compared(objects, "module", "module-first")
    assert "a_own_trace" in {f.name for f in delta.changed}
    unit = emitted(read(objects["module"]), delta, "special")
    assert [(f.code, f.symbol) for f in unit.warnings] == [("tracepoint-dropped", "own_event")]
    assert not keys_of(unit, "a_own_trace")
    table = next(p for p in delta.pieces if p.name == "__jump_table")
    assert any("__tracepoint_own_event" in str(r.target) for r in table.relocs)


def keys_of(unit: EmittedUnit, function: str) -> set[str]:
    """What the jump labels of a function name after its two places."""
    return {
        name
        for section, (owner, _, told) in golden.entries(golden.Object(unit.data), None)
        if section == "__jump_table" and owner == function
        for _, _, name, _ in told[2:]
    }


def test_objects_of_a_newer_kernel(tmp_path: Path) -> None:
    """What has a section that is not known is refused by its name; all else is understood."""
    markers = sorted((cache_root() / "trees").glob(f"6.12.*/{MARKER}"))
    if not markers:
        pytest.skip("no prepared 6.12 tree in the cache, so no newer object is read here")
    record = json.loads(markers[-1].read_text())
    tree = Tree(record["release"], markers[-1].parent, record["compiler"])
    newer = compiled(tree, tmp_path, ("base", "first", "second", "moved"))
    assert compared(newer, "base", "moved").is_empty
    delta = compared(newer, "base", "second")
    assert len(delta.changed) == 10 and not delta.refused
    delta = compared(newer, "base", "first")
    assert len(delta.changed) == 11
    assert [(f.code, f.symbol) for f in delta.refused] == [
        ("unsupported-section", "runtime_ptr_USER_PTR_MAX")
    ]
    assert "'a_fault'" in delta.refused[0].message
