"""What a build needs of one kernel, and who can provide it.

A provider is one distribution's archive, or the user's own directory. It turns a release string
(`uname -r`) into `KernelFiles`: everything that the later stages read, as plain paths.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..base.errors import NotFoundError
from ..base.events import Monitor
from ..kernel import config as kernel_config


class KernelState(enum.StrEnum):
    """Where a kernel was found."""

    RUNNING = "running"
    INSTALLED = "installed"
    CACHED = "cached"
    ARCHIVE = "archive"
    GIVEN = "given"


@dataclass(frozen=True)
class SourceTarball:
    """Source as a compressed tar; `strip` leading path components are to be dropped.

    `patches` (unified diffs, compressed or not) turn it, in that order, into what was built.
    """

    path: Path
    strip: int = 1
    patches: tuple[Path, ...] = ()


@dataclass(frozen=True)
class SourceTree:
    """Source as a directory, which must never be written to."""

    path: Path


@dataclass(frozen=True)
class KernelFiles:
    """Everything that a build needs of one kernel.

    `version` is the source package's version, or "" for a tree of the user's own. `modules` is the
    directory lib/modules/RELEASE, None when the kernel has no modules at hand. `compiler` is the
    program to call ("gcc-12"), `compiler_text` is CONFIG_CC_VERSION_TEXT.
    """

    release: str
    version: str
    image: Path
    config: Path
    symvers: Path
    modules: Path | None
    source: SourceTarball | SourceTree
    compiler: str
    compiler_text: str


@dataclass(frozen=True)
class KernelInfo:
    """A kernel that exists somewhere.

    `version` is the package version ("" when unknown), `origin` the suites that offer it,
    `buildable` whether source and headers of exactly this version can be had as well.
    """

    release: str
    version: str
    origin: str
    states: frozenset[KernelState]
    buildable: bool


class Provider(Protocol):
    """Finds kernels and fetches what a build needs of one."""

    def list(self) -> tuple[KernelInfo, ...]:
        """Every kernel that it knows of, oldest first."""
        ...

    def fetch(self, release: str, monitor: Monitor) -> KernelFiles:
        """Gets everything for `release`; raises NotFoundError when there is no such kernel."""
        ...


class GivenKernel(Protocol):
    """Kernels that the user gives instead of naming one of an archive."""

    def list(self, monitor: Monitor | None = None) -> tuple[KernelInfo, ...]:
        """Every kernel that was given, oldest first."""
        ...

    def fetch(self, release: str | None = None, monitor: Monitor | None = None) -> KernelFiles:
        """The files of `release`, or of the one that was given; raises NotFoundError."""
        ...


def compiler_of(config_text: str, where: Path) -> tuple[str, str]:
    """The compiler's program name and version text from a kernel configuration.

    Example: ("gcc-12", "gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"). Raises NotFoundError when the
    configuration at `where` does not say what built the kernel (kernels before 5.8).
    """
    text = kernel_config.parse(config_text).get("CC_VERSION_TEXT")
    if not text:
        raise NotFoundError(
            f"{where} does not name the compiler (CONFIG_CC_VERSION_TEXT)",
            hint="give the configuration of the kernel as it was built, not a fragment",
        )
    return text.split()[0], text
