"""Which units include a header: an index of all #include lines of a tree, followed upwards.

An include line is resolved generously: relative to the including file, by the kernel's include
directories, and, since Makefiles add directories of their own (`ccflags-y += -I...`), by any path
that ends in it. What this finds too much is dropped after compiling, when the compiler has told
which files it read.
"""

from __future__ import annotations

import functools
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..base import proc
from ..base.fs import atomic_write, read_text

# Where the compiler looks, in its order (LINUXINCLUDE in the top Makefile).
ROOTS = (
    "arch/x86/include",
    "arch/x86/include/generated",
    "include",
    "arch/x86/include/uapi",
    "arch/x86/include/generated/uapi",
    "include/uapi",
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
CONDITION = re.compile(r"^\s*#\s*(if|ifdef|ifndef|else|elif|endif)\b(.*)")
INCLUDE = re.compile(r"""^\s*#\s*include\s*[<"]([^>"]+)""")
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
        # Another header of that name that is found first: the line means that one.
        beside = posixpath.join(posixpath.dirname(file), written)
        if (self.root / beside).is_file():
            return False
        first = _first_root(self.root, tail)
        return first in ("", header[: -len(tail)].rstrip("/"))


@functools.lru_cache(maxsize=100_000)
def _first_root(tree: Path, name: str) -> str:
    """The include directory in which `<name>` is found; "" when it is in none."""
    return next((root for root in ROOTS if (tree / root / name).is_file()), "")


def index(tree: Path, cache: Path) -> IncludeIndex:
    """The include index of the tree, from `cache` or made by one pass (about 3 s) and kept."""
    if cache.exists():
        return parse_index(read_text(cache), tree)
    argv = ["grep", "-rEoI", "--include=*.[chS]", "--include=*.inc", "--include=*.lds", PATTERN]
    tops = [top for top in TOPS if (tree / top).is_dir()]
    text = proc.run([*argv, *tops], cwd=tree, check=False).stdout
    text = _without_user_space(tree, text)
    atomic_write(cache, text)
    return parse_index(text, tree)


def _without_user_space(tree: Path, text: str) -> str:
    """Drops the include lines of headers that only user space sees (`#ifndef __KERNEL__`).

    One of them, in uapi/linux/fs.h, would make every unit of the kernel include fscrypt.h.
    """
    roots = [root for root in ("include", "arch/x86/include") if (tree / root).is_dir()]
    found = proc.run(["grep", "-rlw", "__KERNEL__", *roots], cwd=tree, check=False).stdout
    hidden = {(file, name) for file in found.split() for name in user_space_includes(tree / file)}
    return "".join(
        line
        for line in text.splitlines(keepends=True)
        if not (match := LINE.match(line)) or (match.group(1), match.group(3)) not in hidden
    )


def user_space_includes(header: Path) -> set[str]:
    """What a header includes only where `__KERNEL__` is not defined."""
    hidden: set[str] = set()
    seen: set[str] = set()
    groups: list[bool | None] = []  # True: user space only, False: kernel only, None: both
    for line in read_text(header).splitlines():
        if match := CONDITION.match(line):
            word, rest = match.groups()
            if word == "endif":
                groups[-1:] = []
            elif word in ("else", "elif"):
                if groups:
                    last = groups[-1]
                    groups[-1] = not last if last is not None and word == "else" else None
            elif re.fullmatch(r"\s*(__KERNEL__|\(?defined\s*\(?__KERNEL__\)*)\s*(/\*.*)?", rest):
                groups.append(word == "ifndef")
            else:
                groups.append(True if re.match(r"\s*!\s*defined\s*\(?__KERNEL__", rest) else None)
        elif match := INCLUDE.match(line):
            (hidden if True in groups else seen).add(match.group(1))
    return hidden - seen


def parse_index(text: str, tree: Path) -> IncludeIndex:
    """Reads `FILE:#include <NAME>` lines."""
    lines: dict[str, list[tuple[str, str]]] = {}
    for file, _, written in LINE.findall(text):
        lines.setdefault(written.rpartition("/")[2], []).append((file, written))
    return IncludeIndex({name: tuple(found) for name, found in lines.items()}, tree)
