"""What each block of a changed file is about: what it defines, takes away, changes and mentions.

Names are C's identifiers at file scope, members of types and constants of enums. A name *given* is
defined by the new file and not by the old one; one *taken* the other way round. A name is *altered*
when those who use it may have to be written otherwise (a prototype, a macro's parameters, a type),
and *reworked* when only its body changes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from . import csource
from .csource import Item, Source, What
from .model import Block, Change

_CONDITION = re.compile(r"^\s*#\s*(if|ifdef|ifndef|endif|else|elif)\b")
_MACRO_HEAD = re.compile(r"# ?define \w+(?:\([^)]*\))?")
_ACCESS = re.compile(r"(?:\.|->)\s*([A-Za-z_]\w*)")
_WORD = re.compile(r"[A-Za-z_]\w*")
_CALLED = re.compile(r"([A-Za-z_]\w*)\s*\(")
_ENDED = re.compile(r"(?:[;{}:]|^\s*#.*|^)\s*$")  # lines after which a statement begins
_STORED = re.compile(r"\.\s*([A-Za-z_]\w*)\s*=\s*&?\s*([A-Za-z_]\w*)\s*[,;}]")
_LONGEST = 12  # lines of a call, looked back for its name
_VARIABLES = (What.DATA, What.CALL)
SCOPED = (What.MACRO, What.TYPE)


@dataclass(frozen=True)
class Piece:
    """A block with what is known of it; `own` are the functions and macros that it is in.

    `says_old`, `says_new` are the identifiers of its lines. `mark` is not ("", "") where it opens
    or closes more than it did. `is_include` says that it only adds #include lines. `continues` are
    the functions whose calls begin on lines before, which stay.
    """

    path: str
    block: Block
    own: frozenset[tuple[What, str]]
    symbols: tuple[str, ...]
    gives: frozenset[str]
    takes: frozenset[str]
    alters: frozenset[str]
    reworks: frozenset[str]
    says_old: frozenset[str]
    says_new: frozenset[str]
    accesses: frozenset[str]
    local: frozenset[str]
    inner: Mapping[str, str]
    opens: int = 0
    conditions: int = 0
    is_include: bool = False
    uses: frozenset[str] = frozenset()
    around: frozenset[str] = frozenset()
    continues: frozenset[str] = frozenset()

    @property
    def defined(self) -> frozenset[str]:
        """All names that others may have to follow."""
        return self.gives | self.takes | self.alters


@dataclass(frozen=True)
class File:
    """A changed file in both versions, and its pieces; `idle` blocks change no token of code."""

    path: str
    old: Source
    new: Source
    pieces: tuple[Piece, ...]
    idle: tuple[Block, ...]

    @cached_property
    def old_names(self) -> frozenset[str]:
        """Every identifier of the old file."""
        return csource.names("\n".join(self.old.code))

    @cached_property
    def new_names(self) -> frozenset[str]:
        """Every identifier of the new file."""
        return csource.names("\n".join(self.new.code))

    @cached_property
    def stored(self) -> frozenset[tuple[str, str]]:
        """(member, name) wherever an initializer or assignment says `.member = name`."""
        return frozenset(_STORED.findall("\n".join((*self.old.code, *self.new.code))))


def examine(change: Change, old_text: str, new_text: str) -> File:
    """The facts of one changed C file."""
    old, new = csource.read(old_text), csource.read(new_text)
    versions = _Versions(old, new)
    pieces: list[Piece] = []
    idle: list[Block] = []
    shift = 0
    for block in sorted(change.blocks, key=lambda b: b.start):
        before = _code(old, block.start, len(block.old))
        after = _code(new, block.start + shift, len(block.new))
        if csource.tokens(before) == csource.tokens(after):
            idle.append(block)
        else:
            pieces.append(_piece(change.path, block, versions, shift, before, after))
        shift += len(block.new) - len(block.old)
    return File(change.path, old, new, tuple(pieces), tuple(idle))


def _code(source: Source, first: int, count: int) -> str:
    return "\n".join(source.code[first - 1 : first - 1 + count])


class _Versions:
    """Both versions of a file: what each defines."""

    def __init__(self, old: Source, new: Source) -> None:
        self.old, self.new = old, new
        self.old_items = _by_key(old)  # several where each branch of an #if has one
        self.new_items = _by_key(new)
        self.old_defines = {(i.what, n) for i in old.items for n in i.names}
        self.new_defines = {(i.what, n) for i in new.items for n in i.names}


def _by_key(source: Source) -> dict[tuple[What, str], list[Item]]:
    found: dict[tuple[What, str], list[Item]] = defaultdict(list)
    for item in source.items:
        found[item.key].append(item)
    return found


def _piece(
    path: str, block: Block, versions: _Versions, shift: int, before: str, after: str
) -> Piece:
    old_items = versions.old.touching(block.start, len(block.old))
    new_items = versions.new.touching(block.start + shift, len(block.new))
    says_old, says_new = csource.names(before), csource.names(after)
    own = frozenset(
        item.key for item in (*old_items, *new_items) if item.what in (What.FUNCTION, What.MACRO)
    )
    gives, takes = set[str](), set[str]()
    alters, reworks = set[str](), set[str]()
    inner: dict[str, str] = {}
    for item in new_items:
        gives |= {n for n in item.names if (item.what, n) not in versions.old_defines}
        _compare(item, versions.old_items.get(item.key, ()), alters, reworks)
    for item in old_items:
        takes |= {n for n in item.names if (item.what, n) not in versions.new_defines}
        _compare(item, versions.new_items.get(item.key, ()), alters, reworks)
    for item in _types(old_items, new_items):
        old_inner = _inner(versions.old_items.get(item.key, ()))
        new_inner = _inner(versions.new_items.get(item.key, ()))
        tag = item.names[0] if item.names else ""
        changed = {
            *((new_inner - old_inner) & says_new),
            *((old_inner - new_inner) & says_old),
            *(old_inner & new_inner & says_old & says_new),
        }
        gives |= (new_inner - old_inner) & says_new
        takes |= (old_inner - new_inner) & says_old
        alters |= old_inner & new_inner & says_old & says_new
        if not item.header.startswith(("enum", "typedef enum")):
            inner |= dict.fromkeys(changed, tag)
    every = (*old_items, *new_items)
    is_unit = path.endswith(".c")
    local = {n for i in every if _is_local(i, is_unit) for n in i.names}
    return Piece(
        path,
        block,
        own,
        tuple(dict.fromkeys(i.names[0] for i in every if i.names)),
        frozenset(gives),
        frozenset(takes),
        frozenset(alters),
        frozenset(reworks),
        says_old,
        says_new,
        frozenset(_ACCESS.findall(before + "\n" + after)),
        frozenset(local | (set(inner) if is_unit else set())),
        inner,
        _balance(after) - _balance(before),
        _conditions(after) - _conditions(before),
        bool(new_items) and not block.old and all(i.what is What.INCLUDE for i in new_items),
        _uses(before, after, versions),
        _around(versions.old, old_items) | _around(versions.new, new_items),
        _continued(versions.new, block.start + shift),
    )


def _continued(source: Source, first: int) -> frozenset[str]:
    """The functions called by the statement that line `first` goes on with.

    Example: the last line of `open(dir,\\n mode);` is changed, and `open` gets another prototype.
    """
    lines: list[str] = []
    for line in reversed(source.code[max(0, first - 1 - _LONGEST) : first - 1]):
        if _ENDED.search(line):
            break
        lines.append(line)
    return frozenset(_CALLED.findall("\n".join(reversed(lines))))


def _is_local(item: Item, is_unit: bool) -> bool:
    """Whether no other file can mean it: of a unit's own, or made by a macro of unknown ways."""
    return (is_unit and (item.is_static or item.what in SCOPED)) or item.what is What.CALL


def _types(old: Sequence[Item], new: Sequence[Item]) -> list[Item]:
    found = {item.key: item for item in (*old, *new) if item.what is What.TYPE}
    return list(found.values())


def _inner(items: Sequence[Item]) -> frozenset[str]:
    return frozenset(name for item in items for name in item.inner)


def _compare(item: Item, others: Sequence[Item], alters: set[str], reworks: set[str]) -> None:
    """Notes whether an item that both versions have changes for those who use it."""
    if not others or not item.names:
        return
    is_same = any(_head(item) == _head(other) for other in others)
    if item.what in (What.MACRO, What.FUNCTION):
        (reworks if is_same else alters).add(item.names[0])
    elif item.what in (What.DECLARATION, What.DATA) and not is_same:
        alters.update(item.names)


def _head(item: Item) -> str:
    """What those who use an item go by."""
    if item.what is What.MACRO:
        return (_MACRO_HEAD.match(item.header) or [item.header])[0]
    return item.header if item.what is What.FUNCTION else item.header.partition("=")[0].strip(" ;")


def _around(source: Source, items: Sequence[Item]) -> frozenset[str]:
    """The identifiers of the functions that a block is in."""
    ranges = [source.code[i.first - 1 : i.last] for i in items if i.what is What.FUNCTION]
    return frozenset[str]().union(*(csource.names("\n".join(lines)) for lines in ranges))


def _uses(before: str, after: str, versions: _Versions) -> frozenset[str]:
    """The file's own variables, and the members, that the lines use more or less than before."""
    own = {n for what, n in versions.old_defines | versions.new_defines if what in _VARIABLES}
    found: set[str] = set()
    for pattern, allowed in ((_WORD, own), (_ACCESS, None)):
        old, new = Counter(pattern.findall(before)), Counter(pattern.findall(after))
        changed = {name for name in old.keys() | new.keys() if old[name] != new[name]}
        found |= changed if allowed is None else changed & allowed
    return frozenset(found)


def _balance(code: str) -> int:
    found = csource.tokens(code)
    return sum(token in "({[" for token in found) - sum(token in ")}]" for token in found)


def _conditions(code: str) -> int:
    words = [m[1] for line in code.split("\n") if (m := _CONDITION.match(line))]
    return sum(1 if w.startswith("if") else -1 if w == "endif" else 0 for w in words)
