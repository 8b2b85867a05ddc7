"""Packages put together into kernels: image, headers and source of one release and version."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .packages import DebVersion, Package

# Since 6.19 the image package only depends on the packages that hold its parts.
_IMAGE_PARTS = ("image", "binary", "base", "modules", "modules-extra")
_RELEASE_PACKAGE = re.compile(r"linux-image-(\d+\.\d+\.\d+\S*)")


@dataclass(frozen=True)
class KernelPackages:
    """The packages of one release at one version."""

    release: str
    version: str
    image: tuple[Package, ...]
    headers: Package | None
    source: Package | None
    suites: tuple[str, ...]


def group_packages(packages: Iterable[Package]) -> tuple[KernelPackages, ...]:
    """Puts packages together into kernels, by release and version, oldest first."""
    by_name: dict[tuple[str, str], Package] = {}
    suites: dict[tuple[str, str], list[str]] = {}
    for package in packages:
        key = (package.name, package.version)
        by_name.setdefault(key, package)
        suites.setdefault(key, []).append(package.suite)
    source = {v: p for (n, v), p in by_name.items() if n.startswith("linux-source-")}
    found = []
    for name, version in by_name:
        match = _RELEASE_PACKAGE.fullmatch(name)
        if match is None:
            continue
        release = match[1]
        parts = (by_name.get((f"linux-{part}-{release}", version)) for part in _IMAGE_PARTS)
        found.append(
            KernelPackages(
                release,
                version,
                tuple(p for p in parts if p is not None),
                by_name.get((f"linux-headers-{release}", version)),
                source.get(version),
                tuple(dict.fromkeys(suites[name, version])),
            )
        )
    return tuple(sorted(found, key=lambda k: order(k.release, k.version)))


def flavour(release: str) -> str:
    """The flavour of a release, e.g. "cloud-amd64" of 6.1.0-55-cloud-amd64."""
    return re.sub(r"^[\d.]+([-+][^-]*)?-", "", release)


def order(release: str, version: str) -> tuple[DebVersion, str]:
    """A key that sorts kernels from old to new."""
    known = version or re.sub(r"[^\d.].*", "", release)
    return DebVersion(known), release
