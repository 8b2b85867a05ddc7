"""The kernels of this machine: the running one, and those in /boot and /lib/modules."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..base import proc


@dataclass(frozen=True)
class InstalledKernel:
    """What is on this machine of one release; a part that is missing or unreadable is None.

    `version` is the package version, "" when no package owns it; `symvers` is there when the
    headers are installed.
    """

    release: str
    version: str
    image: Path | None
    config: Path | None
    modules: Path | None
    symvers: Path | None

    @property
    def complete(self) -> bool:
        """Whether image, configuration and modules can be taken from the machine itself."""
        return None not in (self.image, self.config, self.modules)


def running_release() -> str:
    """What `uname -r` prints."""
    return os.uname().release


def installed_kernels(root: Path = Path("/")) -> tuple[InstalledKernel, ...]:
    """Every kernel whose image or modules are under `root`, by release."""
    releases = {p.name.removeprefix("vmlinuz-") for p in (root / "boot").glob("vmlinuz-*")}
    for modules in (root / "lib/modules", root / "usr/lib/modules"):
        if modules.is_dir():
            releases |= {p.name for p in modules.iterdir() if (p / "kernel").is_dir()}
    releases = {r for r in releases if re.match(r"\d+\.\d+", r)}
    versions = _package_versions(root)
    return tuple(_look(root, r, versions.get(r, "")) for r in sorted(releases))


def installed_kernel(release: str, root: Path = Path("/")) -> InstalledKernel:
    """What is under `root` of this release; all parts are None when it is not installed."""
    return _look(root, release, _package_versions(root).get(release, ""))


def _look(root: Path, release: str, version: str) -> InstalledKernel:
    modules = root / "lib/modules" / release
    return InstalledKernel(
        release=release,
        version=version,
        image=_readable(root / f"boot/vmlinuz-{release}", modules / "vmlinuz"),
        config=_readable(root / f"boot/config-{release}", modules / "config"),
        modules=modules if (modules / "kernel").is_dir() else None,
        symvers=_readable(
            modules / "build/Module.symvers",
            root / f"usr/src/linux-headers-{release}/Module.symvers",
        ),
    )


def _readable(*paths: Path) -> Path | None:
    for path in paths:
        if path.is_file() and os.access(path, os.R_OK):
            return path
    return None


def _package_versions(root: Path) -> dict[str, str]:
    """Release -> version of the installed image package."""
    database = root / "var/lib/dpkg"
    if not (database / "status").is_file() or shutil.which("dpkg-query") is None:
        return {}
    form = "${db:Status-Abbrev}\t${Package}\t${Version}\n"
    argv = ["dpkg-query", f"--admindir={database}", "-W", "-f", form, "linux-image-*"]
    result = proc.run(argv, check=False)
    rows = (line.split("\t") for line in result.stdout.splitlines())
    return {
        r[1].removeprefix("linux-image-").removesuffix("-unsigned"): r[2]
        for r in rows
        if len(r) == 3 and r[0].startswith("ii")
    }
