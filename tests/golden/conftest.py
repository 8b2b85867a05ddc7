"""Object pairs compiled from small C sources, the way the kernel compiles its units."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless.diff import Delta, diff
from rebootless.elf.constants import Reloc, SymbolType
from rebootless.elf.reader import read
from rebootless.elf.writer import OutReloc, OutSection, OutSymbol, editable, serialize

KERNEL_FLAGS = [
    "-c",
    "-O2",
    "-std=gnu11",
    "-ffreestanding",
    "-fno-pie",
    "-mcmodel=kernel",
    "-mno-sse",
    "-mno-red-zone",
    "-fno-strict-aliasing",
    "-fno-common",
    "-fno-asynchronous-unwind-tables",
    "-fno-jump-tables",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-ffunction-sections",
    "-fdata-sections",
    "-pg",
    "-mfentry",
    "-mrecord-mcount",
    "-w",
]
PRELUDE = """
#define noinline __attribute__((noinline))
#define used __attribute__((used))
#define notrace __attribute__((no_instrument_function))
#define unlikely(x) __builtin_expect(!!(x), 0)
#define cold __attribute__((cold))
#define init __attribute__((section(".init.text")))
extern int printk(const char *, ...);
extern int helper(int), other(int), get(void);
extern void sink(const void *, ...);
/* A bug site, as the kernel's macros make them: text address, file, line, flags. */
#define BUG_SITE(flags) asm volatile("1: .byte 0x0f, 0x0b\\n" \\
	".pushsection __bug_table,\\"aw\\"\\n" \\
	"2: .long 1b - .\\n.long %c0 - .\\n.word %c1\\n.word %c2\\n.org 2b + 12\\n" \\
	".popsection" : : "i" (__FILE__), "i" (__LINE__), "i" (flags))
"""

NOT_IN_CLANG = ("-mrecord-mcount",)  # the kernel's build lists the calls afterwards

Compile = Callable[..., Path]
Pair = Callable[..., Delta]
BOTH = pytest.mark.parametrize("compiler", ["gcc", "clang"], indirect=True)


@pytest.fixture(autouse=True)
def compiler(request: pytest.FixtureRequest) -> str:
    """The compiler of the test's objects: gcc, or each that the test is marked for (BOTH)."""
    name = getattr(request, "param", "gcc")
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed, so NOTHING is tested with its objects")
    return str(name)


@pytest.fixture
def kernel_c() -> tuple[list[str], str]:
    """gcc's flags and what stands before each text, for tests that call gcc themselves."""
    return KERNEL_FLAGS, PRELUDE


@pytest.fixture
def compile_c(tmp_path: Path, compiler: str) -> Compile:
    """Compiles a C text to an object, named by its second argument; further ones are options."""

    def run(source: str, name: str, *options: str) -> Path:
        path = tmp_path / "unit.c"
        path.write_text(PRELUDE + "#line 1\n" + source)
        out = tmp_path / f"{name}.o"
        flags = [f for f in KERNEL_FLAGS if compiler == "gcc" or f not in NOT_IN_CLANG]
        subprocess.run([compiler, *flags, *options, "-o", str(out), str(path)], check=True)
        if compiler == "clang":
            list_fentries(out)
        return out

    return run


def list_fentries(path: Path) -> None:
    """Adds __mcount_loc, as objtool does in a kernel that clang builds."""
    obj = editable(read(path))
    places = [
        (section, reloc.offset - 1)
        for section in obj.sections
        for reloc in section.relocs
        if reloc.symbol.name == "__fentry__"
    ]
    table = OutSection("__mcount_loc", flags=3, align=8, data=bytes(8 * len(places)))
    for n, (section, offset) in enumerate(places):
        symbol = OutSymbol("", type=int(SymbolType.SECTION), section=section)
        obj.symbols.append(symbol)
        table.relocs.append(OutReloc(8 * n, int(Reloc.R64), symbol, offset))
    obj.sections.append(table)
    path.write_bytes(serialize(obj))


@pytest.fixture
def pair(compile_c: Compile) -> Pair:
    """The Delta of two C texts, compiled with the given further options."""

    def run(before: str, after: str, *options: str) -> Delta:
        orig = compile_c(before, "orig", *options)
        return diff(read(orig), read(compile_c(after, "patched", *options)))

    return run
