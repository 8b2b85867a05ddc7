"""Debian: one package holds image, configuration and modules (several since 6.19).

linux-image-6.1.0-50-amd64      vmlinuz, config, modules
linux-headers-6.1.0-50-amd64    Module.symvers
linux-source-6.1                the source as a tarball
"""

from __future__ import annotations

from .base import Facts, Usual, same_version


class Debian:
    """See `base.Naming`."""

    title = "Debian"

    def made(self, facts: Facts) -> bool:
        """Any deb: derivatives keep these names."""
        return facts.kind in ("deb", "dsc")

    def built(self, compiler_text: str) -> bool:
        """Its compilers name it."""
        return "Debian" in compiler_text

    def usual(self, release: str) -> Usual:
        """As above."""
        series = ".".join(release.split(".")[:2])
        image = f"linux-image-{release} (since 6.19 with linux-binary- and linux-modules-)"
        return Usual(image, image, f"linux-headers-{release}", f"linux-source-{series}")

    same_source = staticmethod(same_version)

    def compiler_hint(self, program: str, version: str) -> str:
        """By its package's version."""
        return f"apt install {program}={version}, on the Debian release that the kernel belongs to"
