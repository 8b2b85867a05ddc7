"""A first version of a hand-written patch: the functions as they are in the source, and around them
what they need of their own unit.

Headers are included as the unit includes them. Of the unit's own file, what the functions mention
is copied in the words of the source; private functions and variables are only declared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..base.errors import RefusedError
from .closure import Extraction, Wanted, Written
from .names import mentions
from .render import tidy
from .statics import Outside, keep_locals
from .toplevel import Item, Kind, Preprocessed

_CONTINUED = re.compile(r"(?:\\\n|[^\n])*")
_ENDED = re.compile(r"[;}]\s*(?:/\*(?:[^*]|\*(?!/))*\*/\s*|//[^\n]*)?$")
_DIRECTIVE = re.compile(r"^[ \t]*#[ \t]*(\w+)", re.MULTILINE)
_DEFINED = re.compile(r"[ \t]*#[ \t]*(?:define|undef)[ \t]+(\w+)")
_OPENING = ("if", "ifdef", "ifndef")
# They change what headers mean, so the order counts; a tracepoint is defined by one unit only.
_ALWAYS, _NEVER = ("pr_fmt", "KMSG_COMPONENT"), ("CREATE_TRACE_POINTS",)
HEAD = """\
// SPDX-License-Identifier: GPL-2.0-only
/*
 * A live patch, written by hand, for {unit} of Linux {release}.
 *
 * Below are the functions as the kernel has them. Change them, and build it with
 *
 *	rebootless build {name} --kernel {release}
 *
 * REBOOTLESS_PATCH says which function of the kernel each replaces. The original
 * can be called by its own name. What is `static` here is new: the kernel has
 * none of it. A variable or function that is private to a unit of the kernel is
 * declared, and named by REBOOTLESS_SYMBOL.
 */
"""


@dataclass(frozen=True)
class Draft:
    """What a scaffold is for: the file's name, its unit, its object, the kernel's release."""

    name: str
    unit: str
    object: str
    release: str


def scaffold(
    unit: Preprocessed, found: Extraction, wanted: Wanted, source: str, draft: Draft
) -> str:
    """The C file; `source` is the unit's own text."""
    own = [w for w in found.written if unit.origin(w.item).file == draft.unit]
    replaced = [w for w in own if _is_replaced(w, wanted)]
    others = [w for w in own if not _is_replaced(w, wanted) and not _declares(w, wanted)]
    copied = [_in_source(unit, w, source, wanted) for w in others]
    bodies = [_in_source(unit, w, source, wanted) for w in replaced]
    parts = [HEAD.format(unit=draft.unit, release=draft.release, name=draft.name)]
    parts += [f"{line}\n" for line in _directives(source, "\n".join([*copied, *bodies]))]
    parts.append(f'#include <rebootless.h>\n\nREBOOTLESS_UNIT("{draft.unit}");\n')
    parts += _symbols(found, draft.object)
    if copied:
        parts.append("\n/* As in the unit. */\n")
    parts += [f"{text}\n" for text in dict.fromkeys(copied)]
    for written, text in zip(replaced, bodies, strict=True):
        name = written.item.names[0]
        line = unit.origin(written.item).line
        parts.append(f"\n/* {draft.unit}:{line}. Change it here. */\n")
        parts.append(f"{_renamed(text, name)}\n")
        parts.append(f"REBOOTLESS_PATCH({draft.object}, {name}, new_{name});\n")
    return "".join(parts)


def _is_replaced(written: Written, wanted: Wanted) -> bool:
    return written.item.kind is Kind.FUNCTION and written.item.names[0] in wanted.replaced


def _declares(written: Written, wanted: Wanted) -> bool:
    """Whether an item only declares functions that are replaced: those are `static` here."""
    names = written.item.names
    return bool(names) and set(names) <= set(wanted.replaced)


def _in_source(unit: Preprocessed, written: Written, source: str, wanted: Wanted) -> str:
    """An item in the words of the source, where they say the same; else as preprocessed."""
    item = written.item
    if item.kind is not Kind.FUNCTION and written.text != unit.source(item):
        return tidy(written.text)  # declared only
    if item.kind is Kind.FUNCTION and "{" not in written.text:
        return tidy(written.text)
    raw = _lines(unit, item, source)
    if raw.split()[:1] != unit.source(item).split()[:1] or not _ENDED.search(raw):
        return tidy(written.text)  # a macro makes it
    if item.kind is not Kind.FUNCTION:
        return raw
    head, brace, body = raw.partition("{")
    kept: set[str] = set()

    def find(name: str) -> tuple[str, Outside] | None:
        outside = wanted.local(item.names[0], name)
        if outside is not None:
            kept.add(name)
        return None if outside is None else (f"rebootless_{item.names[0]}_{name}", outside)

    try:
        text = head + keep_locals(brace + body, find)
    except RefusedError:
        return tidy(written.text)
    identifiers = re.findall(r'__asm__\("rebootless_\w+"\)', written.text)
    return text if len(set(identifiers)) == len(kept) else written.text


def _lines(unit: Preprocessed, item: Item, source: str) -> str:
    first, last = unit.origin(item).line, unit.last_line(item)
    return "\n".join(source.split("\n")[first - 1 : last])


def _renamed(text: str, name: str) -> str:
    """The definition under its new name; `static`, since nothing else calls it."""
    head, brace, body = text.partition("{")
    head = re.sub(rf"\b{name}\b(?=\s*\()", f"new_{name}", head, count=1)
    return ("" if re.search(r"\bstatic\b", head) else "static ") + head + brace + body


def _symbols(found: Extraction, owner: str) -> list[str]:
    lines = [
        f"REBOOTLESS_SYMBOL({owner}, {identifier}, {outside.position});\n"
        if identifier == outside.symbol
        else f'REBOOTLESS_SYMBOL_AS({owner}, {identifier}, "{outside.symbol}", '
        f"{outside.position});\n"
        for identifier, outside in found.symbols.items()
    ]
    return ["\n/* Private to the unit; declared below. */\n", *lines] if lines else []


def _directives(source: str, text: str) -> list[str]:
    """The `#include`s of the unit and the macros that `text` needs, with the conditions around."""
    directives = []
    for found in _DIRECTIVE.finditer(source):
        whole = _CONTINUED.match(source, found.start())
        directives.append((found[1], whole[0] if whole else found[0]))
    needed = _needed_macros([whole for word, whole in directives if word == "define"], text)
    kept = [(w, whole) for w, whole in directives if _is_kept(w, whole, needed)]
    return _without_empty(kept)


def _needed_macros(defines: Sequence[str], text: str) -> set[str]:
    names = set(mentions(text).names)
    while True:
        wider = names | {
            name
            for whole in defines
            if (found := _DEFINED.match(whole)) and found[1] in names
            for name in mentions(whole.partition(found[1])[2]).names
        }
        if wider == names:
            return names
        names = wider


def _is_kept(word: str, whole: str, needed: Iterable[str]) -> bool:
    if word == "include":
        return not whole.rstrip().endswith('.c"')
    if word in ("define", "undef"):
        found = _DEFINED.match(whole)
        name = found[1] if found else ""
        return name in _ALWAYS or (name in needed and name not in _NEVER)
    return word in (*_OPENING, "elif", "else", "endif")


def _without_empty(directives: Sequence[tuple[str, str]]) -> list[str]:
    """The directives without conditions around nothing."""
    stack: list[list[str]] = [[]]
    filled = [True]
    for word, whole in directives:
        if word in _OPENING:
            stack.append([whole])
            filled.append(False)
        elif word == "endif" and len(stack) > 1:
            lines, was_filled = [*stack.pop(), whole], filled.pop()
            if was_filled:
                stack[-1] += lines
                filled[-1] = True
        else:
            stack[-1].append(whole)
            filled[-1] |= word not in ("elif", "else")
    return stack[0]
