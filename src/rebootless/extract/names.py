"""What a declaration declares, and what it mentions: identifiers and tags, by C's name spaces.

No parser of C: attributes, `asm` and `typeof` are taken out first, and what remains of a
declaration has its names in known places. Mentions are taken generously: a name too many in the
closure costs a line, a missing one does not compile.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NESTED = r"\((?:[^()]|\((?:[^()]|\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\))*\))*\)"
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_CHARACTER = r"'(?:[^'\\\n]|\\.)*'"
_NOISE = re.compile(
    rf"{_STRING}|^#[^\n]*$|\b(?:__attribute__|__attribute|asm|__asm__|__asm|_Alignas)\s*{_NESTED}"
    r"|\b(?:__extension__|volatile|__volatile__)\b",
    re.MULTILINE,
)
_TYPEOF = re.compile(rf"\b(?:typeof|__typeof__|__typeof|typeof_unqual)\s*{_NESTED}")
ATTRIBUTE = re.compile(rf"\b__attribute(?:__)?\s*{_NESTED}")
_TAG = re.compile(r"\b(struct|union|enum)\s+(?:__attribute__\s*" + _NESTED + r"\s*)*(\w+)?\s*\{")
_POINTER = re.compile(r"\(\s*\*[\s*]*(?:(?:const|__restrict|restrict)\s+)*(\w+)")
_WRAPPED = re.compile(r"\(\s*([A-Za-z_]\w*)\s*\)\s*\(")
_CALLED = re.compile(r"([A-Za-z_]\w*)\s*\((?!\s*\*)")
_LAST = re.compile(r"([A-Za-z_]\w*)\s*(?:\[|:|$)")
_BRACKETS = re.compile(r"[()\[\]{},]")
_BRACES = re.compile(rf"{_STRING}|{_CHARACTER}|[{{}}]")
_ANONYMOUS = re.compile(r"\b(?:struct|union|enum)\s*\{\}\s*")
_ENUMERATOR = re.compile(r"(?:^|,)\s*([A-Za-z_]\w*)")
_PARENTHESES = re.compile(r"\([^()]*\)")
_MENTION = re.compile(
    rf"{_STRING}|{_CHARACTER}|\.\.\.|(?:\.|->)\s*(?P<member>[A-Za-z_]\w*)"
    r"|\b(?:struct|union|enum)\s+(?:__attribute__\s*" + _NESTED + r"\s*)*(?P<tag>[A-Za-z_]\w*)"
    r"(?P<pointer>\s*(?:const\s*|volatile\s*)?\*|\s*;)?"
    r"|(?P<name>[A-Za-z_]\w*)|\.?\d[\w.]*|^#[^\n]*$",
    re.MULTILINE,
)
# A struct's members: before `;`, `:` or `[`, or `(*name)`; the width of a bit field is none.
_MEMBER_NAME = re.compile(
    r"(:\s*\w+)|(?<=\*)\w+(?=\))"
    r"|\b[A-Za-z_]\w*(?=\s*(?:__attribute__\s*" + _NESTED + r"\s*)*[;:\[])"
)
_WORDS = """
auto break case char const continue default do double else enum extern float for goto if inline int
long register restrict return short signed sizeof static struct switch typedef union unsigned void
volatile while _Bool _Static_assert _Alignas _Alignof _Noreturn _Generic asm typeof __inline
__inline__ __attribute__ __attribute __asm__ __volatile__ __const __signed__ __typeof__ __auto_type
__int128 __extension__ __restrict __builtin_va_list __alignof__ __label__ __func__
"""
KEYWORDS = frozenset(_WORDS.split())


def emptied(text: str) -> str:
    """The text with nothing between its outermost braces."""
    parts, depth, at = [], 0, 0
    for found in _BRACES.finditer(text):
        if found[0] == "{":
            depth += 1
            if depth == 1:
                parts.append(text[at : found.end()])
        elif found[0] == "}":
            depth -= 1
            if depth == 0:
                at = found.start()
    return "".join([*parts, text[at:]])


def quiet(text: str) -> str:
    """The text without attributes, asm, strings and line markers."""
    return _NOISE.sub(" ", text)


def function_name(header: str) -> str:
    """The name that a function definition defines; `header` ends before its body."""
    for found in _CALLED.finditer(_TYPEOF.sub(" ", quiet(header))):
        if found[1] not in KEYWORDS:
            return found[1]
    return ""


def declared(flat: str) -> tuple[str, ...]:
    """The names that a declaration declares; `flat` has empty braces for every body.

    `typedef`s, variables and prototypes: `int a, *b[3], (*c)(int), d(void) = 0;`
    """
    text = quiet(flat).rstrip(" ;\n\t")
    if "typeof" in text:
        text = _TYPEOF.sub("int", text)
    if "{" in text:
        text = _ANONYMOUS.sub("int ", text)
    names = []
    for number, chunk in enumerate(split(text)):
        head = chunk.partition("=")[0].replace("{}", " ").strip()
        name = _declarator(head)
        # `struct x;` declares no name; `x` alone in the first part is a type.
        if name and (number or not _is_tag_only(head)) and name not in KEYWORDS:
            names.append(name)
    return tuple(names)


def _is_tag_only(head: str) -> bool:
    words = head.split()
    return len(words) <= 2 and words[0] in ("struct", "union", "enum")


def _declarator(head: str) -> str:
    first = head.find("(")
    if first >= 0:
        pointer = _POINTER.search(head)
        if pointer is not None and pointer.start() <= first:
            return pointer[1]
        wrapped = _WRAPPED.match(head, first)
        if wrapped is not None:
            return wrapped[1]
        called = _CALLED.search(head)
        if called is not None and called[1] not in KEYWORDS:
            return called[1]
    found = _LAST.search(head)
    return found[1] if found else ""


def split(text: str) -> list[str]:
    """The parts of a declaration between its outer commas."""
    if "," not in text:
        return [text]
    parts, depth, start = [], 0, 0
    for found in _BRACKETS.finditer(text):
        if found[0] == ",":
            if depth == 0:
                parts.append(text[start : found.start()])
                start = found.end()
        else:
            depth += 1 if found[0] in "([{" else -1
    return [*parts, text[start:]]


def tags(text: str) -> Iterator[tuple[str, str, int]]:
    """Every struct, union and enum that `text` defines: kind, tag ("" for none), where its body
    begins."""
    for found in _TAG.finditer(text):
        yield found[1], found[2] or "", found.end()


def enumerators(text: str, begin: int) -> tuple[str, ...]:
    """The constants of the enum whose body begins at `begin`."""
    body = text[begin : text.index("}", begin)]
    body = quiet(body)
    while "(" in body and (less := _PARENTHESES.sub("", body)) != body:
        body = less
    return tuple(_ENUMERATOR.findall(body))


@dataclass(frozen=True)
class Mentions:
    """What a text mentions. A name after `.` or `->` is a member's.

    `pointed` are the tags of which it only has pointers, `tags` those that must be complete.
    """

    names: frozenset[str]
    tags: frozenset[str]
    pointed: frozenset[str]
    members: frozenset[str]


def mentions(text: str, *, is_type: bool = False) -> Mentions:
    """Everything that a text mentions; the names of a type's own members are left out."""
    if is_type:
        text = _MEMBER_NAME.sub(lambda found: found[1] or "0", text)
    names: set[str] = set()
    found_tags: set[str] = set()
    pointed: set[str] = set()
    members: set[str] = set()
    for found in _MENTION.finditer(text):
        match found.lastgroup:
            case "name":
                names.add(found["name"])
            case "tag":
                found_tags.add(found["tag"])
            case "pointer":
                pointed.add(found["tag"])
            case "member":
                members.add(found["member"])
            case _:
                pass
    return Mentions(
        frozenset(names - KEYWORDS),
        frozenset(found_tags),
        frozenset(pointed - found_tags),
        frozenset(members),
    )
