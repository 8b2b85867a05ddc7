"""Extracted items as one C file that a person can read, change and build."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .closure import Extraction, Written
from .statics import Outside
from .toplevel import Kind, Origin, Preprocessed

_INDENT = re.compile(r"^ +", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*")
_GAPS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+(?=\n)")
_TRAILING = re.compile(r"[ \t]+$", re.MULTILINE)
_DEEPEST = 6  # tabs; what is deeper is the continuation of a line
HEAD = """\
/* SPDX-License-Identifier: GPL-2.0 */
/*
 * {title}
 *
 * What this live patch replaces in {unit} of Linux {release},
 * and what that needs, as the preprocessor gives it. Functions and variables that
 * do not change are only declared, and stay in the kernel. After a change, build
 * it with
 *
 *	rebootless build {name} --kernel {release}
 */
#include <rebootless_patch.h>

REBOOTLESS_UNIT("{unit}");
"""


@dataclass(frozen=True)
class Cover:
    """What the head of the file says: its name, the patch's title, the unit, the kernel.

    `macros` are those that the compiler's command line defines: they must not be expanded again.
    """

    name: str
    title: str
    unit: str
    object: str
    release: str
    macros: frozenset[str] = frozenset()


def render(unit: Preprocessed, found: Extraction, replaced: tuple[str, ...], cover: Cover) -> str:
    """The C file. Items keep their order; a comment says where each run of them is from."""
    parts = [
        HEAD.format(
            title=_harmless(cover.title),
            unit=cover.unit,
            release=cover.release,
            name=cover.name,
        )
    ]
    mentioned = {word for w in found.written for word in _WORD.findall(w.text)}
    undefined = sorted(mentioned & cover.macros)
    if undefined:
        parts.append("\n/* What follows is preprocessed: these are no macros any more. */\n")
    parts += [f"#undef {name}\n" for name in undefined]
    parts += _symbols(found.symbols, cover.object)
    before: Origin | None = None
    for written in found.written:
        origin = unit.origin(written.item)
        if before is None or before.file != origin.file or _stands_alone(written):
            parts.append(f"\n/* from {origin.file}:{origin.line} */\n")
        before = origin
        parts.append(tidy(written.text) + "\n")
        name = written.item.names[0] if written.item.names else ""
        if written.item.kind is Kind.FUNCTION and name in replaced:
            parts.append(f"REBOOTLESS_PATCH({cover.object}, {name}, {name});\n")
    return "".join(parts)


def _symbols(symbols: Mapping[str, Outside], owner: str) -> list[str]:
    if not symbols:
        return []
    lines = ["\n/* What is private to the unit; the positions are proven. */\n"]
    for identifier, outside in symbols.items():
        if identifier == outside.symbol:
            lines.append(f"REBOOTLESS_SYMBOL({owner}, {identifier}, {outside.position});\n")
        else:
            lines.append(
                f"REBOOTLESS_SYMBOL_AS({owner}, {identifier}, "
                f'"{outside.symbol}", {outside.position});\n'
            )
    return lines


def _stands_alone(written: Written) -> bool:
    return written.item.kind is Kind.FUNCTION and "{" in written.text


def tidy(text: str) -> str:
    """The preprocessor writes a space for each tab, and empty lines for comments."""
    text = _INDENT.sub(lambda found: "\t" * min(len(found[0]), _DEEPEST), text.strip())
    return _GAPS.sub("\n", _TRAILING.sub("", text))


def _harmless(text: str) -> str:
    """A text that cannot end the comment that it stands in."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\n", " ")
