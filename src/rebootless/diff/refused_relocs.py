"""Relocations that the kernel's module loader does not know, and what an author can do."""

from __future__ import annotations

from ..elf.constants import RELOC_WIDTH, Reloc
from .delta import Finding

# What the kernel's module loader knows (apply_relocate_add in arch/x86/kernel/module.c).
_LOADABLE = frozenset(RELOC_WIDTH) - {Reloc.GOTPCREL}
# The x86-64 psABI's numbers.
_THREAD_LOCAL = frozenset({16, 17, 18, 19, 20, 21, 22, 23, 34, 35, 36})
_GLOBAL_OFFSET_TABLE = frozenset({3, 9, 25, 26, 27, 28, 29, 30, 31, 41, 42})


def relocation_finding(kind: int, user: str, target: str) -> Finding | None:
    """The refusal of a relocation of type `kind` in `user` to `target`; None if it is known."""
    if kind in _LOADABLE:
        return None
    if kind in _THREAD_LOCAL:
        return Finding(
            "thread-local",
            target,
            f"'{user}' uses the thread-local variable '{target}', and the kernel has none: use a "
            "per-CPU variable, or a shadow variable of the task",
        )
    why = f"of type {kind}"
    if kind in _GLOBAL_OFFSET_TABLE:
        why = f"(type {kind}) through a global offset table"
    return Finding(
        "unsupported-relocation",
        user,
        f"'{user}' refers to '{target}' by a relocation {why}, which the kernel's module loader "
        "does not know: compile with the kernel's own options, and declare what is defined "
        "elsewhere without the weak attribute",
    )
