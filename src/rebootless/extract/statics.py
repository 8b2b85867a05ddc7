"""Variables that stay where they are: definitions turned into `extern` declarations.

A variable of the unit that the kernel has keeps its value there, so the extracted code must not
define it anew. For a static variable of a function the declaration stays at its place, and an
assembler name ties it to the kernel's variable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..base.errors import RefusedError
from .names import ATTRIBUTE, declared, emptied, quiet, split

_LOCAL_START = re.compile(r"(?:(?<=[;{}:])|(?<=\s))static\s")
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|[(){}\[\];]')
_UNSIZED = re.compile(r"\[\s*\]")
_STORAGE = re.compile(r"\b(?:static|extern|register)\b\s*")
_INLINE = re.compile(r"\b(?:static|extern|__inline__|__inline|inline)\b\s*")
_ALIAS = re.compile(r"\b(?:__alias__|alias)\s*\(")


@dataclass(frozen=True)
class Outside:
    """A function or variable of the unit that stays in the kernel.

    `symbol` and `position` name it there; `size` is in bytes. `is_private` says that it must be
    declared with REBOOTLESS_SYMBOL.
    """

    symbol: str
    position: int
    size: int
    is_private: bool


def prototype(header: str) -> str:
    """The declaration of a function that is defined elsewhere, from its definition's header."""
    return f"extern {_INLINE.sub('', header).strip()};"


def undefined(text: str) -> str:
    """A declaration of a function without `static`."""
    return f"extern {_INLINE.sub('', text).strip()}"


def declaration(text: str, outside: Mapping[str, Outside]) -> str:
    """`extern` declarations instead of the definition of variables; without initializers.

    Raises RefusedError for what cannot be said so.
    """
    body = _STORAGE.sub("", text.rstrip().removesuffix(";"), count=1)
    lines = []
    parts = split(body)
    specifiers = _specifiers(parts[0])
    for number, part in enumerate(parts):
        whole = part if number == 0 else f"{specifiers} {part.strip()}"
        lines.append(f"extern {_without_value(whole, outside)};")
    return "\n".join(lines)


def _specifiers(first: str) -> str:
    """What the declarators of one declaration share: all before the first name and its stars."""
    head = _head(first)
    name = declared(f"{quiet(emptied(head))};")
    if not name:
        return ""
    return head[: head.rindex(name[0])].rstrip(" *(")


def _head(part: str) -> str:
    """A declarator without its initializer."""
    depth = 0
    for found in re.finditer(r'"(?:[^"\\\n]|\\.)*"|[(){}\[\]=]', part):
        if found[0] == "=" and depth == 0:
            return part[: found.start()].rstrip()
        depth += 1 if found[0] in "([{" else -1 if found[0] in ")]}" else 0
    return part.rstrip()


def _without_value(part: str, outside: Mapping[str, Outside]) -> str:
    """One declarator with its type: no initializer, and the size that the initializer gave."""
    head = _head(part).strip()
    names = declared(f"{emptied(head)};")
    if len(names) != 1:
        raise RefusedError(f"this declaration cannot be turned into an extern one: {head[:200]}")
    unsized = _UNSIZED.search(head)
    if unsized is not None and "=" in part:
        element = ATTRIBUTE.sub("", head.replace(unsized[0], "", 1))
        element = re.sub(rf"\b{names[0]}\b", "", element).strip()
        size = outside[names[0]].size
        head = head.replace(unsized[0], f"[{size} / sizeof({element})]", 1)
    return head


Find = Callable[[str], tuple[str, Outside] | None]


def keep_locals(body: str, find: Find) -> str:
    """A function's body in which static variables that the kernel has are those of the kernel.

    `find` tells for a variable's name the identifier to use and the kernel's variable, or None for
    one that is to stay as it is. Raises RefusedError for a declaration of both kinds.
    """
    parts, at = [], 0
    for found in _LOCAL_START.finditer(body):
        if found.start() < at or _in_string(body, found.start()):
            continue
        end = _end_of(body, found.start())
        statement = body[found.start() : end]
        names = declared(emptied(statement))
        known = {name: find(name) for name in names}
        if not any(known.values()):
            continue
        if not all(known.values()):
            raise RefusedError(
                "one declaration has static variables that the kernel has and new ones: "
                + ", ".join(names)
            )
        outside = {name: entry[1] for name, entry in known.items() if entry is not None}
        text = declaration(ATTRIBUTE.sub("", statement), outside)
        for name, entry in known.items():
            assert entry is not None
            text = _labelled(text, name, entry[0])
        parts += [body[at : found.start()], text]
        at = end
    return "".join([*parts, body[at:]])


def _labelled(text: str, name: str, identifier: str) -> str:
    """`extern int name;` -> `extern int name __asm__("identifier");`"""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if declared(emptied(line)) == (name,):
            lines[number] = f'{line.removesuffix(";")} __asm__("{identifier}");'
    return "\n".join(lines)


def _end_of(body: str, start: int) -> int:
    depth = 0
    for found in _TOKEN.finditer(body, start):
        if found[0] == ";" and depth == 0:
            return found.end()
        depth += 1 if found[0] in "([{" else -1 if found[0] in ")]}" else 0
    return len(body)


def _in_string(body: str, at: int) -> bool:
    line = body.rfind("\n", 0, at) + 1
    return body.count('"', line, at) % 2 == 1
