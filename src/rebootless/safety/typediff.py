"""Which types differ between the original and the patched unit.

Types are compared by kind and name; one without a name at its place in the type around it. What
only one of the units has is no change: nothing in the running kernel was made with the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..types.btf import Btf, Kind
from ..types.declare import declare
from ..types.shape import BYTE, Shapes
from ..types.twins import COMPOSITE, ENUMS, Twins
from .members import compare_members, names_within
from .typechange import (
    WORDS,
    Cell,
    Effect,
    Key,
    Mark,
    PrototypeChange,
    Row,
    TypeChange,
    TypeChanges,
)


def compare_types(old: Btf, new: Btf) -> TypeChanges:
    """Compares the types of two builds of one unit; pure. Raises ElfError for damaged input."""
    if old.records == new.records and old.strings == new.strings:
        return TypeChanges()
    a, b = Shapes(old), Shapes(new)
    changes, prototypes = [], []
    for (word, name), ours, theirs in _different(old, new):
        if word == "function":
            if a.signature(old.targets[ours]) != b.signature(new.targets[theirs]):
                prototypes.append(_prototype(old, new, name, ours, theirs))
        else:
            changes.append(type_change(a, b, word, name, ours, theirs))
    found = [c for c in changes if c.effect is not Effect.NONE]
    found += _constants(old, new)
    return TypeChanges(
        tuple(sorted(_roots(found), key=lambda c: (-c.effect, c.word, c.name))),
        tuple(sorted((p for p in prototypes if p.old != p.new), key=lambda p: p.name)),
    )


def _different(old: Btf, new: Btf) -> Iterator[tuple[Key, int, int]]:
    """The pairs of definitions of one name that are not the same at first sight."""
    twins = Twins(old, new)
    theirs = definitions(new)
    for key, numbers in definitions(old).items():
        others = theirs.get(key, [])
        if len(numbers) == len(others) == 1:
            if not twins.same_definition(numbers[0], others[0]):
                yield key, numbers[0], others[0]
        elif others:  # several types of one name, in different functions say
            left = [n for n in numbers if not any(twins.same_definition(n, o) for o in others)]
            over = [o for o in others if not any(twins.same_definition(n, o) for n in numbers)]
            yield from ((key, a, b) for a, b in zip(left, over, strict=False))


def definitions(btf: Btf, *, functions: bool = True) -> dict[Key, list[int]]:
    """The types of a section by kind and name, without those of its base."""
    found: dict[Key, list[int]] = {}
    for kind, name, number in btf.named(functions=functions):
        found.setdefault((WORDS[kind], name), []).append(number)
    return found


def _prototype(old: Btf, new: Btf, name: str, ours: int, theirs: int) -> PrototypeChange:
    return PrototypeChange(
        name,
        declare(old, old.targets[ours], name),
        declare(new, new.targets[theirs], name),
    )


def type_change(a: Shapes, b: Shapes, word: str, name: str, ours: int, theirs: int) -> TypeChange:
    """How one type differs; its effect is NONE if it serves the same code as it was."""
    first, second = a.resolved(ours), b.resolved(theirs)
    kinds = a.btf.kinds[first], b.btf.kinds[second]
    own = word != "typedef" or (a.is_own(first) and b.is_own(second))
    if own and all(kind in COMPOSITE for kind in kinds) and kinds[0] == kinds[1]:
        return compare_members(a, b, word, name, first, second)
    if own and all(kind in ENUMS for kind in kinds):
        return _enum(a.btf, b.btf, word, name, first, second)
    same = a.signature(ours) == b.signature(theirs)
    texts = [declare(s.btf, s.btf.targets[n], name) for s, n in ((a, ours), (b, theirs))]
    sizes = [s.size(n) // BYTE for s, n in ((a, ours), (b, theirs))]
    cells = [Cell("", str(size), text) for size, text in zip(sizes, texts, strict=True)]
    return TypeChange(
        word,
        name,
        Effect.NONE if same else Effect.CHANGED,
        sizes[0],
        sizes[1],
        rows=(Row(Mark.OTHER, *cells),),
        contains=names_within(a.btf, a.btf.targets[ours]),
        by_parts_only=texts[0] == texts[1],
    )


def _enum(old: Btf, new: Btf, word: str, name: str, ours: int, theirs: int) -> TypeChange:
    before, after = dict(old.enumerators(ours)), dict(new.enumerators(theirs))
    sizes = old.size(ours), new.size(theirs)
    changed = any(n in after and after[n] != value for n, value in before.items())
    effect = Effect.CHANGED if changed or sizes[0] != sizes[1] else Effect.NONE
    kept = {v for n, v in before.items() if after.get(n) == v}
    if effect is Effect.NONE and set(before.values()) - kept:  # a value without any of its names
        effect = Effect.RENAMED
    rows = tuple(_enum_row(n, before.get(n), after.get(n)) for n in {**before, **after})
    return TypeChange(word, name, effect, sizes[0], sizes[1], rows)


def _enum_row(name: str, before: int | None, after: int | None) -> Row:
    mark = Mark.SAME if before == after else Mark.OTHER
    if before is None or after is None:
        mark = Mark.NEW if before is None else Mark.GONE
    old, new = (None if v is None else Cell("", "", f"{name} = {v}") for v in (before, after))
    return Row(mark, old, new)


def _constants(old: Btf, new: Btf) -> Iterator[TypeChange]:
    """Values of enums without a name: like those of a #define, unless a member is of the enum."""
    before, after = _pool(old), _pool(new)
    for name, (value, number) in sorted(before.items()):
        if name in after and after[name][0] != value:
            effect = Effect.CHANGED if _is_held(old, number) else Effect.CONSTANT
            row = _enum_row(name, value, after[name][0])
            yield TypeChange("enumerator", name, effect, 0, 0, (row,))


def _pool(btf: Btf) -> dict[str, tuple[int, int]]:
    """The enumerators of all enums without a name: value, and number of the enum."""
    kinds = btf.kinds
    own = [n for n in btf.numbers() if kinds[n] in ENUMS and not btf.type_name(n)]
    named = {btf.targets[n] for n in btf.numbers() if kinds[n] == Kind.TYPEDEF}
    return {
        name: (value, number)
        for number in own
        if number not in named  # else it is compared by the typedef's name
        for name, value in btf.enumerators(number)
    }


def _is_held(btf: Btf, number: int) -> bool:
    """Whether a member is of an enum."""
    composites = (n for n in btf.numbers() if btf.kinds[n] in COMPOSITE)
    return any(m.type == number for n in composites for m in btf.members(n))


def _roots(changes: list[TypeChange]) -> list[TypeChange]:
    """Takes types that change only because they contain another along with that one."""
    changed = {(c.word, c.name): c for c in changes if c.effect is Effect.CHANGED}
    also: dict[Key, list[str]] = {}
    taken: set[Key] = set()
    for key, change in changed.items():
        root, way = key, {key}
        while changed[root].by_parts_only:
            inner = sorted((changed[root].contains & changed.keys()) - way)
            if not inner:
                break
            root = inner[0]
            way.add(root)
        if root != key:
            also.setdefault(root, []).append(change.title)
            taken.add(key)
    return [
        replace(c, also=tuple(sorted(also.get((c.word, c.name), ()))))
        for c in changes
        if (c.word, c.name) not in taken
    ]
