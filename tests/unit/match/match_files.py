"""Compiles small units and links them into a "shipped" image or module, for the matcher's tests."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from rebootless.elf import reader
from rebootless.elf.constants import RESERVED_BASE, SHN_UNDEF, SymbolType
from rebootless.elf.model import ElfFile
from rebootless.kernel.image import KernelImage
from rebootless.kernel.kallsyms import Kallsyms
from rebootless.kernel.modules import load_module
from rebootless.kernel.symbols import SymbolIndex
from rebootless.match import ShippedModule, ShippedVmlinux

FLAGS = [
    "-O2", "-mcmodel=kernel", "-fno-pic", "-fno-pie", "-mno-red-zone", "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-fno-strict-aliasing",
    "-fno-ipa-icf", "-std=gnu11", "-falign-functions=16",
]  # fmt: skip
SPLIT = ("-ffunction-sections", "-fdata-sections")


def compile_unit(folder: Path, name: str, code: str, *flags: str) -> Path:
    """Compiles C text; the source has the same name whatever the flags."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{name}.c"
    source.write_text(code)
    target = source.with_suffix(".o")
    subprocess.run(["gcc", *FLAGS, *flags, "-c", "-o", target, source], check=True)
    return target


def built(folder: Path, name: str, code: str, *flags: str) -> ElfFile:
    """The unit as we build it: every function and object in a section of its own."""
    return reader.read(compile_unit(folder / "built", name, code, *SPLIT, *flags))


def vmlinux(folder: Path, units: dict[str, str], *flags: str) -> ShippedVmlinux:
    """Links units into an image at the kernel's address; its symbol table becomes kallsyms."""
    objects = [compile_unit(folder / "shipped", n, c, *flags) for n, c in units.items()]
    path = folder / "vmlinux"
    subprocess.run(
        ["ld", "-static", "-e", "0", "-Ttext=0xffffffff81000000", "-z", "max-page-size=0x1000",
         "--no-warn-rwx-segments", "-o", path, *objects],
        check=True,
    )  # fmt: skip
    return as_shipped(reader.read(path))


def as_shipped(elf: ElfFile) -> ShippedVmlinux:
    """A linked ELF as a kernel image with its symbols."""
    table = elf.symbols
    kept = [
        i
        for i in range(len(table))
        if table.names[i] and table.type[i] not in (SymbolType.FILE, SymbolType.SECTION)
        and table.shndx[i] != SHN_UNDEF
    ]  # fmt: skip
    kept.sort(key=lambda i: int(table.value[i]))

    def letter(i: int) -> int:
        if table.shndx[i] >= RESERVED_BASE:
            return ord("A")
        kind = "t" if elf.sections[int(table.shndx[i])].is_exec else "d"
        kind = "w" if table.binding[i] == 2 else kind
        return ord(kind.upper() if table.binding[i] else kind)

    symbols = Kallsyms(
        np.array([int(table.value[i]) for i in kept], np.uint64),
        np.array([letter(i) for i in kept], np.uint8),
        tuple(table.names[i] for i in kept),
    )
    image = KernelImage(Path(elf.name), elf, "Linux version test", "test", "00")
    return ShippedVmlinux(image, SymbolIndex(symbols))


def module(folder: Path, units: dict[str, str], *flags: str) -> ShippedModule:
    """Links units into a .ko with `ld -r`."""
    objects = [compile_unit(folder / "shipped", n, c, *flags) for n, c in units.items()]
    path = folder / "test-module.ko"
    subprocess.run(["ld", "-r", "-o", path, *objects], check=True)
    return ShippedModule(load_module(path))
