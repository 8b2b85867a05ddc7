"""The compiler that built a kernel, and whether this machine has it.

A kernel's configuration keeps the first line of `CC --version`:

    CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
                            program  vendor, package version    compiler version

The same compiler version in another package revision (12.2.0-14 against 12.2.0-14+deb12u1) is
taken with a warning: whether its code is the shipped code is proven later, function by function.
Any other version is refused here, before minutes are spent on a build that cannot match.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..base import proc
from ..base.errors import CompileError
from ..base.events import Monitor, NullMonitor, Warned

_TEXT = re.compile(r"(?P<program>\S+) \((?P<package>[^)]*)\) (?P<version>\d[\w.]*)")


@dataclass(frozen=True)
class CompilerText:
    """The parts of a version line; `package` is e.g. "Debian 12.2.0-14+deb12u1"."""

    program: str
    package: str
    version: str


@dataclass(frozen=True)
class Toolchain:
    """A compiler on this machine; `exact` when its version line is the very one wanted."""

    program: str
    path: Path
    text: str
    exact: bool


def parse_text(text: str) -> CompilerText | None:
    """Takes a version line apart; None for a compiler whose line looks otherwise (clang)."""
    match = _TEXT.match(text)
    return CompilerText(match["program"], match["package"], match["version"]) if match else None


def find_compiler(wanted: str, monitor: Monitor | None = None) -> Toolchain:
    """The compiler whose version line is `wanted` (CONFIG_CC_VERSION_TEXT).

    Raises CompileError, with what is wanted, what is there and how to get it, when the program is
    missing or of another version.
    """
    program = wanted.split()[0]
    path = shutil.which(program)
    if path is None:
        raise CompileError(
            f"the kernel was built by '{wanted}', and there is no {program} here",
            hint=_hint(wanted),
        )
    output = proc.run([path, "--version"], check=False).stdout
    found = output.splitlines()[0].strip() if output else ""
    if found == wanted:
        return Toolchain(program, Path(path), found, exact=True)
    want, have = parse_text(wanted), parse_text(found)
    if want is None or have is None or have.version != want.version:
        raise CompileError(
            f"the kernel was built by '{wanted}', and {path} is '{found}'", hint=_hint(wanted)
        )
    if have.package != want.package:
        (monitor or NullMonitor()).emit(
            Warned(
                f"the kernel was built by '{wanted}', here is '{found}': the same compiler in "
                "another package; matching will tell whether it makes the same code"
            )
        )
        return Toolchain(program, Path(path), found, exact=False)
    return Toolchain(program, Path(path), found, exact=True)


def _hint(wanted: str) -> str:
    """How to get the compiler: the package name, and the version when the text names one."""
    text = parse_text(wanted)
    program = text.program if text else wanted.split()[0]
    # Debian calls a compiler by its triplet when it was built for cross building.
    package = re.sub(r"^\w+-linux-gnu-(?=gcc)", "", program)
    version = f", version {text.package.split()[-1]}" if text and text.package.split() else ""
    return f"apt install {package} (of the release the kernel belongs to{version})"
