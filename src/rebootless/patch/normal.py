"""The same patch however it was made: LF line ends, paths under a/ and b/, and cut file by file.

Mailers and editors turn line ends into CR LF, `git diff --no-prefix` and `diff -u fs/x.c.orig
fs/x.c` write paths without a first component to strip, and quilt writes one file after the other
with nothing between them. What follows here reads one form only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# What is at the top of the kernel's source.
TOP_FOLDERS = frozenset(
    {
        "Documentation", "LICENSES", "arch", "block", "certs", "crypto", "drivers", "fs", "include",
        "init", "io_uring", "ipc", "kernel", "lib", "mm", "net", "rust", "samples", "scripts",
        "security", "sound", "tools", "usr", "virt",
    }
)  # fmt: skip
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_NAME = re.compile(rb"((?:---|\+\+\+) )([^\t\r\n]+)")
_GIT = re.compile(rb"diff --git (\S+) (\S+)$")
_START = (b"diff ", b"Index: ")
_NO_FILE = b"/dev/null"


@dataclass(frozen=True)
class Section:
    """The lines of a patch that are about one file; `names` is of its --- and +++ lines.

    The text before the first file is a section without names.
    """

    lines: tuple[bytes, ...]
    names: tuple[bytes, ...]

    @property
    def text(self) -> bytes:
        """The section as it stands in the patch."""
        return b"".join(self.lines)


def normal(text: bytes) -> bytes:
    """`text` with LF line ends and with a first path component to strip (`patch -p1`)."""
    if re.search(rb"(?m)^\+\+\+ [^\n]*\r$", text):
        text = text.replace(b"\r\n", b"\n")
    found = list(sections(text))
    if not _is_bare([name for section in found for name in section.names]):
        return text
    return b"".join(_prefixed(line, inside) for s in found for line, inside in _marked(s.lines))


def sections(text: bytes) -> Iterator[Section]:
    """Cuts a patch into its files. What a hunk contains is never taken for a header."""
    lines = re.findall(rb"[^\n]*\n|[^\n]+$", text)  # only LF ends a line
    starts = [0]
    named = True  # whether the present section has its --- line
    for i, (line, inside) in enumerate(_marked(lines)):
        if inside:
            continue
        if line.startswith(_START):
            begins = named or line.startswith(b"diff --git ")
            named = False
        elif line.startswith(b"--- ") and b"".join(lines[i + 1 : i + 2]).startswith(b"+++ "):
            begins = named
            named = True
        else:
            continue
        if begins:
            starts.append(i)
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        if start < end:
            part = tuple(lines[start:end])
            yield Section(part, _names(part))


def _marked(lines: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each line, and whether it is content of a hunk."""
    old = new = 0
    for line in lines:
        inside = old > 0 or new > 0
        yield line, inside
        if not inside:
            if match := _HUNK.match(line):
                old, new = (1 if n is None else int(n) for n in match.groups())
        elif not line.startswith(b"\\"):
            old -= not line.startswith(b"+")
            new -= not line.startswith(b"-")


def _names(lines: tuple[bytes, ...]) -> tuple[bytes, ...]:
    for i, line in enumerate(lines[:-1]):
        old, new = _NAME.match(line), _NAME.match(lines[i + 1])
        if old and new and old[1] == b"--- " and new[1] == b"+++ ":
            return old[2].strip(), new[2].strip()
    return ()


def _is_bare(names: list[bytes]) -> bool:
    """Whether paths begin at the top of the kernel's source, with nothing to strip.

    Every file must say so: `kernel/fs/x.c` is one of a tree that is called kernel.
    """
    found = [name.decode(errors="surrogateescape").split("/") for name in names if name != _NO_FILE]
    deep = [parts for parts in found if len(parts) > 1]
    return bool(deep) and all(
        first in TOP_FOLDERS and not (first == "kernel" and second in TOP_FOLDERS)
        for first, second, *_ in deep
    )


def _prefixed(line: bytes, inside: bool) -> bytes:
    """A header line with a/ and b/ before its paths; a line of a hunk as it is."""
    if inside:
        return line
    if (match := _NAME.match(line)) and match[2].strip() != _NO_FILE:
        side = b"a/" if match[1] == b"--- " else b"b/"
        return match[1] + side + line[len(match[1]) :]
    if match := _GIT.match(line.rstrip(b"\n")):
        return b"diff --git a/%s b/%s\n" % match.groups()
    if line.startswith(b"Index: "):
        return b"Index: a/" + line[len(b"Index: ") :]
    return line
