"""What a package's changelog says between two versions: titles of changes, and the CVEs they name.

Debian's changelog of the kernel lists each change of the stable series by its title:

    linux (6.1.192-1) bookworm-security; urgency=high

      * New upstream stable update:
        https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.1.191
        - nfsd: fix nfsd_file leak on inter-server COPY setup failure
          (CVE-2026-89680)
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..patch.source import CVE
from ..provider.packages import DebVersion
from .model import Entry

_SECTION = re.compile(r"^\S+ \(([^)\s]+)\) [^\n;]*;[^\n]*$", re.MULTILINE)
_BULLET = re.compile(r"^ +([-*+]) +(.*)$")
_BRACKET = re.compile(
    r"\s*\((?:Closes|LP|CVE-|XSA-|regression|thanks)[^)]*\)|\s*\[[^\]]*\]$", re.IGNORECASE
)
_TAG = re.compile(r"^(?:\[[\w,/ -]+\]\s+)+")  # [x86], [rt]: only these kernels are meant
_NO_CHANGE = re.compile(
    r"New upstream|https?://|Bump ABI|Refresh|Revert ABI|\[ |Drop |d/|debian/|Set ABI",
    re.IGNORECASE,
)


def entries(text: str, old: str, new: str) -> tuple[Entry, ...]:
    """The entries of the versions after `old`, up to `new`, newest first; each title once."""
    found: dict[str, Entry] = {}
    for version, body in _sections(text):
        if DebVersion(version) > DebVersion(new):
            continue
        if not DebVersion(old) < DebVersion(version):
            break
        for line in _bullets(body):
            entry = _entry(line, version)
            if entry is not None and entry.title not in found:
                found[entry.title] = entry
    return tuple(found.values())


def _sections(text: str) -> Iterator[tuple[str, str]]:
    heads = list(_SECTION.finditer(text))
    ends = [*(head.start() for head in heads[1:]), len(text)]
    for head, end in zip(heads, ends, strict=True):
        yield head[1], text[head.end() : end]


def _bullets(body: str) -> Iterator[str]:
    """The bullets of a section, each as one line."""
    words: list[str] = []
    for line in body.split("\n"):
        found = _BULLET.match(line)
        if found is not None or not line.strip() or line.startswith(" --"):
            if words:
                yield " ".join(words)
            words = [found[2].strip()] if found is not None else []
        elif words and not line.strip().startswith("http"):
            words.append(line.strip())
    if words:
        yield " ".join(words)


def _entry(line: str, version: str) -> Entry | None:
    title = _TAG.sub("", _BRACKET.sub("", line)).strip()
    if not title or _NO_CHANGE.match(title):
        return None
    return Entry(title, tuple(dict.fromkeys(CVE.findall(line))), version)
