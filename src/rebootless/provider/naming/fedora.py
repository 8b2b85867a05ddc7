"""Fedora and the distributions of Red Hat's family (CentOS Stream, RHEL, Alma, Rocky).

kernel-core-6.11.4-301.fc41.x86_64.rpm           vmlinuz, config, symvers
kernel-modules-core-..., kernel-modules-...      modules (also kernel-modules-extra)
kernel-devel-6.11.4-301.fc41.x86_64.rpm          Module.symvers, .config
kernel-6.11.4-301.fc41.src.rpm                   tarball and patches
"""

from __future__ import annotations

import re

from .base import Facts, Usual

VENDORS = re.compile(r"fedora|red hat|centos|alma|rocky|oracle", re.IGNORECASE)


class Fedora:
    """See `base.Naming`."""

    title = "Fedora or Red Hat's family"

    def made(self, facts: Facts) -> bool:
        """By the vendor, or by the names that only this family has."""
        own = re.match(r"kernel(-rt|-debug)?-(core|modules|modules-core|devel)$", facts.name)
        versioned = re.search(r"\.(fc|el)\d", facts.version)
        return bool(
            VENDORS.search(facts.vendor) or versioned or (own and "obs" not in facts.vendor)
        )

    def built(self, compiler_text: str) -> bool:
        """Its compilers name Red Hat."""
        return "Red Hat" in compiler_text

    def usual(self, release: str) -> Usual:
        """As above; the architecture is the release's last part."""
        build = release.removesuffix(".x86_64")
        return Usual(
            f"kernel-core-{build}.x86_64.rpm",
            f"kernel-modules-core-{build}.x86_64.rpm (and kernel-modules-)",
            f"kernel-devel-{build}.x86_64.rpm",
            f"kernel-{build}.src.rpm",
        )

    def same_source(self, image: Facts, source: Facts) -> bool:
        """Each rpm names the source rpm that it came out of."""
        return image.source == f"{source.name}-{source.version}.src.rpm"

    def compiler_hint(self, program: str, version: str) -> str:
        """By the version of its package, of which the version line has the end."""
        return f"on that release, or in a container of it: dnf install gcc-{version.split()[-1]}"
