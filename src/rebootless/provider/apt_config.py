"""The configuration of a private apt: what differs from the machine's own."""

from __future__ import annotations

import os
from pathlib import Path

from ..base.fs import atomic_write, os_failure

_CONFIG = """\
// Hooks of the machine's apt (caches, package managers) must not run for a private root.
#clear APT::Update;
#clear Acquire::IndexTargets;
#clear Dir::Etc::sourceparts;
Acquire::IndexTargets::{kind}::{index} {{
  MetaKey "$(COMPONENT)/{place}/{index}"; flatMetaKey "{index}";
  ShortDescription "{index}"; flatDescription "$(RELEASE) {index}";
  Description "$(RELEASE)/$(COMPONENT) {index}"; Optional "0";
}};
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::PDiffs "false";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
{sandbox}
Dir::State "{root}/state";
Dir::State::status "{root}/state/status";
Dir::State::lists "{root}/lists";
Dir::Cache "{root}/cache";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{root}/sources.list.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""

# Kind of a source entry -> the list that it has, and where that lies in a suite.
_INDEX = {"deb": ("Packages", "binary-$(ARCHITECTURE)"), "deb-src": ("Sources", "source")}


def write(root: Path, kind: str = "deb") -> Path:
    """Writes apt.conf and the directories that apt wants below `root`; the path of the former.

    `kind` tells which lists are fetched: "deb" or "deb-src". Raises ResourceError.
    """
    path = root / "apt.conf"
    # As root, apt drops to a user that may not enter root's cache directory.
    sandbox = 'APT::Sandbox::User "root";' if os.geteuid() == 0 else ""
    index, place = _INDEX[kind]
    text = _CONFIG.format(
        root=root.absolute(), sandbox=sandbox, kind=kind, index=index, place=place
    )
    try:
        for name in ("state", "lists/partial", "cache/archives/partial", "sources.list.d"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "state" / "status").touch()
        if path.is_file() and path.read_text() == text:
            return path
    except OSError as exc:
        raise os_failure("write", root, exc) from exc
    atomic_write(path, text)
    return path
