"""Where the members of a struct are declared in C source, and a struct with members put elsewhere.

The order of a struct's members is only its layout: a new member may as well stand where the old
layout has bytes to spare. `with_members` takes the struct as it was before the patch and puts the
new declarations, as the patch has them, after other members. Nothing is parsed but what that takes;
whoever uses it compiles the result and looks at the layout that came of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BLANKED = re.compile(
    r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'
    |^[ \t]*\#(?:\\\n|[^\n])*""",
    re.DOTALL | re.VERBOSE | re.MULTILINE,
)
NESTED = re.compile(r"\([^()]*\)|\[[^][]*\]|\{[^{}]*\}")
POINTER_TO_FUNCTION = re.compile(r"\(\s*\*\s*(\w+)\s*(?:\[[^]]*\])?\s*\)\s*\(")
NAMED_BY_MACRO = re.compile(r"^\s*DECLARE_\w+\(\s*(\w+)|^\s*DEFINE_DMA_UNMAP_\w+\(\s*(\w+)")
LAST_WORD = re.compile(r"(\w+)\s*(?::.*)?$", re.DOTALL)
ATTRIBUTES = re.compile(r"(?<=\w|\]|\))\s+____?\w+\s*(?=$|,|\()|(?<=[\w)\]])\s+__\w+$")


@dataclass(frozen=True)
class Placement:
    """A new member of a struct, and the one after which there is room for it."""

    struct: str
    member: str
    after: str


@dataclass(frozen=True)
class _Statement:
    """A declaration in a struct: its text is at [start, end), the semicolon included."""

    start: int
    end: int
    names: tuple[str, ...]


def with_members(before: str, after: str, placements: Sequence[Placement]) -> str | None:
    """`after`, a file as patched, with its new members where `placements` say.

    `before` is the file without the patch. Returns `after` itself if it defines none of the
    structs, and None if a definition or a declaration is not found, or is not simple.
    """
    for struct in dict.fromkeys(p.struct for p in placements):
        ours, theirs = _body(before, struct), _body(after, struct)
        if theirs is None:
            continue
        wanted = [p for p in placements if p.struct == struct]
        made = _placed(before, ours, after, theirs, wanted) if ours else None
        if made is None:
            return None
        after = after[: theirs[0]] + made + after[theirs[1] :]
    return after


def _placed(
    before: str,
    ours: tuple[int, int],
    after: str,
    theirs: tuple[int, int],
    placements: Sequence[Placement],
) -> str | None:
    """The inside of a struct's braces: the old one with the new declarations."""
    places = {n: s.end for s in _statements(before, *ours) for n in s.names}
    found = {n: s for s in _statements(after, *theirs) for n in s.names}
    inserted: dict[int, str] = {}
    for placement in placements:
        statement = found.get(placement.member)
        place = places.get(placement.after)
        if statement is None or place is None:
            return None
        text = after[statement.start : statement.end]
        alone = {p.member for p in placements}.issuperset(statement.names)
        if not alone or re.search(r"^[ \t]*#", text, re.MULTILINE):
            return None
        if statement.names[0] == placement.member:  # `u8 a, b;` is one text
            inserted[place] = inserted.get(place, "") + " " + text
        places[placement.member] = place
    made, at = [], ours[0]
    for place, text in sorted(inserted.items()):
        made += [before[at:place], text]
        at = place
    return "".join([*made, before[at : ours[1]]])


def _body(text: str, struct: str) -> tuple[int, int] | None:
    """Where the inside of a struct's braces is; None if the text does not define it once."""
    blank = _blanked(text)
    found = list(re.finditer(rf"\bstruct\s+{re.escape(struct)}\s*(?:__\w+\s*)*\{{", blank))
    if len(found) != 1:
        return None
    end = _closing(blank, found[0].end())
    return None if end is None else (found[0].end(), end)


def _closing(blank: str, start: int) -> int | None:
    """Where the brace closes that was opened right before `start`."""
    depth = 1
    for match in re.compile(r"[{}]").finditer(blank, start):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return match.start()
    return None


def _blanked(text: str) -> str:
    """The text with spaces for comments, strings and directives."""
    return BLANKED.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def _statements(text: str, start: int, end: int) -> Iterator[_Statement]:
    """The declarations between two places; those in structs without a name as well.

    A union without a name counts as one: what was put into it would share its bytes.
    """
    blank = _blanked(text)
    at, depth, opened = start, 0, 0
    for match in re.compile(r"[{}();]").finditer(blank, start, end):
        if match[0] in "{(":
            opened = match.end() if not depth and match[0] == "{" else opened
            depth += 1
        elif match[0] in "})":
            depth -= 1
        elif not depth:
            first = at + len(blank[at : match.end()]) - len(blank[at : match.end()].lstrip())
            words = blank[first : match.start()]
            names = tuple(_names(words))
            inner: list[_Statement] = []
            if not names and opened > first:
                inner += _statements(text, opened, _closing(blank, opened) or opened)
            if inner and words.startswith("union"):
                names = tuple(name for statement in inner for name in statement.names)
                inner = []
            yield _Statement(first, match.end(), names)
            yield from inner
            at = match.end()


def _names(words: str) -> Iterator[str]:
    """The members that a declaration declares."""
    if macro := NAMED_BY_MACRO.match(words):
        yield macro[1] or macro[2]
        return
    if pointer := POINTER_TO_FUNCTION.search(NESTED.sub("", words) and words):
        yield pointer[1]
        return
    has_braces = "{" in words
    while NESTED.search(words):
        words = NESTED.sub(" ", words)
    words = words.replace("}", " ")
    if has_braces and len(words.split()) < 2:  # `struct { ... };`
        return
    for number, part in enumerate(words.split(",")):
        part = re.sub(r"\s+__\w+\s*$", "", re.sub(r"\s+____\w+\s*$", "", part.rstrip()))
        if (name := LAST_WORD.search(part)) and (number or len(part.split()) > 1):
            yield name[1]
