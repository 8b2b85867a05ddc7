"""openSUSE and SUSE Linux Enterprise: the source is a package that unpacks to a patched tree.

    kernel-default-6.4.0-150600.23.7.3.x86_64.rpm         vmlinuz, config, modules, symvers
    kernel-default-devel-6.4.0-150600.23.7.3.x86_64.rpm   Module.symvers, .config
    kernel-devel-6.4.0-150600.23.7.2.noarch.rpm           makefiles and headers  } of one tree,
    kernel-source-6.4.0-150600.23.7.2.noarch.rpm          the other files        } usr/src/linux-...

The last number counts rebuilds, which image and source have each on their own.
"""

from __future__ import annotations

import re

from .base import Facts, Usual

FLAVOURS = "default|azure|rt|vanilla|debug|kvmsmall|longterm"


class Suse:
    """See `base.Naming`."""

    title = "openSUSE or SUSE"

    def made(self, facts: Facts) -> bool:
        """By the vendor, or by the names of flavours."""
        named = re.match(rf"kernel-({FLAVOURS})(-base|-devel|-extra|-optional)?$", facts.name)
        return "suse" in facts.vendor.lower() or (facts.kind == "rpm" and named is not None)

    def built(self, compiler_text: str) -> bool:
        """Its compilers name SUSE."""
        return "SUSE" in compiler_text

    def usual(self, release: str) -> Usual:
        """As above; the flavour is the release's last part."""
        build, _, flavour = release.rpartition("-")
        return Usual(
            f"kernel-{flavour}-{build}.*.x86_64.rpm",
            f"kernel-{flavour}-{build}.*.x86_64.rpm (and kernel-{flavour}-extra-)",
            f"kernel-{flavour}-devel-{build}.*.x86_64.rpm",
            f"kernel-source-{build}.*.noarch.rpm and kernel-devel-{build}.*.noarch.rpm",
        )

    def same_source(self, image: Facts, source: Facts) -> bool:
        """The same version but for the count of rebuilds, where there is one."""
        return image.version == source.version or (
            image.version.rpartition(".")[0] == source.version.rpartition(".")[0]
        )

    def compiler_hint(self, program: str, version: str) -> str:
        """Compilers of several major versions are installed side by side."""
        return f"on that release, or in a container of it: zypper install {program}"
