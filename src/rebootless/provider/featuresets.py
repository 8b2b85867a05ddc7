"""Debian's feature sets: kernels whose source gets further patches before it is built.

The release of such a kernel has the feature set before its architecture (6.1.0-55-rt-amd64). The
package linux-source-X is without those patches; they are in debian/patches-rt of the source package
that it was made from, of which a small part is fetched:

    cache/featuresets/VERSION/debian/patches-FEATURESET/    series, and the patches

Where real-time is mainline (since 6.12) there are none, though the name has stayed.
"""

from __future__ import annotations

from pathlib import Path

from ..base import proc
from ..base.errors import NotFoundError, ResourceError
from ..base.events import Monitor, stage
from ..base.fs import atomic_write, filling_directory, locked, read_text
from . import apt_config
from . import sources as apt_sources
from .apt import AptArchive
from .catalog import flavour

NAMES = ("rt",)
TIMEOUT = 600.0  # seconds


def of(release: str) -> str:
    """The feature set of a release, e.g. "rt" of 6.1.0-55-rt-amd64; "" for a plain kernel."""
    first = flavour(release).partition("-")[0]
    return first if first in NAMES else ""


def has(cache: Path, version: str, features: str) -> bool:
    """Whether it is known which patches a feature set has at a version."""
    return not features or (cache / "featuresets" / version).is_dir()


def patches(cache: Path, version: str, features: str) -> tuple[Path, ...]:
    """The patches of a feature set in their order ("" has none)."""
    directory = cache / "featuresets" / version / "debian" / f"patches-{features}"
    return series(directory) if features and directory.is_dir() else ()


def series(directory: Path) -> tuple[Path, ...]:
    """The patches of a directory like debian/patches, in the order that its `series` gives."""
    listed = directory / "series"
    lines = read_text(listed).splitlines() if listed.is_file() else []
    names = (line.split()[0] for line in lines if line.strip() and not line.startswith("#"))
    return tuple(directory / name for name in names)


def fetch(archive: AptArchive, cache: Path, version: str, monitor: Monitor) -> None:
    """Gets what Debian's source package of a version adds to the kernel's own source.

    apt verifies it against the archive's signature. Raises NotFoundError when the archive does not
    have it (any more), ResourceError.
    """
    target = cache / "featuresets" / version
    with locked(target.with_name(f".{version}.lock")):
        if target.is_dir():
            return
        with (
            stage(monitor, "fetch-patches", f"Fetching the feature sets of {version}"),
            filling_directory(target) as aside,
        ):
            file = _download(archive, cache / "apt-sources", version, aside, monitor)
            proc.run(["tar", "-x", "-f", file, "-C", aside, "--wildcards", "debian/patches*"])
            file.unlink()


def _download(
    archive: AptArchive, root: Path, version: str, folder: Path, monitor: Monitor
) -> Path:
    """The .debian.tar of the source package. Raises as `fetch` does."""
    found = archive.packages(monitor)
    named = {p.name: p.suite for p in found if p.version == version and "-source-" in p.name}
    if not named:
        raise NotFoundError(f"the archive does not have the kernel source at version {version}")
    name, suite = next(iter(named.items()))
    config = apt_config.write(root, "deb-src")
    entries = apt_sources.render(archive.sources_of(suite), "deb-src")
    atomic_write(root / "sources.list.d/sources.sources", entries)
    proc.run(["apt-get", "-c", config, "-q", "update"], check=False, timeout=TIMEOUT)
    argv: list[str | Path] = ["apt-get", "-c", config, "-q", "source", "--download-only"]
    argv += ["--diff-only", f"{name}={version}"]
    result = proc.run(argv, cwd=folder, check=False, timeout=TIMEOUT)
    files = sorted(folder.glob("*.debian.tar.*"))
    if result.returncode or len(files) != 1:
        said = [line for line in result.stderr.splitlines() if line.startswith("E: ")]
        detail = said[0].removeprefix("E: ") if said else "it has no .debian.tar"
        missing = "404" in detail or "Unable to find" in detail
        raise (NotFoundError if missing else ResourceError)(
            f"the source package of {name} {version}, which has the patches of the feature sets, "
            f"cannot be had: {detail}",
            hint="take an older kernel, whose source package is in the archive",
        )
    return files[0]
