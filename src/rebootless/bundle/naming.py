"""Names of patches: a patch's name is the name of its kernel module.

The kernel keeps a module's name in MODULE_NAME_LEN (64 - sizeof(unsigned long)) bytes with the
closing NUL, so 55 characters remain; a longer one fails at load time only, with no reason given.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from ..base.errors import PatchInputError

MAX_NAME = 55
# A patch named after its file could be called like a module of the kernel (ext4.patch).
PREFIX = "rebootless_"
_ALLOWED = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
_SUFFIXES = (".patch", ".diff", ".mbox", ".eml", ".txt", ".rlp", ".ko", ".c")


def check_name(name: str) -> str:
    """Returns `name` if a kernel module may be called so; raises PatchInputError otherwise."""
    if not name:
        raise PatchInputError("the name of a patch is empty", hint="give one with --name")
    if not _ALLOWED.fullmatch(name):
        bad = next(c for c in name if not _ALLOWED.fullmatch(c))
        raise PatchInputError(
            f"the patch name '{name}' has the character {bad!r}",
            hint=f"use letters, digits and underscores, e.g. '{name_from(name)}'",
        )
    if len(name) > MAX_NAME:
        raise PatchInputError(
            f"the patch name '{name}' has {len(name)} characters; the kernel allows {MAX_NAME}",
            hint="give a shorter one with --name",
        )
    return name


def name_from(text: str) -> str:
    """A legal name made of any text, such as a patch's file name ('0001-fix-x.patch')."""
    for suffix in _SUFFIXES:
        text = text.removesuffix(suffix)
    legal = re.sub(r"[^A-Za-z0-9]+", "_", text).strip("_")[:MAX_NAME].rstrip("_")
    return legal or "patch"


def default_name(file_name: str) -> str:
    """The name of a patch that was given none: 'fix.patch' -> 'rebootless_fix'."""
    return f"{PREFIX}{name_from(file_name)}"[:MAX_NAME].rstrip("_")


def short_name(name: str) -> str:
    """What people may call a patch: 'rebootless_fix' -> 'fix'."""
    return name.removeprefix(PREFIX) or name


def full_name(name: str, known: Collection[str]) -> str:
    """Which of the `known` patches `name` means, by its full or short name; else itself."""
    return name if name in known or PREFIX + name not in known else PREFIX + name
