"""The compiler that built a kernel, and whether this machine has it.

A kernel's configuration keeps the first line of `CC --version`:

    CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"
                            program  vendor, package version    compiler version

The same compiler version in another package revision (12.2.0-14 against 12.2.0-14+deb12u1) is
taken with a warning: whether its code is the shipped code is proven later, function by function.
Any other version is refused here, before minutes are spent on a build that cannot match.

A compiler that this machine lacks runs in a toolchain root (toolroots.py): `Toolchain.inside` puts
the way in before a command line, and is all that the later stages see of it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base import proc
from ..base.errors import CompileError
from ..base.events import Monitor, NullMonitor, Warned
from .naming import DEBIAN, naming_of

_PACKAGE = re.compile(r"\((?:Red Hat|Debian|Ubuntu) ([^) ]+)\)")
_TEXT = re.compile(r"(?P<program>\S+) \((?P<package>[^)]*)\) (?P<version>\d[\w.]*)")


@dataclass(frozen=True)
class CompilerText:
    """The parts of a version line; `package` is e.g. "Debian 12.2.0-14+deb12u1"."""

    program: str
    package: str
    version: str


@dataclass(frozen=True)
class Toolchain:
    """A compiler to use; `exact` when its version line is the very one wanted.

    `enter` comes before each command line, () for a compiler of this machine; `identity` tells one
    root from another, "" for this machine.
    """

    program: str
    path: Path
    text: str
    exact: bool
    enter: tuple[str, ...] = ()
    identity: str = ""

    def inside(self, argv: Sequence[str | Path]) -> list[str]:
        """The command line that runs `argv` where this compiler is."""
        return [*self.enter, *map(str, argv)]


NATIVE = Toolchain("gcc", Path(), "", exact=False)  # whatever this machine has by that name


def parse_text(text: str) -> CompilerText | None:
    """Takes a version line apart; None for a compiler whose line looks otherwise (clang)."""
    match = _TEXT.match(text)
    return CompilerText(match["program"], match["package"], match["version"]) if match else None


def find_compiler(
    wanted: str, monitor: Monitor | None = None, *, program: str | None = None
) -> Toolchain:
    """This machine's compiler whose version line is `wanted` (CONFIG_CC_VERSION_TEXT).

    `program` is what to call, by default what `wanted` begins with.

    Raises CompileError, with what is wanted, what is there and how to get it, when the program is
    missing or of another version.
    """
    program = program or wanted.split()[0]
    path = shutil.which(program)
    if path is None:
        raise CompileError(
            f"the kernel was built by '{wanted}', and there is no {program} here",
            hint=_hint(wanted),
        )
    output = proc.run([path, "--version"], check=False).stdout
    found = output.splitlines()[0].strip() if output else ""
    if not same_version(wanted, found):
        raise CompileError(
            f"the kernel was built by '{wanted}', and {path} is '{found}'", hint=_hint(wanted)
        )
    warn_unless_exact(wanted, found, monitor or NullMonitor())
    return Toolchain(program, Path(path), found, same_package(wanted, found))


def same_package(wanted: str, found: str) -> bool:
    """Whether two version lines are of one package (its program may go by two names)."""
    want, have = parse_text(wanted), parse_text(found)
    if want is None or have is None:
        return wanted == found
    return (want.package, want.version) == (have.package, have.version)


def same_version(wanted: str, found: str) -> bool:
    """Whether two version lines are of one compiler version, whatever package it came in."""
    want, have = parse_text(wanted), parse_text(found)
    if want is None or have is None:
        return wanted == found
    return want.version == have.version


def warn_unless_exact(wanted: str, found: str, monitor: Monitor) -> None:
    """Warns that the compiler at hand is of another package than the one wanted."""
    if not same_package(wanted, found):
        monitor.emit(
            Warned(
                f"the kernel was built by '{wanted}', here is '{found}': the same compiler in "
                "another package; matching will tell whether it makes the same code"
            )
        )


def package_version(text: str) -> str:
    """The compiler's package version in a version line, else its own version.

    Example: "14.2.1-3" of "gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)".
    """
    match, parsed = _PACKAGE.search(text), parse_text(text)
    if match is not None:
        return match[1]
    return parsed.version if parsed else ""


def _hint(wanted: str) -> str:
    """How to get the compiler: the package name, and the version when the text names one."""
    text, naming = parse_text(wanted), naming_of((), wanted)
    if text and naming.title != DEBIAN:
        return naming.compiler_hint(text.program, package_version(wanted))
    program = text.program if text else wanted.split()[0]
    package = package_of(program)
    version = f", version {text.package.split()[-1]}" if text and text.package.split() else ""
    return f"apt install {package} (of the release the kernel belongs to{version})"


def package_of(program: str) -> str:
    """The package of a compiler: gcc-14 of x86_64-linux-gnu-gcc-14.

    Debian calls a compiler by its triplet when it was built for cross building.
    """
    return re.sub(r"^\w+-linux-gnu-(?=gcc)", "", program)
