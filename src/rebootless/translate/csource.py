"""A C source file, not preprocessed, as a list of what it has at file scope, with line numbers.

Comments are blanked first. Then one pass over braces, parentheses, semicolons and directives, as in
extract/toplevel.py; but macros are still there, and so are both branches of each #if. Where a
branch leaves a brace open, the kernel's style mends it: what begins or ends in the first column is
at file scope.
"""

from __future__ import annotations

import bisect
import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..extract.names import declared, enumerators, function_name, tags

_COMMENT = re.compile(
    r'/\*.*?(?:\*/|\Z)|//(?:\\\n|[^\n])*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL
)
_STRING = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'')
_OUTER = re.compile(r"[{}();#]")  # what matters at file scope, and
_INNER = re.compile(r"[{}#]")  # within braces
_LINE = re.compile(r"(?:[^\n\\]|\\\n|\\.)*", re.DOTALL)  # with those that continue it
_TOKEN = re.compile(
    r'"(?:\\.|[^"\\\n])*"?|\'(?:\\.|[^\'\\\n])*\'?|[A-Za-z_]\w*|\.?\d[\w.]*|->|\.\.\.|\S'
)
_NAME = re.compile(r"[A-Za-z_]\w*\Z")
_DEFINE = re.compile(r"\s*#\s*define\s+(\w+)")
_BLANK = re.compile(r"(?:\s+|^[ \t]*#(?:[^\n\\]|\\\n|\\.)*)*", re.MULTILINE | re.DOTALL)
_DIRECTIVE = re.compile(r"\s*#\s*(\w*)")
_TRAILING = re.compile(r"\s\b__\w+\s*$")
_CALL = re.compile(r"(?:[a-z_]\w*\s+)*([A-Z][A-Z0-9_]*)\s*\(\s*([^()]*)")
_ANNOTATION = re.compile(
    r"\b__(?:printf|scanf|section|aligned|attribute__|must_hold|acquires|releases|malloc|counted_by"
    r"|assume_aligned|alloc_size|nonnull)\s*\((?:[^()]|\([^()]*\))*\)"
)
_DEFINES = re.compile(r"(?:.*_)?(?:DEFINE|DECLARE|LIST_HEAD|HEAD|MUTEX|IDA|IDR|RATELIMIT)")
_MEMBER = re.compile(r"([A-Za-z_]\w*)\s*(?:\[[^\]]*\]\s*)*(?=[;:,])|\(\s*\*\s*(\w+)\s*\)")


class What(enum.Enum):
    """What an item is."""

    FUNCTION = "function"
    MACRO = "macro"
    TYPE = "type"
    DATA = "data"
    DECLARATION = "declaration"
    CALL = "macro call"  # EXPORT_SYMBOL(x); module_init(x); TRACE_EVENT(...)
    INCLUDE = "include"
    OTHER = "other"


@dataclass(frozen=True)
class Item:
    """One item: lines `first` to `last` (1-based). `names` are what it declares or defines.

    `header` is what stands before its body, blanks folded; `inner` are members and enumerators.
    """

    what: What
    names: tuple[str, ...]
    first: int
    last: int
    header: str
    inner: tuple[str, ...] = ()
    is_static: bool = False

    @property
    def key(self) -> tuple[What, str]:
        """What makes two items of two versions the same one."""
        return self.what, self.names[0] if self.names else self.header[:80]


@dataclass(frozen=True)
class Source:
    """A file: its lines without comments, and its items in order."""

    code: tuple[str, ...]
    items: tuple[Item, ...]

    def touching(self, first: int, count: int) -> tuple[Item, ...]:
        """The items that `count` lines from `first` are in; for none, those that go on over it."""
        end = first + count - 1 if count else first - 1
        found = []
        for at in range(bisect.bisect_left(self.items, first, key=_last_line), len(self.items)):
            item = self.items[at]
            if item.first <= end:
                found.append(item)
            elif item.what not in (What.MACRO, What.INCLUDE, What.OTHER):
                break  # directives within an item come before it
        return tuple(found)


def _last_line(item: Item) -> int:
    return item.last


def without_comments(text: str) -> str:
    """The text with blanks in the place of comments; lines stay where they are."""

    def blank(found: re.Match[str]) -> str:
        token = found[0]
        return " " + "\n" * token.count("\n") if token[0] == "/" else token

    return _COMMENT.sub(blank, text)


def tokens(code: str) -> list[str]:
    """The tokens of code without comments. An end of line counts where a directive has it."""
    if "#" not in code:
        return _TOKEN.findall(code)
    found: list[str] = []
    for line in code.replace("\\\n", " ").split("\n"):
        words = _TOKEN.findall(line)
        found += [*words, "\n"] if words[:1] == ["#"] else words
    return found


def names(code: str) -> frozenset[str]:
    """Every identifier in code without comments; strings have none."""
    return frozenset(token for token in _TOKEN.findall(code) if _NAME.match(token))


def read(text: str) -> Source:
    """Splits a file."""
    code = without_comments(text)
    starts = [0, *(m.end() for m in re.finditer("\n", code))]
    items = tuple(_named(code, starts, *raw) for raw in _raw(code))
    items = tuple(item for item in items if item.header)
    return Source(tuple(code.split("\n")), items)


_Raw = tuple[int, int, list[tuple[int, int]], bool]


def _raw(code: str) -> Iterator[_Raw]:
    """(start, end, outermost braces, whether it is a directive) of each item."""
    bare = _STRING.sub(lambda found: " " * len(found[0]), code)
    depth = paren = 0
    last = opened = at = 0
    bodies: list[tuple[int, int]] = []
    is_function = False
    saved: list[tuple[int, int]] = []
    while (found := (_INNER if depth else _OUTER).search(bare, at)) is not None:
        token, at, end = found[0], found.start(), found.end()
        first_column = at == 0 or bare[at - 1] == "\n"
        if token == "#":
            begin = bare.rfind("\n", 0, at) + 1
            if bare[begin:at].strip():  # a `#` within a line
                at = end
                continue
            end = _line_end(bare, at)
            word = (_DIRECTIVE.match(bare, at) or found)[0].lstrip("# \t")
            if word in ("if", "ifdef", "ifndef"):
                saved.append((depth, paren))
            elif word in ("else", "elif") and saved:
                depth, paren = saved[-1]
            elif word == "endif" and saved:
                saved.pop()
            elif word == "define" or (depth == paren == 0 and not code[last:begin].strip()):
                yield begin, end, [], True
                last = last if word == "define" and code[last:begin].strip() else end
        elif token == "{":
            if first_column or (depth == 0 and paren == 0):
                depth = paren = 0
                opened, is_function = at, not bodies and _opens_function(code[last:at])
            depth += 1
        elif token == "}":
            depth = 0 if first_column else max(depth - 1, 0)
            paren = 0 if first_column else paren
            if depth == 0 and paren == 0:
                bodies.append((opened, end))
                if is_function:
                    yield last, end, bodies, False
                    last, bodies, is_function = end, [], False
        elif token == ";":
            if paren == 0:
                yield last, end, bodies, False
                last, bodies = end, []
        else:
            paren = max(0, paren + (1 if token == "(" else -1))
        at = end


def _line_end(code: str, at: int) -> int:
    found = _LINE.match(code, at)
    return found.end() if found else at


def _opens_function(head: str) -> bool:
    flat = _flat_directives(head).rstrip()
    if "(" not in flat or re.search(r"\b(?:struct|union|enum)\s*(?:\w+\s*)?$", flat):
        return False
    return "=" not in re.sub(r'"[^"\n]*"|[=!<>]=', "", flat) and not flat.endswith("(")


def _flat_directives(text: str) -> str:
    return re.sub(r"(?m)^[ \t]*#(?:[^\n\\]|\\\n|\\.)*", " ", text) if "#" in text else text


def _named(
    code: str, starts: list[int], start: int, end: int, bodies: list[tuple[int, int]], is_word: bool
) -> Item:
    """The item of one stretch of code."""
    if not is_word and (skipped := _BLANK.match(code, start, end)) is not None:
        start = skipped.end()
    text = code[start:end]
    first = bisect.bisect_right(starts, start)
    last = bisect.bisect_right(starts, max(end - 1, start))
    if is_word:
        return _directive(text, first, last)
    head_end = bodies[0][0] - start if bodies else len(text)
    header = " ".join(_flat_directives(text[:head_end]).split())
    is_static = header.startswith("static") or " static " in header[:40]
    plain = _ANNOTATION.sub(" ", header)
    if bodies and text.endswith("}"):
        return Item(What.FUNCTION, _function(plain), first, last, header, (), is_static)
    if (call := _CALL.match(plain)) is not None and not (bodies and "=" in plain[: call.end(1)]):
        return Item(What.CALL, _made(call[1], call[2]), first, last, header, (), is_static)
    return _declaration(text, plain, header, bodies, start, (first, last))


def _made(macro: str, arguments: str) -> tuple[str, ...]:
    """What a macro at file scope defines: DEFINE_MUTEX(x), TRACE_EVENT(x, ...)."""
    found = re.findall(r"[A-Za-z_]\w*", arguments)
    if macro.startswith(("TRACE_EVENT", "DEFINE_EVENT", "DECLARE_TRACE")):
        return tuple(f"trace_{name}" for name in found[:2])
    return tuple(found) if _DEFINES.match(macro) else ()


def _function(header: str) -> tuple[str, ...]:
    call = _CALL.match(header)
    if call is not None and call[2]:  # SYSCALL_DEFINE3(name, ...), BPF_CALL_2(name, ...)
        return (call[2].partition(",")[0].strip(), f"{call[1]}({call[2].partition(',')[0].strip()}")
    name = function_name(header)
    return (name,) if name else ()


def _directive(text: str, first: int, last: int) -> Item:
    header = " ".join(text.split())
    if (found := _DEFINE.match(text)) is not None:
        return Item(What.MACRO, (found[1],), first, last, header)
    word = (_DIRECTIVE.match(text) or [text, ""])[1]
    return Item(What.INCLUDE if word == "include" else What.OTHER, (), first, last, header)


def _declaration(
    text: str,
    plain: str,
    header: str,
    bodies: list[tuple[int, int]],
    start: int,
    lines: tuple[int, int],
) -> Item:
    """A type, a variable, a prototype."""
    is_static = header.startswith("static")
    parts, at = [], 0
    for begin, end in bodies:
        parts += [text[at : begin - start], "{}"]
        at = end - start
    flat = _ANNOTATION.sub(" ", _flat_directives("".join([*parts, text[at:]]))).rstrip("; \n\t")
    head, equals, rest = flat.partition("=")
    while (shorter := _TRAILING.sub("", head)) != head:
        head = shorter
    own = declared(head + equals + rest)
    is_type = header.startswith("typedef") or (
        bool(bodies) and not equals and bool(re.search(r"\b(?:struct|union|enum)\b", plain))
    )
    if not is_type:
        is_data = bool(equals) or bool(own and not flat.endswith(")") and "extern" not in plain)
        what = What.DATA if is_data else What.DECLARATION
        return Item(what, own, *lines, header, (), is_static)
    body = _flat_directives("".join(text[begin - start : end - start] for begin, end in bodies))
    own_tags: list[str] = []
    inner: list[str] = []
    for word, tag, begin in tags(_flat_directives(text)):
        own_tags += [tag] if tag else []
        if word == "enum":
            inner += enumerators(_flat_directives(text) + "}", begin)
    if not plain.startswith("enum"):
        inner += [a or b for a, b in _MEMBER.findall(_ANNOTATION.sub(" ", body))]
    return Item(What.TYPE, tuple(dict.fromkeys([*own_tags, *own])), *lines, header, tuple(inner))
