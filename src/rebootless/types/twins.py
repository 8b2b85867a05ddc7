"""Tells quickly which types of two sections are the same, so that only the others need a look.

Two descriptions of one unit differ in nothing but the numbers of types as long as no type changes.
A reference to a type with a name stands for whatever has that name, declared or defined: the
definitions are compared once each, and nothing goes round in circles. "Not the same" may still mean
the same to code (a typedef of another name, say); `shape` tells.
"""

from __future__ import annotations

import numpy as np

from .btf import Btf, Kind

MAX_DEPTH = 200  # anonymous types and pointers, one within another
COMPOSITE = (Kind.STRUCT, Kind.UNION)
ENUMS = (Kind.ENUM, Kind.ENUM64)
WRAPPERS = (Kind.PTR, Kind.CONST, Kind.VOLATILE, Kind.RESTRICT, Kind.TYPE_TAG)


class Twins:
    """Remembers which pairs of types are the same."""

    def __init__(self, old: Btf, new: Btf) -> None:
        self.old, self.new = old, new
        self._known: dict[tuple[int, int], bool] = {(0, 0): True}
        self._alike = _common(old.strings, new.strings)

    def same_definition(self, old: int, new: int, depth: int = 0) -> bool:
        """Whether two structs, unions, enums, typedefs or functions say the same.

        Names of parameters do not count. Raises ElfError for types that never end.
        """
        kind = self.old.kinds[old]
        if kind != self.new.kinds[new]:
            return False
        if kind in COMPOSITE:
            return self._same_members(old, new, depth)
        if kind in ENUMS:
            return self.old.size(old) == self.new.size(new) and (
                self.old.enumerators(old) == self.new.enumerators(new)
            )
        return self.same(self.old.targets[old], self.new.targets[new], depth + 1)

    def same(self, old: int, new: int, depth: int = 0) -> bool:
        """Whether two references are to the same type, types with a name being what they say."""
        pair = (old, new)
        known = self._known.get(pair)
        if known is None:
            if depth > MAX_DEPTH:
                raise self.old.broken(old, f"is one of more than {MAX_DEPTH} within another")
            self._known[pair] = True  # for one that contains itself, which only damage can cause
            known = self._known[pair] = self._compare(old, new, depth)
        return known

    def _compare(self, old: int, new: int, depth: int) -> bool:
        a, b = self.old, self.new
        kind, other = a.kinds[old], b.kinds[new]
        if kind != other:
            declared = Kind.FWD in (kind, other)
            return declared and self._tag(a, old) == self._tag(b, new) is not None
        if kind in WRAPPERS:
            return self.same(a.targets[old], b.targets[new], depth + 1)
        if kind == Kind.INT:
            return a.size(old) == b.size(new) and a.integer(old) == b.integer(new)
        if kind == Kind.ARRAY:
            (element, count), (inner, number) = a.array(old), b.array(new)
            return count == number and self.same(element, inner, depth + 1)
        if kind == Kind.FUNC_PROTO:
            return self._same_prototype(old, new, depth)
        name = a.type_name(old)
        if name != b.type_name(new):
            return False
        if kind == Kind.FWD:
            return a.is_flagged(old) == b.is_flagged(new)
        return bool(name) or self.same_definition(old, new, depth + 1)

    def _tag(self, btf: Btf, number: int) -> tuple[bool, str] | None:
        """What a struct or union is called, declared or defined."""
        kind = btf.kinds[number]
        if kind != Kind.FWD and kind not in COMPOSITE:
            return None
        is_union = btf.is_flagged(number) if kind == Kind.FWD else kind == Kind.UNION
        return is_union, btf.type_name(number)

    def _same_members(self, old: int, new: int, depth: int) -> bool:
        if self.old.size(old) != self.new.size(new):
            return False
        split, ours = self.old.raw_members(old)
        also_split, theirs = self.new.raw_members(new)
        rows, others = list(ours), list(theirs)
        if split != also_split or len(rows) != len(others):
            return False
        alike, known = self._alike, self._known
        for (text, kind, offset), (other_text, other, place) in zip(rows, others, strict=True):
            if offset != place:
                return False
            if (text != other_text or text >= alike) and (
                self.old.text(text) != self.new.text(other_text)
            ):
                return False
            if not known.get((kind, other)) and not self.same(kind, other, depth + 1):
                return False
        return True

    def _same_prototype(self, old: int, new: int, depth: int) -> bool:
        ours, theirs = self.old.parameters(old), self.new.parameters(new)
        return (
            len(ours) == len(theirs)
            and self.same(self.old.targets[old], self.new.targets[new], depth + 1)
            and all(self.same(a.type, b.type, depth + 1) for a, b in zip(ours, theirs, strict=True))
        )


def _common(old: bytes, new: bytes) -> int:
    """How many of the strings' bytes are the same in both, from the start to a string's end."""
    size = min(len(old), len(new))
    if old[:size] == new[:size]:
        return size
    a, b = (np.frombuffer(s, np.uint8, count=size) for s in (old, new))
    return old.rfind(b"\0", 0, int(np.nonzero(a != b)[0][0])) + 1
