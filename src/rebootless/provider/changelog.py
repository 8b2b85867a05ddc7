"""The changelog of a source package, out of the smallest package that was built with it.

The package of the source itself has none; the headers of each flavour do, and are small.
"""

from __future__ import annotations

import gzip
import tempfile
import zlib
from pathlib import Path

from ..base.errors import NotFoundError
from ..base.events import Monitor, NullMonitor, stage
from ..base.fs import atomic_write, locked, os_failure, read_text
from . import deb
from .debian import DebianProvider

_PLACE = ("./usr/share/doc/*/changelog.Debian.gz",)


def changelog_of(provider: DebianProvider, version: str, monitor: Monitor | None = None) -> str:
    """The changelog as of this version of the source package; kept in the cache.

    Raises NotFoundError when the archive has no package of that version with a changelog,
    ResourceError for network and disk.
    """
    monitor = monitor or NullMonitor()
    kept = provider.cache / "updates" / f"{version}.changelog"
    with locked(kept.with_name(f".{kept.name}.lock")):
        if kept.exists():
            return read_text(kept)
        text = _fetched(provider, version, monitor)
        atomic_write(kept, text)
        return text


def _fetched(provider: DebianProvider, version: str, monitor: Monitor) -> str:
    headers = {
        kernel.headers.name: kernel.headers
        for kernel in provider.offered(monitor)
        if kernel.version == version and kernel.headers is not None
    }
    if not headers:
        raise NotFoundError(
            f"the archive has no headers of version {version}, which would have its changelog",
            hint="take a version that `rebootless kernels` marks buildable",
        )
    package = min(headers.values(), key=lambda p: p.size)
    title = f"Fetching the changelog of {version}"
    with (
        stage(monitor, "changelog", title) as report,
        tempfile.TemporaryDirectory(prefix="rebootless-changelog-") as name,
    ):
        aside = Path(name)
        for file in provider.archive.download((package,), aside, report, lambda: False):
            deb.extract(file, aside, only=_PLACE)
            file.unlink()
        found = sorted(aside.rglob("changelog.Debian.gz"))
        if not found:
            raise NotFoundError(f"{package.name} {version} holds no changelog")
        text = _unpacked(found[0])
        report.result = f"{package.size / 2**20:.1f} MiB"
        return text


def _unpacked(path: Path) -> str:
    try:
        return gzip.decompress(path.read_bytes()).decode(errors="replace")
    except OSError as exc:
        raise os_failure("read", path, exc) from exc
    except (EOFError, zlib.error) as exc:
        raise NotFoundError(f"{path.name} is damaged: {exc}") from exc
