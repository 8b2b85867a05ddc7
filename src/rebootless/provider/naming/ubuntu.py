"""Ubuntu: image and modules are packages of their own, headers share a common package.

linux-image-unsigned-6.8.0-45-generic     vmlinuz   (linux-image-... is the same one, signed)
linux-modules-6.8.0-45-generic            configuration and the modules of most machines
linux-modules-extra-6.8.0-45-generic      the other modules
linux-headers-6.8.0-45-generic            Module.symvers; links into linux-headers-6.8.0-45
linux-source-6.8.0                        the source as a tarball, all patches applied
"""

from __future__ import annotations

import re

from .base import Facts, Usual, same_version


class Ubuntu:
    """See `base.Naming`."""

    title = "Ubuntu"

    def made(self, facts: Facts) -> bool:
        """Its packages say so, and only its image comes as an unsigned one that is installed."""
        unsigned = re.match(r"linux-(image-unsigned|modules-extra)-\d", facts.name) is not None
        return "ubuntu" in facts.vendor.lower() or (facts.kind == "deb" and unsigned)

    def built(self, compiler_text: str) -> bool:
        """Its compilers name it."""
        return "Ubuntu" in compiler_text

    def usual(self, release: str) -> Usual:
        """As above."""
        return Usual(
            f"linux-image-unsigned-{release} (or linux-image-{release})",
            f"linux-modules-{release} (and linux-modules-extra-{release})",
            f"linux-headers-{release}",
            f"linux-source-{release.partition('-')[0]}, of the very version of the image",
        )

    same_source = staticmethod(same_version)

    def compiler_hint(self, program: str, version: str) -> str:
        """By its package's version."""
        return f"on that Ubuntu release, or in a root of it: apt install {program}={version}"
