"""Which units include a header: an index of all #include lines of a tree, followed upwards.

An include line is resolved generously: relative to the including file, by the kernel's include
directories, and, since Makefiles add directories of their own (`ccflags-y += -I...`), by any path
that ends in it. What this finds too much is dropped after compiling, when the compiler has told
which files it read.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..base import proc
from ..base.fs import atomic_write, read_text

ROOTS = (
    "include",
    "arch/x86/include",
    "arch/x86/include/generated",
    "include/uapi",
    "arch/x86/include/uapi",
    "arch/x86/include/generated/uapi",
    "include/generated",
    "include/generated/uapi",
)
# Included by the command line of every unit.
EVERYWHERE = (
    "include/linux/compiler-version.h",
    "include/linux/kconfig.h",
    "include/linux/compiler_types.h",
)
TOPS = (
    "arch/x86", "block", "certs", "crypto", "drivers", "fs", "include", "init", "io_uring", "ipc",
    "kernel", "lib", "mm", "net", "security", "sound", "virt",
)  # fmt: skip
PATTERN = r'^[[:space:]]*#[[:space:]]*include[[:space:]]*[<"][^>"]+[>"]'
LINE = re.compile(r'^([^:\n]+):[^<"\n]*([<"])([^>"\n]+)', re.MULTILINE)


@dataclass(frozen=True)
class IncludeIndex:
    """Include lines by the last component of what they include: (including file, as written)."""

    lines: dict[str, tuple[tuple[str, str], ...]]
    root: Path

    def includers(self, header: str) -> frozenset[str]:
        """The files that (may) include `header` directly."""
        name = posixpath.basename(header)
        lines = self.lines.get(name, ())
        return frozenset(file for file, written in lines if self._may_be(file, written, header))

    def reach(self, headers: Iterable[str]) -> frozenset[str]:
        """All files that (may) include one of `headers`, directly or through others."""
        found: set[str] = set()
        waiting = list(headers)
        while waiting:
            for file in self.includers(waiting.pop()):
                if file not in found:
                    found.add(file)
                    waiting.append(file)
        return frozenset(found)

    def _may_be(self, file: str, written: str, header: str) -> bool:
        """Whether `written` in `file` can mean `header`."""
        if posixpath.normpath(posixpath.join(posixpath.dirname(file), written)) == header:
            return True
        tail = posixpath.normpath(written).lstrip("./")
        if header != tail and not header.endswith("/" + tail):
            return False
        prefix = header[: -len(tail)].rstrip("/")
        if prefix in ROOTS:
            return True
        # Another header of that name that is found first: the line means that one.
        beside = posixpath.join(posixpath.dirname(file), written)
        if (self.root / beside).is_file():
            return False
        return not any((self.root / root / tail).is_file() for root in ROOTS)


def index(tree: Path, cache: Path) -> IncludeIndex:
    """The include index of the tree, from `cache` or made by one pass (about 3 s) and kept."""
    if cache.exists():
        return parse_index(read_text(cache), tree)
    argv = ["grep", "-rEoI", "--include=*.[chS]", "--include=*.inc", "--include=*.lds", PATTERN]
    tops = [top for top in TOPS if (tree / top).is_dir()]
    text = proc.run([*argv, *tops], cwd=tree, check=False).stdout
    atomic_write(cache, text)
    return parse_index(text, tree)


def parse_index(text: str, tree: Path) -> IncludeIndex:
    """Reads `FILE:#include <NAME>` lines."""
    lines: dict[str, list[tuple[str, str]]] = {}
    for file, _, written in LINE.findall(text):
        lines.setdefault(written.rpartition("/")[2], []).append((file, written))
    return IncludeIndex({name: tuple(found) for name, found in lines.items()}, tree)
