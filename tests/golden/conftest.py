"""Object pairs compiled from small C sources, the way the kernel compiles its units."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless.diff import Delta, diff
from rebootless.elf.reader import read

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

Compile = Callable[[str, str], Path]
Pair = Callable[[str, str], Delta]


@pytest.fixture
def compile_c(tmp_path: Path) -> Compile:
    """Compiles a C text to an object, named by its second argument."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")

    def run(source: str, name: str) -> Path:
        path = tmp_path / "unit.c"
        path.write_text(PRELUDE + "#line 1\n" + source)
        out = tmp_path / f"{name}.o"
        subprocess.run(["gcc", *KERNEL_FLAGS, "-o", str(out), str(path)], check=True)
        return out

    return run


@pytest.fixture
def pair(compile_c: Compile) -> Pair:
    """The Delta of two C texts."""

    def run(before: str, after: str) -> Delta:
        return diff(read(compile_c(before, "orig")), read(compile_c(after, "patched")))

    return run
