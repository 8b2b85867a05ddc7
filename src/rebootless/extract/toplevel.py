"""A preprocessed unit as a list of its file-scope items, in order, with where each comes from.

One pass over braces and semicolons: at depth 0 a semicolon ends an item, and so does the closing
brace of a function's body. Only what is asked for later is looked at more closely.
"""

from __future__ import annotations

import bisect
import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from .names import declared, enumerators, function_name, tags

_STRUCTURE = re.compile(r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\'|^#[^\n]*$|[{};]', re.MULTILINE)
_BLANK = re.compile(r"(?:\s+|^#[^\n]*$)*", re.MULTILINE)
_MARKER = re.compile(r'^# (\d+) "((?:[^"\\]|\\.)*)"([ \d]*)$', re.MULTILINE)
_PRAGMA = re.compile(r"^#\s*pragma[^\n]*$", re.MULTILINE)
_TYPE_BODY = re.compile(
    r"\b(?:struct|union|enum)\s*(?:__attribute__\s*\(\(.*?\)\)\s*)*(?:[A-Za-z_]\w*\s*)?"
    r"(?:__attribute__\s*\(\(.*?\)\)\s*)*$",
    re.DOTALL,
)
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*"')
_DIRECTIVE = re.compile(r"^#[^\n]*\n?", re.MULTILINE)
COMMAND_LINE = "<command-line>"


class Kind(enum.Enum):
    """What an item is."""

    FUNCTION = "function definition"
    DECLARATION = "declaration"
    TYPEDEF = "typedef"
    TYPE = "type"
    ASM = "asm"
    ASSERTION = "static assertion"
    PRAGMA = "pragma"


@dataclass(frozen=True)
class Item:
    """One item: text[start:end] of the unit. `body` is where its outermost braces are.

    `names` are the ordinary identifiers that it declares, enumerators included, `tags` the
    structs, unions and enums that it defines.
    """

    index: int
    start: int
    end: int
    kind: Kind
    bodies: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Where an item comes from: a file, relative to the source's top, and a line (from 1)."""

    file: str
    line: int


@dataclass(frozen=True)
class Preprocessed:
    """A preprocessed unit, split. `prelude` counts the items of headers of the command line."""

    text: str = field(repr=False)
    items: tuple[Item, ...] = field(repr=False)

    @cached_property
    def _markers(self) -> tuple[list[int], list[Origin]]:
        ends, origins = [], []
        for found in _MARKER.finditer(self.text):
            ends.append(found.end() + 1)
            name = found[2].removeprefix("./").removeprefix("./")
            origins.append(Origin(name, int(found[1])))
        return ends, origins

    @cached_property
    def prelude(self) -> int:
        """Where the unit itself begins, after the headers that the command line includes."""
        last = 0
        for found in _MARKER.finditer(self.text):
            if found[2] == COMMAND_LINE:
                last = found.end()
        return last

    def origin(self, item: Item) -> Origin:
        """Where an item comes from."""
        return self._origin_at(item.start)

    def last_line(self, item: Item) -> int:
        """The line on which an item ends, in its file."""
        return self._origin_at(item.end - 1).line

    def _origin_at(self, place: int) -> Origin:
        ends, origins = self._markers
        at = bisect.bisect_right(ends, place) - 1
        if at < 0:
            return Origin("", 1)
        line = origins[at].line + self.text.count("\n", ends[at], place)
        return Origin(origins[at].file, line)

    def source(self, item: Item) -> str:
        """An item's text without the line markers in it."""
        text = self.text[item.start : item.end]
        if item.kind is not Kind.PRAGMA and "\n#" in text:
            text = _DIRECTIVE.sub("", text)
        return text

    def header(self, item: Item) -> str:
        """What stands before a function's body."""
        return _DIRECTIVE.sub("", self.text[item.start : item.bodies[0][0]]).rstrip()

    def body(self, item: Item) -> str:
        """A function's body, braces included."""
        first, last = item.bodies[0]
        return _DIRECTIVE.sub("", self.text[first:last])


def split(text: str) -> Preprocessed:
    """Splits the output of the preprocessor (`gcc -E`, with line markers)."""
    items: list[Item] = []
    for start, end, kind, bodies in _items(text):
        names, constants, own_tags = _declares(text, start, end, kind, bodies)
        if kind is None:
            kind = _kind(text, start, bool(names))
        items.append(Item(len(items), start, end, kind, bodies, names + constants, own_tags))
    return Preprocessed(text, tuple(items))


_Raw = tuple[int, int, Kind | None, tuple[tuple[int, int], ...]]


def _items(text: str) -> Iterator[_Raw]:
    """(start, end, kind or None, outermost braces) of each item."""
    depth, opened, last = 0, 0, 0
    bodies: list[tuple[int, int]] = []
    is_function = False
    for found in _STRUCTURE.finditer(text):
        token = found[0]
        if token == "{":
            if depth == 0:
                opened = found.start()
                is_function = not bodies and _opens_function(text, last, opened)
            depth += 1
        elif token == "}":
            depth -= 1
            if depth == 0:
                bodies.append((opened, found.end()))
                if is_function:
                    yield _start(text, last), found.end(), Kind.FUNCTION, tuple(bodies)
                    last, bodies, is_function = found.end(), [], False
        elif token == ";":
            if depth == 0:
                start = _start(text, last)
                if start < found.start():
                    yield start, found.end(), None, tuple(bodies)
                last, bodies = found.end(), []
        elif (
            depth == 0
            and token[0] == "#"
            and _PRAGMA.match(token)
            and _start(text, last) >= found.end()
        ):
            yield found.start(), found.end(), Kind.PRAGMA, ()
            last = found.end()


def _start(text: str, last: int) -> int:
    found = _BLANK.match(text, last)
    return found.end() if found else last


def _opens_function(text: str, last: int, brace: int) -> bool:
    """Whether the brace at `brace` opens a function's body: not a type's, not an initializer."""
    head = text[last:brace].rstrip()
    if not head.endswith(")") and not head[-1:].isalnum() and not head.endswith("_"):
        return False  # `= {`, `({`
    return "(" in head and not _TYPE_BODY.search(head) and "=" not in _QUOTED.sub("", _plain(head))


def _plain(text: str) -> str:
    return _DIRECTIVE.sub("", text) if "#" in text else text


def _flat(text: str, start: int, end: int, bodies: tuple[tuple[int, int], ...]) -> str:
    """A declaration with its bodies emptied."""
    parts, at = [], start
    for first, last in bodies:
        parts += [text[at:first], "{}"]
        at = last
    return "".join([*parts, text[at:end]])


def _declares(
    text: str, start: int, end: int, kind: Kind | None, bodies: tuple[tuple[int, int], ...]
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """(names, constants of enums, tags) that an item declares."""
    if kind is Kind.PRAGMA:
        return (), (), ()
    if kind is Kind.FUNCTION:
        return (function_name(text[start : bodies[0][0]]),), (), ()
    flat = _flat(text, start, end, bodies)
    if flat.startswith(("asm", "__asm__", "_Static_assert", "static_assert")):
        return (), (), ()
    names = declared(flat)
    if not bodies:
        return names, (), ()
    own_tags: list[str] = []
    constants: list[str] = []
    whole = text[start:end]
    for word, tag, begin in tags(whole):
        if tag:
            own_tags.append(tag)
        if word == "enum":
            constants += enumerators(whole, begin)
    return names, tuple(constants), tuple(own_tags)


def _kind(text: str, start: int, has_names: bool) -> Kind:
    head = text[start : start + 16]
    if head.startswith("typedef"):
        return Kind.TYPEDEF
    if head.startswith(("asm", "__asm__")):
        return Kind.ASM
    if head.startswith(("_Static_assert", "static_assert")):
        return Kind.ASSERTION
    if head.startswith(("struct", "union", "enum")) and not has_names:
        return Kind.TYPE
    return Kind.DECLARATION
