"""A module placed and relocated by us is what the linker makes of the same object."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from rebootless.elf.reader import read
from rebootless.integrity import modules
from rebootless.integrity.code import Code
from rebootless.kernel.modules import ModuleImage

SOURCE = """
extern int other(int); extern int table[4]; extern int shared;
static int own = 7, zero; static const char text[] = "text";
int __attribute__((noinline)) helper(int x) { return other(x) + own; }
int __attribute__((section(".init.text"))) setup(void) { return helper(zero); }
const char *pick(int i) { shared = i; return table[i] ? text : (const char *)&zero; }
unsigned long wide(void) { unsigned long a; asm("movabs $table, %0" : "=r"(a)); return a; }
int last(int i) { own = i; return helper(i); }
"""
SECTIONS = {".text": 0xFFFFFFFFC0201000, ".data": 0xFFFFFFFFC0204000, ".bss": 0xFFFFFFFFC0205000,
            ".rodata": 0xFFFFFFFFC0203000, ".init.text": 0xFFFFFFFFC0207000}  # fmt: skip
EXPORTS = {"other": 0xFFFFFFFF81234560, "table": 0xFFFFFFFF82345670, "shared": 0xFFFFFFFF82000010}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("module")
    (folder / "m.c").write_text(SOURCE)
    flags = ["-O1", "-mcmodel=kernel", "-fno-pie", "-fcf-protection=none",
             "-fno-asynchronous-unwind-tables"]  # fmt: skip
    subprocess.run(["gcc", "-c", *flags, "-o", folder / "m.o", folder / "m.c"], check=True)
    return folder


def image(folder: Path) -> ModuleImage:
    return ModuleImage(folder / "m.o", "m", read(folder / "m.o"), "", "", MappingProxyType({}))


def load(folder: Path, exports: dict[str, int], sections: dict[str, int] = SECTIONS) -> Code:
    return modules.load(image(folder), sections, {}, exports.get)


def test_code_is_what_the_linker_makes(built: Path) -> None:
    places = [f"--section-start={name}={address:#x}" for name, address in SECTIONS.items()]
    symbols = [f"--defsym={name}={address:#x}" for name, address in EXPORTS.items()]
    command = ["ld", "-e", "0", *places, *symbols, "-o", built / "m.elf", built / "m.o"]
    subprocess.run(command, check=True)
    linked = read(built / "m.elf").section_by_name[".text"]
    code = load(built, EXPORTS)
    (text,) = [s for s in code.sections if s.stays]
    assert (text.name, text.address) == (".text", SECTIONS[".text"])
    assert text.data.tobytes() == bytes(linked.data)
    assert len(code.blind) == 0
    assert code.names.covering(text.address)[0] == "helper"


def test_what_refers_to_the_unknown_is_blind(built: Path) -> None:
    full = load(built, EXPORTS)
    code = load(built, {name: a for name, a in EXPORTS.items() if name != "other"})
    (text,), (right,) = ([s for s in c.sections if s.stays] for c in (code, full))
    differs = set(np.nonzero(text.data != right.data)[0].tolist())
    (field,) = code.blind.tolist()
    assert differs
    assert differs <= {field - text.address + at for at in range(4)}


def test_an_unlisted_section_is_found_by_a_symbol_in_it(built: Path) -> None:
    listed = {name: address for name, address in SECTIONS.items() if name != ".bss"}
    code = modules.load(image(built), listed, {"zero": SECTIONS[".bss"]}, EXPORTS.get)
    assert len(code.blind) == 0
    assert len(load(built, EXPORTS, listed).blind) > 0
