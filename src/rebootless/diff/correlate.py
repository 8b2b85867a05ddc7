"""Which atom of the patched object is which atom of the original.

Ordered levels, the safest first; an atom taken by one level is out of the next:

1. same name, for names that the source chose:       `vfs_read` = `vfs_read`
2. same name but for clone numbers:                  `foo.isra.2` = `foo.isra.0`
3. static locals through the functions using them:   `count.12` in f = `count.9` in f
   (statics.py; symbol-less read-only data, such as switch tables, as well)
4. pool content:                                     "text" = "text"
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from .atoms import I64, NO_ATOM, POOLED, Atom, Kind, Unit
from .names import fold, is_boot_only
from .pairs import Pairs, ref_names
from .statics import pair_statics


@dataclass(frozen=True)
class Correlation:
    """`to_patched[i]` is the patched atom of original atom i, `to_orig` the way back (or -1).

    `ambiguous` names static locals that could not be told apart.
    """

    to_patched: I64
    to_orig: I64
    ambiguous: tuple[str, ...]


def correlate(orig: Unit, patched: Unit) -> Correlation:
    """Pairs the atoms of two normalised objects of one unit (levels in the module docstring)."""
    pairs = Pairs(orig, patched)
    _by_name(pairs)
    _by_folded_name(pairs)
    ambiguous = pair_statics(pairs)
    _pools(pairs)
    _part_from_freed(pairs)
    return Correlation(pairs.to_patched, pairs.to_orig, tuple(sorted(ambiguous)))


def _part_from_freed(pairs: Pairs) -> None:
    """What the kernel frees after boot is not what the patch has stay (__init was taken off)."""
    for a in pairs.orig.atoms:
        partner = int(pairs.to_patched[a.index])
        if partner != NO_ATOM and is_boot_only(pairs.orig.section(a).name):
            b = pairs.patched.atoms[partner]
            if not is_boot_only(pairs.patched.section(b).name) and b.kind not in POOLED:
                pairs.to_patched[a.index] = pairs.to_orig[b.index] = NO_ATOM


def _class(atom: Atom) -> str:
    """Atoms pair only within a class: code, data (.rodata and .data may swap), tables."""
    if atom.kind is Kind.FUNCTION:
        return "function"
    return "data" if atom.kind in (Kind.DATA, Kind.RODATA) else atom.kind.value


def _by_name(pairs: Pairs) -> None:
    """Pairs by the first name, then by further ones: of aliases, any may be gone or new."""

    def named(unit: Unit, first: bool) -> dict[tuple[str, str, int], Atom]:
        found: dict[tuple[str, str, int], Atom] = {}
        seen: dict[tuple[str, str], int] = defaultdict(int)
        for atom in unit.atoms:
            if atom.kind in POOLED or atom.kind is Kind.SNIPPET or pairs.is_numbered(unit, atom):
                continue
            names = [atom.name]
            if not first:
                names = [unit.elf.symbols.names[s] for s in atom.symbols]
            for name in names:
                key = (_class(atom), name)
                found[(*key, seen[key])] = atom  # the unnamed gaps of a section repeat its name
                seen[key] += 1
        return found

    for first in (True, False):
        left, right = named(pairs.orig, first), named(pairs.patched, first)
        for key, atom in left.items():
            if key in right:
                pairs.add(atom, right[key])


def _by_folded_name(pairs: Pairs) -> None:
    def groups(unit: Unit) -> dict[str, list[Atom]]:
        found: dict[str, list[Atom]] = defaultdict(list)
        for atom in unit.atoms:
            if atom.kind is Kind.FUNCTION and pairs.is_numbered(unit, atom):
                found[fold(atom.name)].append(atom)
        return found

    left, right = groups(pairs.orig), groups(pairs.patched)
    for name in left.keys() & right.keys():
        _pair_clones(pairs, left[name], right[name])


def _pair_clones(pairs: Pairs, left: list[Atom], right: list[Atom]) -> None:
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
    return (unit.data(atom), unit.refs_of(atom).type.tobytes(), ref_names(unit, atom))


def _pools(pairs: Pairs) -> None:
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
