"""The names a kernel goes by: release string, `Linux version` banner, module vermagic.

A release is an upstream version plus what the distribution appends:

    6.1.0-55-cloud-amd64           version 6.1.0, abi "55", flavour "cloud-amd64"
    6.12.117+deb12-cloud-amd64     version 6.12.117, abi "deb12", flavour "cloud-amd64"
    6.8.0-45-generic               version 6.8.0, abi "45", flavour "generic"
    5.14.0-427.13.1.el9_4.x86_64   version 5.14.0, abi "427.13.1.el9_4.x86_64", flavour ""
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..base.errors import PatchInputError

_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(.*)", re.DOTALL)
_LOCAL = re.compile(r"[-+]([0-9][^-]*|deb[^-]*|rc\d[^-]*)(?:-(.+))?")
_BANNER = re.compile(
    rb"Linux version (?P<release>[0-9]\S*) \((?P<builder>[^\n\0]*?)\) "
    rb"\((?P<compiler>[^\n\0]*)\) (?P<build>#[^\n\0]*)"
)


@dataclass(frozen=True)
class Release:
    """A release string taken apart; `text` is the whole."""

    text: str
    version: tuple[int, int, int]
    abi: str
    flavour: str

    @property
    def series(self) -> str:
        """Major and minor version, e.g. "6.1"."""
        return f"{self.version[0]}.{self.version[1]}"


@dataclass(frozen=True)
class Banner:
    """The `Linux version` line; `build` is the part from `#` on, with the distribution version."""

    text: str
    release: str
    compiler: str
    build: str


@dataclass(frozen=True)
class Vermagic:
    """A module's vermagic: the release it is for, and the build options that must agree."""

    release: str
    options: tuple[str, ...]


def parse_release(text: str) -> Release:
    """Takes a release string apart. Raises PatchInputError unless it starts with a version."""
    match = _RELEASE.fullmatch(text.strip())
    if match is None:
        raise PatchInputError(
            f"'{text}' is not a kernel release",
            hint="a release is what `uname -r` prints, e.g. 6.1.0-55-cloud-amd64",
        )
    major, minor, patch, rest = match.groups()
    local = _LOCAL.fullmatch(rest)
    abi, flavour = (local[1], local[2] or "") if local else ("", rest.lstrip("-+"))
    return Release(match[0], (int(major), int(minor), int(patch or 0)), abi, flavour)


def find_banner(data: bytes) -> Banner | None:
    """The first complete `Linux version` line in `data`, or None.

    Format strings ("Linux version %s") and truncated copies do not count.
    """
    match = _BANNER.search(data)
    if match is None:
        return None
    return Banner(
        match[0].decode(errors="replace"),
        match["release"].decode(errors="replace"),
        match["compiler"].decode(errors="replace"),
        match["build"].decode(errors="replace"),
    )


def parse_banner(text: str) -> Banner:
    """Takes `/proc/version` or an image's banner apart; raises PatchInputError."""
    banner = find_banner(text.encode())
    if banner is None:
        raise PatchInputError(f"not a 'Linux version' line: {text[:80]!r}")
    return banner


def parse_vermagic(text: str) -> Vermagic:
    """Takes a vermagic apart ("6.1.0-55-amd64 SMP preempt mod_unload modversions ")."""
    release, *options = text.split() or [""]
    return Vermagic(release, tuple(options))
