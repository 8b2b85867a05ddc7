"""The module's own C: it compiles in the kernel's tree with all that a patch can have."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from rebootless.compile.tree import Tree
from rebootless.diff.delta import CallbackKind, SystemState
from rebootless.elf.model import ElfFile
from rebootless.elf.reader import parse
from rebootless.module.link import PatchedFunction, PatchedObject, link

UNIT = "\n".join(f"int {name}(void *object) {{ return 0; }}" for name in ("f", "g", "h", "i"))
FLAGS = ["-c", "-O2", "-ffreestanding", "-fno-pie", "-mcmodel=kernel", "-fcf-protection=none"]


@pytest.fixture(scope="module")
def unit(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("unit")
    (folder / "unit.c").write_text(UNIT)
    subprocess.run(["gcc", *FLAGS, "unit.c", "-o", "unit.o"], cwd=folder, check=True)
    return (folder / "unit.o").read_bytes()


def pointers(module: ElfFile, section: str) -> list[str]:
    """What a section points at, in order of place: symbols, or sections for local ones."""
    relocs = module.relocations(module.section_by_name[section])
    table = module.symbols
    return [
        table.names[i] or module.sections[int(table.shndx[i])].name for i in map(int, relocs.symbol)
    ]


def test_everything_at_once(unit: bytes, stock_tree: Tree, tmp_path: Path) -> None:
    first = {CallbackKind.PRE_PATCH: "g", CallbackKind.POST_PATCH: "h"}
    second = {CallbackKind.POST_UNPATCH: "i"}
    with stock_tree.locked():
        blob = link(
            "glue",
            objects=[
                PatchedObject("vmlinux", (PatchedFunction("f", "some_function", 3),)),
                PatchedObject("ext4", (), (first, second)),
            ],
            units=[unit],
            make=stock_tree.make,
            folder=tmp_path,
            replace=True,
            states=[SystemState(1 << 40, 7)],
        )
    module = parse(blob, name="glue.ko")
    assert pointers(module, ".rodata.callbacks_1") == ["g", "h", "i"]
    assert ".rodata.callbacks_0" not in module.section_by_name
    assert struct.unpack_from("<QI", module.section_by_name[".data.states"].data) == (1 << 40, 7)
    called = pointers(module, ".data.objects")
    kinds = [f".text.{kind.value}" for kind in CallbackKind]
    assert [c for c in called if c.startswith(".text.")] == kinds, "of the second object only"
    assert ".data.states" in pointers(module, ".data.rebootless_patch")
