"""The members of a struct or union, before and after."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

from ..types.btf import Btf, Kind
from ..types.declare import declare
from ..types.shape import BYTE, Field, Shapes
from .typechange import WORDS, Cell, Effect, Key, Mark, Row, TypeChange

PADDING = re.compile(
    r"^_*(pad|padding|reserved|rsvd|resv|unused|spare|filler?|hole|kabi_reserved)_*\d*$", re.I
)


def compare_members(
    a: Shapes, b: Shapes, word: str, name: str, ours: int, theirs: int
) -> TypeChange:
    """How a struct or union differs. Types without a name belong to the type around them."""
    old, new = a.fields(ours), b.fields(theirs)
    size, size_after = a.btf.size(ours), b.btf.size(theirs)
    pairs = _paired(old, new)
    effect = max((_effect(x, y, old, new, size) for x, y in pairs), default=Effect.NONE)
    if size != size_after:
        effect = Effect.CHANGED
    said = [(f.name, declare(a.btf, f.type), f.is_bits and f.size) for f in old]
    said_after = [(f.name, declare(b.btf, f.type), f.is_bits and f.size) for f in new]
    return TypeChange(
        word,
        name,
        effect,
        size,
        size_after,
        rows=tuple(_row(a.btf, b.btf, x, y) for x, y in pairs),
        free=tuple(_free(old, size)),
        contains=frozenset().union(*(names_within(a.btf, f.type) for f in old)),
        by_parts_only=said == said_after,
    )


def _paired(
    old: tuple[Field, ...], new: tuple[Field, ...]
) -> list[tuple[Field | None, Field | None]]:
    """Members before and after, side by side in order; by name, then by place."""
    matcher = difflib.SequenceMatcher(
        None, [f.name for f in old], [f.name for f in new], autojunk=False
    )
    pairs: list[tuple[Field | None, Field | None]] = []
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag == "equal":
            pairs += zip(old[i:i_end], new[j:j_end], strict=True)
            continue
        rest = list(new[j:j_end])
        for ours in old[i:i_end]:
            same = next((f for f in rest if _bytes(f) == _bytes(ours)), None)
            pairs.append((ours, same))
            if same is not None:
                rest.remove(same)
        pairs += ((None, f) for f in rest)
    return pairs


def _bytes(f: Field) -> tuple[int, int, str]:
    return f.offset, f.size, f.signature


def _effect(
    ours: Field | None,
    theirs: Field | None,
    old: tuple[Field, ...],
    new: tuple[Field, ...],
    size: int,
) -> Effect:
    """What the change of one member does to code that knows the original type."""
    if ours is not None and theirs is not None:
        if _is_padding(ours):
            return Effect.NONE if _is_padding(theirs) else Effect.ADDED
        if _bytes(ours) == _bytes(theirs) and not _is_padding(theirs):
            return Effect.NONE if ours.name == theirs.name else Effect.RENAMED
        return Effect.CHANGED
    if ours is not None:
        kept = any(_bytes(f) == _bytes(ours) for f in new)  # by another name (struct_group)
        return Effect.NONE if _is_padding(ours) or kept else Effect.CHANGED
    assert theirs is not None
    if _is_padding(theirs):
        return Effect.NONE
    if any(_bytes(f) == _bytes(theirs) for f in old):
        return Effect.NONE
    end = theirs.offset + theirs.size
    if end > size * BYTE or (not theirs.size and theirs.offset >= size * BYTE):
        return Effect.CHANGED
    return Effect.ADDED


def _is_padding(f: Field) -> bool:
    return PADDING.match(f.name.rpartition(".")[2]) is not None


def _row(a: Btf, b: Btf, ours: Field | None, theirs: Field | None) -> Row:
    if ours is None or theirs is None:
        mark = Mark.NEW if ours is None else Mark.GONE
    elif (ours.name, ours.size, ours.signature) != (theirs.name, theirs.size, theirs.signature):
        mark = Mark.OTHER
    else:
        mark = Mark.SAME if ours.offset == theirs.offset else Mark.MOVED
    return Row(mark, ours and _cell(a, ours), theirs and _cell(b, theirs))


def _cell(btf: Btf, f: Field) -> Cell:
    text = declare(btf, f.type, f.name)
    if f.is_bits:
        return Cell(f"{f.offset // BYTE}:{f.offset % BYTE}", f"{f.size}b", f"{text}:{f.size}")
    return Cell(str(f.offset // BYTE), str(f.size // BYTE), text)


def _free(fields: tuple[Field, ...], size: int) -> Iterator[tuple[int, int]]:
    """The whole bytes of a type that no member but padding uses."""
    end = 0
    taken = sorted((f.offset, f.offset + f.size) for f in fields if not _is_padding(f))
    for start, after in (*taken, (size * BYTE, size * BYTE)):
        if -(-end // BYTE) < start // BYTE:
            yield -(-end // BYTE), start // BYTE
        end = max(end, after)


def names_within(btf: Btf, number: int) -> frozenset[Key]:
    """The named types that a member of this type has inside of it, not behind a pointer."""
    found: set[Key] = set()
    for _ in range(len(btf.kinds)):
        number = btf.plain(number)
        kind = btf.kinds[number]
        name = btf.type_name(number)
        if kind in WORDS and name:
            found.add((WORDS[Kind(kind)], name))
        if kind == Kind.TYPEDEF:
            number = btf.targets[number]
        elif kind == Kind.ARRAY:
            number = btf.array(number)[0]
        else:
            break
    return frozenset(found)
