"""Which of the compilers that suites offer is the one that built a kernel (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .packages import DebVersion, Package
from .toolchain import CompilerText, package_of


@dataclass(frozen=True)
class Offer:
    """A package with the wanted compiler version; `exact` when it is the very package."""

    package: str
    version: str
    suite: str
    exact: bool


def offers(packages: Iterable[Package], wanted: CompilerText) -> tuple[Offer, ...]:
    """The packages that hold the wanted compiler version."""
    name, revision = package_of(wanted.program), _revision(wanted)
    return tuple(
        Offer(p.name, p.version, p.suite, p.version == revision)
        for p in packages
        if p.name == name and DebVersion(p.version).upstream == wanted.version
    )


def nearest(found: Sequence[Offer], wanted: CompilerText) -> Offer | None:
    """The very package, else the next later revision of it, else the last earlier one."""
    exact = [offer for offer in found if offer.exact]
    if exact:
        return exact[0]
    limit = DebVersion(_revision(wanted) or "0")
    ordered = sorted(found, key=lambda offer: DebVersion(offer.version))
    later = [offer for offer in ordered if limit < DebVersion(offer.version)]
    return later[0] if later else ordered[-1] if ordered else None


def _revision(wanted: CompilerText) -> str:
    """The package version that a version line names: its last word ("Debian 14.2.0-19")."""
    return wanted.package.split()[-1] if wanted.package.split() else ""
