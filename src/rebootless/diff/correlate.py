"""Which atom of the patched object is which atom of the original.

Ordered levels, the safest first; an atom taken by one level is out of the next:

1. same name, for names that the source chose:       `vfs_read` = `vfs_read`
2. same name but for clone numbers:                  `foo.isra.2` = `foo.isra.0`
3. static locals through the functions using them:   `count.12` in f = `count.9` in f
4. pool content:                                     "text" = "text"
5. symbol-less sections by section name.

Level 3 pairs within one function and base name, never by number. Where a function uses several
statics of one name and their count changed, only equal (size, content) pairs are safe; what is
left is reported as ambiguous.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .names import fold, is_special_static, static_local_base
from .normalize import I64, NO_ATOM, POOLED, Atom, Kind, Unit


@dataclass(frozen=True)
class Correlation:
    """`to_patched[i]` is the patched atom of original atom i, `to_orig` the way back (or -1).

    `ambiguous` names static locals that could not be told apart.
    """

    to_patched: I64
    to_orig: I64
    ambiguous: tuple[str, ...]


class _Pairs:
    def __init__(self, orig: Unit, patched: Unit) -> None:
        self.orig, self.patched = orig, patched
        self.to_patched = np.full(len(orig.atoms), NO_ATOM, np.int64)
        self.to_orig = np.full(len(patched.atoms), NO_ATOM, np.int64)

    def add(self, a: Atom, b: Atom) -> bool:
        """Pairs two atoms; False if one of them already has another partner."""
        if self.to_patched[a.index] == b.index:
            return True
        if self.to_patched[a.index] != NO_ATOM or self.to_orig[b.index] != NO_ATOM:
            return False
        self.to_patched[a.index], self.to_orig[b.index] = b.index, a.index
        return True

    def free(self, orig: Iterable[Atom], patched: Iterable[Atom]) -> tuple[list[Atom], list[Atom]]:
        """Those of the given atoms that have no partner yet."""
        return (
            [a for a in orig if self.to_patched[a.index] == NO_ATOM],
            [b for b in patched if self.to_orig[b.index] == NO_ATOM],
        )


def correlate(orig: Unit, patched: Unit) -> Correlation:
    """Pairs the atoms of two normalised objects of one unit (levels in the module docstring)."""
    pairs = _Pairs(orig, patched)
    _by_name(pairs)
    _by_folded_name(pairs)
    ambiguous = _static_locals(pairs)
    _pools(pairs)
    return Correlation(pairs.to_patched, pairs.to_orig, tuple(sorted(ambiguous)))


def is_numbered(unit: Unit, atom: Atom) -> bool:
    """Whether the atom's name carries a number that the compiler chose."""
    if atom.kind is Kind.FUNCTION:
        return fold(atom.name) != atom.name
    return (
        static_local_base(atom.name) is not None
        or is_special_static(atom.name, unit.section(atom).name)
    ) and bool(atom.symbols)


def _class(atom: Atom) -> str:
    """Atoms pair only within a class: code, data (.rodata and .data may swap), tables."""
    if atom.kind is Kind.FUNCTION:
        return "function"
    return "data" if atom.kind in (Kind.DATA, Kind.RODATA) else atom.kind.value


def _by_name(pairs: _Pairs) -> None:
    def named(unit: Unit) -> dict[tuple[str, str, int], Atom]:
        found: dict[tuple[str, str, int], Atom] = {}
        seen: dict[tuple[str, str], int] = defaultdict(int)
        for atom in unit.atoms:
            if atom.kind in POOLED or atom.kind is Kind.SNIPPET or is_numbered(unit, atom):
                continue
            key = (_class(atom), atom.name)
            found[(*key, seen[key])] = atom  # the unnamed gaps of a section repeat its name
            seen[key] += 1
        return found

    left, right = named(pairs.orig), named(pairs.patched)
    for key, atom in left.items():
        if key in right:
            pairs.add(atom, right[key])


def _by_folded_name(pairs: _Pairs) -> None:
    def groups(unit: Unit) -> dict[str, list[Atom]]:
        found: dict[str, list[Atom]] = defaultdict(list)
        for atom in unit.atoms:
            if atom.kind is Kind.FUNCTION and is_numbered(unit, atom):
                found[fold(atom.name)].append(atom)
        return found

    left, right = groups(pairs.orig), groups(pairs.patched)
    for name in left.keys() & right.keys():
        _pair_clones(pairs, left[name], right[name])


def _pair_clones(pairs: _Pairs, left: list[Atom], right: list[Atom]) -> None:
    """Pairs clones of one function: a single one directly, several by code and then by name."""
    if len(left) == 1 and len(right) == 1:
        pairs.add(left[0], right[0])
        return
    for signature in (_code_signature, lambda unit, atom: atom.name):
        free_left, free_right = pairs.free(left, right)
        by_signature: dict[object, list[Atom]] = defaultdict(list)
        for b in free_right:
            by_signature[signature(pairs.patched, b)].append(b)
        for a in free_left:
            partners = by_signature.get(signature(pairs.orig, a))
            if partners and pairs.add(a, partners[0]):
                partners.pop(0)


def _code_signature(unit: Unit, atom: Atom) -> object:
    return (unit.data(atom), unit.refs_of(atom).type.tobytes(), _ref_names(unit, atom))


def _ref_names(unit: Unit, atom: Atom) -> tuple[str, ...]:
    """The folded names of what an atom refers to, in order: equal for equal code."""
    names = []
    refs = unit.refs_of(atom)
    for target, symbol in zip(refs.atom.tolist(), refs.symbol.tolist(), strict=True):
        if target == NO_ATOM:
            names.append(unit.elf.symbols.names[symbol])
        else:
            name = unit.atoms[target].name
            names.append(static_local_base(name) or fold(name))
    return tuple(names)


def _static_locals(pairs: _Pairs) -> set[str]:
    ambiguous: set[str] = set()
    orig_mask, patched_mask = _numbered_data(pairs.orig), _numbered_data(pairs.patched)
    if not (orig_mask.any() or patched_mask.any()):
        return ambiguous
    for a in pairs.orig.atoms:
        partner = int(pairs.to_patched[a.index])
        if partner == NO_ATOM or a.kind is Kind.TABLE or a.kind in POOLED:
            continue
        left = _used_statics(pairs.orig, a, orig_mask)
        right = _used_statics(pairs.patched, pairs.patched.atoms[partner], patched_mask)
        for base in left.keys() & right.keys():
            ambiguous |= _pair_statics(pairs, left[base], right[base])
    return ambiguous


def _numbered_data(unit: Unit) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    mask = np.zeros(len(unit.atoms) + 1, np.bool_)  # the last entry answers for NO_ATOM
    for atom in unit.atoms:
        if atom.kind in (Kind.DATA, Kind.RODATA) and is_numbered(unit, atom):
            mask[atom.index] = True
    return mask


def _used_statics(
    unit: Unit, user: Atom, mask: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> dict[str, list[Atom]]:
    """The numbered statics an atom refers to, by base name, in order of first use."""
    targets = unit.refs_of(user).atom
    found: dict[str, list[Atom]] = defaultdict(list)
    for index in dict.fromkeys(targets[mask[targets]].tolist()):
        atom = unit.atoms[index]
        found[static_local_base(atom.name) or atom.name].append(atom)
    return found


def _pair_statics(pairs: _Pairs, left: list[Atom], right: list[Atom]) -> set[str]:
    left, right = pairs.free(left, right)
    if not left or not right:
        return set()
    if len(left) == len(right):
        if all(a.size == b.size for a, b in zip(left, right, strict=True)):
            for a, b in zip(left, right, strict=True):
                pairs.add(a, b)
            return set()
        if len(left) == 1:
            pairs.add(left[0], right[0])  # its size changed: the data comparison says so
            return set()
    _pair_clones_of_data(pairs, left, right)
    left, right = pairs.free(left, right)
    special = left and is_special_static(left[0].name, pairs.orig.section(left[0]).name)
    if left and right and not special:
        return {static_local_base(a.name) or a.name for a in left}
    return set()


def _pair_clones_of_data(pairs: _Pairs, left: list[Atom], right: list[Atom]) -> None:
    """Pairs statics whose (size, content) is unique on both sides."""

    def unique(unit: Unit, atoms: list[Atom]) -> dict[tuple[bytes, tuple[str, ...]], Atom]:
        groups: dict[tuple[bytes, tuple[str, ...]], list[Atom]] = defaultdict(list)
        for atom in atoms:
            groups[(unit.data(atom), _ref_names(unit, atom))].append(atom)
        return {key: group[0] for key, group in groups.items() if len(group) == 1}

    ours, theirs = unique(pairs.orig, left), unique(pairs.patched, right)
    for key in ours.keys() & theirs.keys():
        pairs.add(ours[key], theirs[key])


def _pools(pairs: _Pairs) -> None:
    """Pairs strings and constants by content; one content may stand in several pools."""

    def content(unit: Unit) -> dict[tuple[Kind, bytes], list[Atom]]:
        found: dict[tuple[Kind, bytes], list[Atom]] = defaultdict(list)
        for atom in unit.atoms:
            if atom.kind in POOLED:
                found[(atom.kind, unit.data(atom))].append(atom)
        return found

    left, right = content(pairs.orig), content(pairs.patched)
    for key in left.keys() & right.keys():
        first = right[key][0]
        for a in left[key]:
            pairs.to_patched[a.index] = first.index
        for b in right[key]:
            pairs.to_orig[b.index] = left[key][0].index
