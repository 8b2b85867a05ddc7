"""The items that given functions need, and how each is to be written: whole, or declared only.

Starts with the functions that are to be replaced, and follows what the text of each item mentions,
as it will be written. So what an initializer needs that is not written is not needed either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..base.errors import RefusedError
from .names import mentions
from .names import tags as type_tags
from .statics import Outside, declaration, keep_locals, prototype, undefined
from .toplevel import Item, Kind, Preprocessed

_NAME, _TAG, _FORWARD, _MEMBER = "name", "tag", "forward", "member"
_DECLARED = "  /* only pointers to it are used */"
LocalOf = Callable[[str, str], Outside | None]


@dataclass(frozen=True)
class Wanted:
    """What is to be extracted.

    `replaced` are the functions that change, `carried` others that must be defined anew, `outside`
    what stays in the kernel. `local` tells for (function, static variable of it) the kernel's
    variable, None for one that is new.
    """

    replaced: tuple[str, ...]
    carried: frozenset[str]
    outside: Mapping[str, Outside]
    local: LocalOf


@dataclass(frozen=True)
class Written:
    """An item and the text that is written for it."""

    item: Item
    text: str


@dataclass(frozen=True)
class Extraction:
    """The items in order, and the private symbols that they use, by identifier."""

    written: tuple[Written, ...]
    symbols: Mapping[str, Outside] = field(default_factory=dict)


def extract(unit: Preprocessed, wanted: Wanted, *, whole_types: bool = False) -> Extraction:
    """The items that the wanted functions need. Raises RefusedError naming what has no way.

    A struct of which only pointers are used is declared, not defined, unless `whole_types`. Too
    little of it shows when the file is compiled; it never changes what the code means.
    """
    return _Closure(unit, wanted, whole_types).run()


class _Closure:
    """The worklist of (what, name): texts mention names, tags and members, which need items."""

    def __init__(self, unit: Preprocessed, wanted: Wanted, whole_types: bool) -> None:
        self.unit, self.wanted, self.whole_types = unit, wanted, whole_types
        self.copied = frozenset(wanted.replaced) | wanted.carried
        self.tables: dict[str, dict[str, list[Item]]] = {
            _NAME: defaultdict(list), _TAG: defaultdict(list), _FORWARD: defaultdict(list)
        }  # fmt: skip
        self.functions: dict[str, Item] = {}
        for item in unit.items:
            self._note(item)
        self.texts: dict[int, str] = {}
        self.pending: dict[str, list[Item]] = defaultdict(list)  # by member: types only declared
        self.symbols: dict[str, Outside] = {}
        self.seen: set[tuple[str, str]] = set()
        self.queue: list[tuple[str, str]] = []

    def _note(self, item: Item) -> None:
        for name in item.names:
            self.tables[_NAME][name].append(item)
        for tag in item.tags:
            self.tables[_TAG][tag].append(item)
        if item.kind is Kind.FUNCTION:
            self.functions[item.names[0]] = item
        elif item.kind is Kind.TYPE and not item.bodies:  # `struct x;`
            for tag in mentions(self.unit.source(item)).pointed:
                self.tables[_FORWARD].setdefault(tag, [item])

    def run(self) -> Extraction:
        for name in (*self.wanted.replaced, *sorted(self.wanted.carried)):
            if name not in self.functions:
                raise RefusedError(
                    f"the function '{name}' is not in the preprocessed unit under that name, so it "
                    "cannot be extracted",
                    hint="build without --from-source",
                )
            self._need(_NAME, name)
        while self.queue:
            what, name = self.queue.pop()
            for item in self.tables[what].get(name, ()) if what in self.tables else ():
                self._include(item)
            if what == _FORWARD:
                for item in self.tables[_TAG].get(name, ()):
                    self._declare(item)
            if what == _MEMBER:
                for item in self.pending.pop(name, ()):
                    self._include(item)
        for item in self.unit.items:
            if item.kind is Kind.PRAGMA and _matters(self.unit, item):
                self.texts[item.index] = self.unit.source(item)
        written = [Written(self.unit.items[i], self.texts[i]) for i in sorted(self.texts)]
        return Extraction(tuple(written), dict(sorted(self.symbols.items())))

    def _need(self, what: str, name: str) -> None:
        if (what, name) not in self.seen:
            self.seen.add((what, name))
            self.queue.append((what, name))

    def _include(self, item: Item) -> None:
        """Writes an item whole, once; what it mentions follows."""
        declared_only = self.texts.get(item.index, "").endswith(_DECLARED)
        if (item.index in self.texts and not declared_only) or item.start < self.unit.prelude:
            return
        text = self._text(item)
        self.texts[item.index] = text
        found = mentions(text, is_type=self._is_struct(item))
        for name in sorted(found.names):
            outside = self.wanted.outside.get(name)
            if outside is not None and outside.is_private and name not in self.copied:
                self.symbols[name] = outside
            self._need(_NAME, name)
        for tag in sorted(found.tags):
            self._need(_TAG, tag)
            self._need(_FORWARD, tag)
        for tag in sorted(found.pointed):
            self._need(_TAG if self.whole_types else _FORWARD, tag)
        for member in sorted(found.members):
            self._need(_MEMBER, member)

    def _declare(self, item: Item) -> None:
        """Declares a struct or union, until one of its members is used."""
        if item.index in self.texts or item.start < self.unit.prelude:
            return
        source = self.unit.source(item)
        members = mentions(source).names
        if (
            not self._is_struct(item)
            or item.names
            or any((_MEMBER, member) in self.seen for member in members)
        ):
            self._include(item)
            return
        words = [f"{word} {tag};" for word, tag, _ in type_tags(source) if tag and word != "enum"]
        self.texts[item.index] = " ".join(words) + _DECLARED
        for member in members:
            self.pending[member].append(item)

    def _is_struct(self, item: Item) -> bool:
        is_enum = self.unit.text.startswith("enum", item.start)
        return item.kind is Kind.TYPE and not is_enum and not self.whole_types

    def _text(self, item: Item) -> str:
        """How an item is written."""
        source = self.unit.source(item)
        name = item.names[0] if item.names else ""
        if item.kind is Kind.FUNCTION:
            if self._is_outside(name) and not _is_inline(self.unit.header(item)):
                return prototype(self.unit.header(item))
            return self._definition(item, name)
        if item.kind is not Kind.DECLARATION or source.startswith("extern "):
            return source
        stays = [self._is_outside(n) for n in item.names]
        if not any(stays):
            return source
        if name in self.functions:
            return source if _is_inline(source) else undefined(source)
        if not all(stays):
            raise RefusedError(
                f"one declaration has variables that the kernel has and new ones: "
                f"{', '.join(item.names)}",
                hint="declare the new ones apart",
            )
        return declaration(source, self.wanted.outside)

    def _is_outside(self, name: str) -> bool:
        return name in self.wanted.outside and name not in self.copied

    def _definition(self, item: Item, function: str) -> str:
        """A function that is written whole; static variables that the kernel has stay there."""

        def find(name: str) -> tuple[str, Outside] | None:
            outside = self.wanted.local(function, name)
            if outside is None:
                return None
            identifier = f"rebootless_{function}_{name}"
            self.symbols[identifier] = outside
            return identifier, outside

        header = self.unit.header(item)
        try:
            return f"{header}\n{keep_locals(self.unit.body(item), find)}"
        except RefusedError as exc:
            if exc.refusals:
                raise
            raise RefusedError(f"{function}(): {exc.message}", hint=exc.hint) from exc


def _is_inline(header: str) -> bool:
    return any(word in header.split() for word in ("inline", "__inline", "__inline__"))


def _matters(unit: Preprocessed, item: Item) -> bool:
    """Whether a pragma changes what is compiled, and not only which warnings are given."""
    words = unit.source(item).replace("#", " ").split()
    return "diagnostic" not in words[:3] and item.start >= unit.prelude
