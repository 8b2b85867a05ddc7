"""What a directory holds of kernels: told by content, the path is only where to look.

part             its release is that of
image            the boot header
modules          the first module's vermagic
Module.symvers   the headers beside it (utsrelease.h, kernel.release), else its path
configuration    the same; compared with the image's own `Linux version` line when it is taken
source           none; its top Makefile has the version
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ...base.errors import PatchInputError
from ...base.fs import read_bytes, read_text
from ...kernel import bzimage
from ...kernel.modules import load_module, module_files
from ..naming.base import Facts
from .package import TARBALL

_UTS = re.compile(r'UTS_RELEASE\s+"([^"]+)"')
_MODULE_PLACES = ("lib/modules/*", "usr/lib/modules/*")
_HEADER_PLACES = ("usr/src/*", "usr/src/*/*", "usr/src/*/*/*")


@dataclass(frozen=True)
class Root:
    """A directory like the root of a system: an unpacked package, or one of the user's.

    `origin` is what to call it in messages, `facts` what the package says of itself.
    """

    path: Path
    origin: str
    facts: Facts | None = None


@dataclass(frozen=True)
class Part:
    """One file or directory of a kernel; `release` is "" when nothing tells it."""

    path: Path
    release: str
    root: Root

    def __str__(self) -> str:
        inside = self.path.relative_to(self.root.path)
        return f"{inside} of {self.root.origin}" if self.root.facts else str(self.path)


@dataclass(frozen=True)
class Image(Part):
    """A vmlinuz; `version` is the line that its boot header has: release, builder, number, date."""

    version: str


@dataclass(frozen=True)
class Source(Part):
    """Source of some kernel: `kind` is tarball, tree, srpm or dsc."""

    kind: str


@dataclass(frozen=True)
class Found:
    """All parts that some roots hold."""

    images: tuple[Image, ...]
    configs: tuple[Part, ...]
    modules: tuple[Part, ...]
    symvers: tuple[Part, ...]
    sources: tuple[Source, ...]


def find(roots: Iterable[Root]) -> Found:
    """Looks through the roots. Raises PatchInputError for an image that is none of x86."""
    known = tuple(roots)
    return Found(
        tuple(_images(known)),
        tuple(_configs(known)),
        tuple(_modules(known)),
        tuple(_symvers(known)),
        tuple(_sources(known)),
    )


def is_root(path: Path) -> bool:
    """Whether a directory looks like the root of a system, or like a kernel's source."""
    places = ("boot", "lib/modules", "usr/lib/modules", "usr/src")
    return any((path / place).is_dir() for place in places) or is_source(path)


def is_source(path: Path) -> bool:
    """Whether a directory is the top of a whole source tree; headers packages are not."""
    return has_makefiles(path) and (path / "init/main.c").is_file()


def has_makefiles(path: Path) -> bool:
    """Whether a directory has what configures and builds a kernel, be it without its code."""
    return (path / "Makefile").is_file() and (path / "scripts/Kconfig.include").is_file()


def _images(roots: Iterable[Root]) -> Iterator[Image]:
    for root in roots:
        places = ("boot/vmlinuz*", *(f"{place}/vmlinuz" for place in _MODULE_PLACES))
        for path in _files(root, places):
            header = bzimage.parse(read_bytes(path), name=f"{path.name} of {root.origin}")
            if not header.has_64bit_entry:
                raise PatchInputError(
                    f"{path.name} of {root.origin} is a 32-bit kernel",
                    hint="only x86_64 kernels can be patched",
                )
            yield Image(path, header.release, root, header.version)


def _configs(roots: Iterable[Root]) -> Iterator[Part]:
    for root in roots:
        for path in _files(root, ("boot/config-*",)):
            yield Part(path, path.name.removeprefix("config-"), root)
        for path in _files(root, [f"{place}/config" for place in _MODULE_PLACES]):
            yield Part(path, path.parent.name, root)
        for path in _files(root, [f"{place}/.config" for place in _HEADER_PLACES]):
            yield Part(path, _release_beside(path), root)


def _modules(roots: Iterable[Root]) -> Iterator[Part]:
    for root in roots:
        seen: set[Path] = set()
        for place in _MODULE_PLACES:
            for path in sorted(root.path.glob(place)):
                resolved = path.resolve()
                if not path.is_dir() or resolved in seen:  # /lib may be a link to /usr/lib
                    continue
                seen.add(resolved)
                first = next(module_files(path), None)
                if first is not None:
                    yield Part(path, load_module(first).vermagic.partition(" ")[0], root)


def _symvers(roots: Iterable[Root]) -> Iterator[Part]:
    for root in roots:
        for path in _files(root, ("boot/symvers-*",)):
            yield Part(path, re.sub(r"^symvers-|\.(gz|xz|zst)$", "", path.name), root)
        for path in _files(root, [f"{place}/symvers*" for place in _MODULE_PLACES]):
            yield Part(path, path.parent.name, root)
        for path in _files(root, [f"{place}/Module.symvers" for place in _HEADER_PLACES]):
            yield Part(path, _release_beside(path), root)


def _sources(roots: Iterable[Root]) -> Iterator[Source]:
    for root in roots:
        if root.facts is not None and root.facts.kind in ("srpm", "dsc"):
            yield Source(root.path, "", root, root.facts.kind)
            continue
        if root.path.is_file():
            yield Source(root.path, "", root, "tarball")
            continue
        if is_source(root.path):
            yield Source(root.path, "", root, "tree")
        for path in sorted(root.path.glob("usr/src/linux-*")):
            if (path.is_dir() and not path.is_symlink()) and (
                is_source(path) or (_is_part_of_tree(path) and root.facts is not None)
            ):
                yield Source(path, "", root, "tree")
        for path in _files(root, ("usr/src/*.tar*", "usr/src/*/*.tar*")):
            if TARBALL.search(path.name):
                yield Source(path, "", root, "tarball")


def _is_part_of_tree(path: Path) -> bool:
    """openSUSE has one tree in two packages: makefiles and headers, and the rest."""
    return (path / "init/main.c").is_file() or has_makefiles(path)


def _files(root: Root, patterns: Iterable[str]) -> Iterator[Path]:
    """The files that match, each once though links lead to it."""
    seen: set[Path] = set()
    for pattern in patterns:
        for path in sorted(root.path.glob(pattern)):
            real = path.resolve()
            if path.is_file() and real not in seen:
                seen.add(real)
                yield path


def _release_beside(path: Path) -> str:
    """The release that the headers around a file were made for."""
    folder = path.parent
    header = folder / "include/generated/utsrelease.h"
    if header.is_file() and (match := _UTS.search(read_text(header))):
        return match[1]
    plain = folder / "include/config/kernel.release"
    if plain.is_file():
        return read_text(plain).strip()
    return folder.name.removeprefix("linux-headers-")
