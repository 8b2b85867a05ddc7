"""Kernel packages, and compilers, out of apt's package lists.

A suite's list is up to 65 MB of text, nearly all of it about other packages. One regular
expression finds the kernel packages in 0.3 s, and what it found is kept beside the lists, so that
a list is read once per change and not once per run.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import total_ordering
from pathlib import Path

from debian.debian_support import Version

from ..base import proc
from ..base.fs import atomic_write, os_failure
from .sources import Source

# Everything a build may need: images (split into binary, base and modules since 6.19), headers
# and sources; and compilers. Debug, unsigned and common packages are of no use.
_STANZA = re.compile(
    rb"^Package: (linux-(?:image|binary|modules|modules-extra|base|headers|source)-\d\S*|gcc-\d+)\n"
    rb"((?:.+\n)*)",
    re.MULTILINE,
)
_UNWANTED = re.compile(r"-(dbg|unsigned|common|common-rt)$|^linux-(image|binary)-unsigned-")
_FORMAT = 3


@total_ordering
@dataclass(frozen=True, eq=True)
class DebVersion:
    """A Debian version string, ordered as Debian orders them (`1~rc1` < `1` < `1+b1`)."""

    text: str

    def __lt__(self, other: DebVersion) -> bool:
        return bool(Version(self.text) < Version(other.text))

    @property
    def upstream(self) -> str:
        """The part before the last dash, e.g. "6.1.192" of 6.1.192-2."""
        return self.text.partition(":")[2].rpartition("-")[0] or self.text.rpartition("-")[0]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Package:
    """A package that can be downloaded from `uri`; `size` and `installed_size` are in bytes."""

    name: str
    version: str
    architecture: str
    uri: str
    size: int
    installed_size: int
    sha256: str
    suite: str


@dataclass(frozen=True)
class ListFile:
    """One list on disk, and the source entry that it belongs to."""

    path: Path
    source: Source


def read_list(data: bytes, repo_uri: str, suite: str) -> list[Package]:
    """The kernel packages in the text of one Packages file."""
    found = []
    for match in _STANZA.finditer(data):
        name = match[1].decode()
        if _UNWANTED.search(name):
            continue
        fields: dict[str, str] = {}
        for line in match[2].decode(errors="replace").splitlines():
            if not line.startswith(" "):
                field, _, value = line.partition(":")
                fields[field] = value.strip()
        found.append(
            Package(
                name,
                fields["Version"],
                fields.get("Architecture", ""),
                f"{repo_uri.rstrip('/')}/{fields['Filename'].removeprefix('./')}",
                int(fields.get("Size", 0)),
                int(fields.get("Installed-Size", 0)) << 10,
                fields.get("SHA256", ""),
                suite,
            )
        )
    return found


def read_lists(
    lists: Iterable[ListFile], helper: str, index_path: Path
) -> dict[str, list[Package]]:
    """The kernel packages of each list, by the list's file name.

    `helper` is apt-helper, which unpacks any compression that apt uses. `index_path` keeps what
    was read; an entry there is used while the list's size and time are the same.
    """
    known = _load(index_path)
    result: dict[str, list[Package]] = {}
    entries: dict[str, object] = {}
    changed = False
    for item in lists:
        try:
            status = item.path.stat()
        except OSError as exc:
            raise os_failure("read", item.path, exc) from exc
        stamp = [_FORMAT, status.st_mtime_ns, status.st_size, item.source.uri, item.source.suite]
        entry = known.get(item.path.name)
        if isinstance(entry, dict) and entry.get("stamp") == stamp:
            packages = [Package(**p) for p in entry["packages"]]
        else:
            text = proc.run([helper, "cat-file", item.path]).stdout
            packages = read_list(text.encode(), item.source.uri, item.source.suite)
            changed = True
        result[item.path.name] = packages
        entries[item.path.name] = {"stamp": stamp, "packages": [asdict(p) for p in packages]}
    if changed or set(known) != set(entries):
        atomic_write(index_path, json.dumps(entries))
    return result


def _load(path: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(path.read_text())
        if isinstance(data, dict):
            return data
    return {}
