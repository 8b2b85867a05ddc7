"""Debian's feature sets: kernels whose source gets further patches before it is built.

The release of such a kernel has the feature set before its architecture (6.1.0-55-rt-amd64), and
the source package comes with its patch beside the tarball (linux-patch-6.1-rt.patch.xz). Where the
real-time patches are mainline there may be none, though the name has stayed.
"""

from __future__ import annotations

from pathlib import Path

from ..base.fs import atomic_write
from .catalog import flavour

NAMES = ("rt",)
_KEPT = ".featuresets"  # in a directory that keeps patches: those of older versions did not


def of(release: str) -> str:
    """The feature set of a release, e.g. "rt" of 6.1.0-55-rt-amd64; "" for a plain kernel."""
    first = flavour(release).partition("-")[0]
    return first if first in NAMES else ""


def keep(directory: Path) -> tuple[str, ...]:
    """Moves the patches of an unpacked source package to its top; the names that are to stay."""
    names = []
    for path in sorted(directory.glob("usr/src/linux-patch-*.patch.*")):
        path.rename(directory / path.name)
        names.append(path.name)
    atomic_write(directory / _KEPT, "\n".join(names))
    return (*names, _KEPT)


def has(directory: Path, features: str) -> bool:
    """Whether a directory that `keep` arranged can tell which patches a feature set has."""
    return not features or (directory / _KEPT).exists()


def patches(directory: Path, features: str) -> tuple[Path, ...]:
    """The patches of a feature set ("" has none)."""
    return tuple(sorted(directory.glob(f"linux-patch-*-{features}.patch.*"))) if features else ()
