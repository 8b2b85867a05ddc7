"""What apt says when something fails, as errors that name the source or the package."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..base.errors import NotFoundError, RebootlessError, ResourceError
from .packages import Package
from .sources import Source


def problem_of(source: Source, output: str) -> str:
    """What apt's output says against `source`: one line, or "" when nothing does."""
    uri = source.uri.rstrip("/")
    marks = (f"{uri} {source.suite} ", f"{uri}/dists/{source.suite}/")
    for line in output.splitlines():
        if line.startswith(("E: ", "W: ")) and any(m in line for m in marks):
            return re.sub(r"^[EW]: (Failed to fetch \S+\s+)?", "", line).strip()
    return ""


def download_failure(packages: Sequence[Package], output: str) -> RebootlessError:
    """The error for a download that failed with `output`."""
    errors = [line for line in output.splitlines() if line.startswith(("E:", "W:"))]
    detail = "; ".join(re.sub(r"^[EW]: ", "", e) for e in errors) or output.strip()[-300:]
    gone = [p for p in packages if p.uri in output and re.search(r"\b(404|410)\b", output)]
    if gone:
        names = ", ".join(f"{p.name} {p.version}" for p in gone)
        return NotFoundError(
            f"{names} is gone from the archive: {detail}",
            hint="security suites drop old versions: refresh the lists and take a newer kernel "
            "(rebootless kernels --refresh)",
        )
    names = ", ".join(p.name for p in packages)
    if "o space left" in output:
        return ResourceError(f"no space left while downloading {names}", hint="free some space")
    if "ash Sum mismatch" in output:
        return ResourceError(
            f"{names}: what came is not what the signed list promises: {detail}",
            hint="a proxy or mirror is out of step; refresh the lists and try again",
        )
    return ResourceError(
        f"cannot download {names}: {detail}", hint="check the network and the proxy (http_proxy)"
    )
