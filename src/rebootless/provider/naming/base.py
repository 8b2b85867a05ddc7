"""How a distribution calls the packages of a kernel.

Names say what to ask the user for, and which source package an image was built from. What is in a
package is always read from its content.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Facts:
    """What a package says of itself.

    `version` is that of the package (with its release, for rpm), `source` names the source package
    it was built from: a name, or the file name of the source rpm. `kind` is "deb", "rpm", "srpm" or
    "dsc", `vendor` who made it.
    """

    file: str
    kind: str
    name: str
    version: str
    architecture: str
    source: str
    vendor: str


@dataclass(frozen=True)
class Usual:
    """The names of the packages that usually hold the parts of one kernel."""

    image: str
    modules: str
    headers: str
    source: str


class Naming(Protocol):
    """One distribution's way. `title` is its name for people."""

    title: str

    def made(self, facts: Facts) -> bool:
        """Whether a package with these facts is one of this distribution's."""
        ...

    def built(self, compiler_text: str) -> bool:
        """Whether that distribution's compiler has this version line."""
        ...

    def usual(self, release: str) -> Usual:
        """What its packages for a release are called."""
        ...

    def same_source(self, image: Facts, source: Facts) -> bool:
        """Whether an image's package was built from that source package."""
        ...

    def compiler_hint(self, program: str, version: str) -> str:
        """How to get the compiler that a kernel was built with."""
        ...


def same_version(image: Facts, source: Facts) -> bool:
    """The usual tie: an image and its source come out of one build, with one version."""
    return image.version == source.version


def is_kernel(facts: Facts) -> bool:
    """Whether a package may hold a part of a kernel. Debug symbols, tools and documents do not."""
    if not facts.name.startswith(("linux", "kernel")):
        return False
    idle = ("dbg", "debug", "tools", "perf", "doc", "libc", "firmware", "cpupower", "selftests")
    return not any(word in facts.name for word in idle)


def first_made(namings: Iterable[Naming], facts: Iterable[Facts]) -> Naming | None:
    """The first naming that one of the packages follows."""
    known = tuple(facts)
    return next((n for n in namings if any(n.made(f) for f in known)), None)
