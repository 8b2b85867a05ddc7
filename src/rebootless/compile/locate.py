"""Which unit of a kernel defines a function: asked of the source tree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..base import proc
from ..base.errors import NotFoundError, PatchInputError
from ..base.fs import read_text
from .kbuild import Fate, Kbuild, Membership
from .tree import Tree

_SEARCHED = (
    "arch/x86", "block", "certs", "crypto", "drivers", "fs", "init", "io_uring", "ipc", "kernel",
    "include", "lib", "mm", "net", "security", "sound", "virt",
)  # fmt: skip
VMLINUX = "vmlinux"


def owner_of(unit: Membership) -> str:
    """What a unit is linked into: "vmlinux", or a module's name with underscores."""
    if unit.fate is not Fate.MODULE:
        return VMLINUX
    return unit.modules[0].rsplit("/", 1)[-1].replace("-", "_")


def defining_unit(tree: Tree, function: str, *, unit: str = "", owner: str = "") -> Membership:
    """The compiled unit that defines `function`: in `unit`, or of `owner`, when they are given.

    Raises NotFoundError (no unit, or none that this kernel compiles) and PatchInputError (several).
    """
    kbuild = Kbuild(tree.orig, tree.toolchain)
    if unit:
        return compiled_unit(tree, unit)
    files = _mentioning(tree.orig, function, "*.c")
    defining = [f for f in files if defines(read_text(tree.orig / f), function)]
    units = [m for m in map(kbuild.membership_if_built, defining) if m is not None]
    if owner:
        units = [m for m in units if owner_of(m) == owner] or units
    if len(units) == 1:
        return units[0]
    if units:
        listed = "".join(f"\n  {m.source}:{function}  ({owner_of(m)})" for m in units)
        raise PatchInputError(
            f"{len(units)} units define a function '{function}':{listed}",
            hint=f"say which, as in {units[0].source}:{function}",
        )
    raise _not_found(tree, function, defining)


def compiled_unit(tree: Tree, source: str) -> Membership:
    """What becomes of one unit. Raises NotFoundError when this kernel does not compile it."""
    if not (tree.orig / source).is_file():
        raise NotFoundError(
            f"the kernel's source has no file {source}",
            hint="a unit is named by its path from the top of the source, as in fs/proc/version.c",
        )
    found = Kbuild(tree.orig, tree.toolchain).membership_if_built(source)
    if found is None:
        raise NotFoundError(
            f"the kernel {tree.release} does not compile {source}",
            hint="the function is not a part of this kernel",
        )
    return found


def defines(text: str, function: str) -> bool:
    """Whether C code defines a function of that name (as a macro's argument does not count)."""
    start = rf"^(?![ \t#*/])[^;{{}}=\n]*(?:\n[^;{{}}=\n#]*)?\b{re.escape(function)}[ \t]*\("
    return any(
        re.match(r"\([^;{}]*\)[^;{}=()]*(?:\([^;{}]*\)[^;{}=()]*)*\{", text[found.end() - 1 :])
        for found in re.finditer(start, text, re.MULTILINE)
    )


def _mentioning(top: Path, word: str, pattern: str) -> Sequence[str]:
    folders = [name for name in _SEARCHED if (top / name).is_dir()]
    argv = ["grep", "-rlwF", f"--include={pattern}", "-e", word, *folders]
    return sorted(proc.run(argv, cwd=top, check=False).stdout.split())


def _not_found(tree: Tree, function: str, defining: Sequence[str]) -> NotFoundError:
    if defining:
        return NotFoundError(
            f"'{function}' is defined in {', '.join(defining[:3])}, which the kernel "
            f"{tree.release} does not compile"
        )
    headers = [
        f
        for f in _mentioning(tree.orig, function, "*.h")
        if defines(read_text(tree.orig / f), function)
    ]
    if headers:
        return NotFoundError(
            f"'{function}' is defined in the header {headers[0]}: the compiler puts it into the "
            "functions that call it",
            hint="replace the functions that call it, or write the change as a source patch",
        )
    return NotFoundError(
        f"no unit of the kernel's source defines a function '{function}'",
        hint="a function that a macro makes (SYSCALL_DEFINE and others) is changed by a source "
        "patch",
    )
