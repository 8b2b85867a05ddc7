"""Static locals and switch tables, paired through who uses them.

Their numbers say nothing: GCC counts through the unit. Rounds, the safest first:

1. two users with the same code: their statics, place by place. Users that contradict each other
   (two equal functions were swapped under one of them) make the name ambiguous;
2. two paired users: the only free static of a name on each side; of several, those of unique
   content, and then the one that remains. The order of use proves nothing in code that changed,
   and GCC numbers by it: what is left is ambiguous, unless macros made it;
3. like 2, with the statics of unpaired functions added to those who call them: a function that is
   no longer inlined, or that newly is, keeps its state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .atoms import I64, NO_ATOM, Atom, Kind, Unit
from .names import is_sanitizer_data, is_special_static, local_name, static_local_base
from .pairs import Pairs, ref_names

Uses = dict[int, list[int]]


def pair_statics(pairs: Pairs) -> set[str]:
    """Pairs numbered data in place; returns the names of what cannot be told apart."""
    orig_mask, patched_mask = (_numbered_data(pairs, u) for u in (pairs.orig, pairs.patched))
    if not (orig_mask.any() or patched_mask.any()):
        return set()
    left, right = _uses(pairs.orig, orig_mask), _uses(pairs.patched, patched_mask)
    contradicted = _settle(pairs, left, right, _pair_same_code)
    ambiguous = _settle(pairs, left, right, _pair_by_name)
    reached_left = _through_unpaired(pairs.orig, pairs.to_patched, left)
    reached_right = _through_unpaired(pairs.patched, pairs.to_orig, right)
    ambiguous |= _settle(pairs, reached_left, reached_right, _pair_by_name)
    _pair_unused(pairs, left, right)
    free = {_base(a) for a in pairs.orig.atoms if pairs.to_patched[a.index] == NO_ATOM}
    return {local_name(base) or base for base in contradicted | (ambiguous & free)}


def _numbered_data(pairs: Pairs, unit: Unit) -> npt.NDArray[np.bool_]:
    mask = np.zeros(len(unit.atoms) + 1, np.bool_)  # the last entry answers for NO_ATOM
    for atom in unit.atoms:
        if atom.kind in (Kind.DATA, Kind.RODATA) and pairs.is_numbered(unit, atom):
            mask[atom.index] = True
    return mask


def _base(atom: Atom) -> str:
    if not atom.symbols:
        return atom.name.rstrip("0123456789") if is_sanitizer_data(atom.name) else ".rodata"
    return static_local_base(atom.name) or atom.name


def _uses(unit: Unit, mask: npt.NDArray[np.bool_]) -> Uses:
    """Per user, the numbered data that it refers to, place by place; tables count as its own."""
    found: Uses = {}
    for atom in unit.atoms:
        if atom.kind is Kind.TABLE or atom.section not in unit.refs:
            continue
        targets = unit.refs_of(atom).atom
        if used := targets[mask[targets]].tolist():
            found[atom.index] = used
    for entries in unit.tables:
        hits = np.nonzero(mask[entries.refs.atom])[0]
        for k in hits.tolist():
            owner = int(entries.owner[k // entries.relocs])
            if owner != NO_ATOM:
                found.setdefault(owner, []).append(int(entries.refs.atom[k]))
    return found


Pairing = Callable[[Pairs, Atom, Atom, list[Atom], list[Atom]], set[str]]


def _settle(pairs: Pairs, left: Uses, right: Uses, pairing: Pairing) -> set[str]:
    """Applies `pairing` to all paired users until it finds no more: statics use statics."""
    ambiguous: set[str] = set()
    before = -1
    while (count := int((pairs.to_patched != NO_ATOM).sum())) != before:
        before = count
        for index, used in left.items():
            partner = int(pairs.to_patched[index])
            if partner == NO_ATOM or partner not in right:
                continue
            a, b = pairs.orig.atoms[index], pairs.patched.atoms[partner]
            ours = [pairs.orig.atoms[i] for i in used]
            theirs = [pairs.patched.atoms[i] for i in right[partner]]
            ambiguous |= pairing(pairs, a, b, ours, theirs)
    return ambiguous


def _pair_same_code(
    pairs: Pairs, a: Atom, b: Atom, ours: list[Atom], theirs: list[Atom]
) -> set[str]:
    names = [_base(x) for x in ours]
    if names != [_base(x) for x in theirs] or pairs.orig.data(a) != pairs.patched.data(b):
        return set()
    left, right = pairs.orig.refs_of(a), pairs.patched.refs_of(b)
    if not np.array_equal(left.offset - a.start, right.offset - b.start):
        return set()
    return {
        base
        for base, x, y in zip(names, ours, theirs, strict=True)
        if (x.size == y.size or len(set(names)) == len(names))
        and not pairs.add(x, y)
        and _has_state(pairs.orig, x)
    }


def _has_state(unit: Unit, atom: Atom) -> bool:
    """Whether mixing the variable up with another would do harm."""
    section = unit.section(atom).name
    return bool(atom.symbols) and not is_special_static(atom.name, section)


def _pair_by_name(pairs: Pairs, a: Atom, b: Atom, ours: list[Atom], theirs: list[Atom]) -> set[str]:
    ambiguous: set[str] = set()
    left, right = pairs.free(dict.fromkeys(ours), dict.fromkeys(theirs))
    for base in dict.fromkeys(_base(x) for x in left):
        mine = [x for x in left if _base(x) == base]
        other = [y for y in right if _base(y) == base]
        if other and _pair_group(pairs, mine, other):
            ambiguous.add(base)
    return ambiguous


def _pair_group(pairs: Pairs, left: list[Atom], right: list[Atom]) -> bool:
    """Pairs what bears one name under one user; True if that is not safe for all of it."""
    if len(left) > 1 or len(right) > 1:
        _pair_unique_content(pairs, left, right)
        left, right = pairs.free(left, right)
    if not left or not right:
        return False
    if len(left) == len(right) == 1:
        return not pairs.add(left[0], right[0])
    return _has_state(pairs.orig, left[0])


def _pair_unique_content(pairs: Pairs, left: list[Atom], right: list[Atom]) -> None:
    """Pairs statics whose (size, content) is unique on both sides."""

    def unique(unit: Unit, atoms: list[Atom]) -> dict[tuple[bytes, tuple[str, ...]], Atom]:
        groups: dict[tuple[bytes, tuple[str, ...]], list[Atom]] = defaultdict(list)
        for atom in atoms:
            groups[(unit.data(atom), ref_names(unit, atom))].append(atom)
        return {key: group[0] for key, group in groups.items() if len(group) == 1}

    ours, theirs = unique(pairs.orig, left), unique(pairs.patched, right)
    for key in ours.keys() & theirs.keys():
        pairs.add(ours[key], theirs[key])


def _through_unpaired(unit: Unit, partner: I64, uses: Uses) -> Uses:
    """`uses`, with what unpaired functions use added to those who refer to them."""
    unpaired = np.zeros(len(unit.atoms) + 1, np.bool_)
    unpaired[:-1] = partner == NO_ATOM
    for atom in unit.atoms:
        if atom.kind is not Kind.FUNCTION:
            unpaired[atom.index] = False
    if not unpaired.any():
        return uses
    callees: dict[int, set[int]] = {}
    for atom in unit.atoms:
        if atom.kind is Kind.FUNCTION and atom.section in unit.refs:
            targets = unit.refs_of(atom).atom
            if called := set(targets[unpaired[targets]].tolist()):
                callees[atom.index] = called
    found = dict(uses)
    for user in callees:
        seen, queue = {user}, [user]
        while queue:
            for callee in sorted(callees.get(queue.pop(), ())):
                if callee not in seen:
                    seen.add(callee)
                    queue.append(callee)
        added = [i for other in sorted(seen - {user}) for i in uses.get(other, ())]
        if added:
            found[user] = [*uses.get(user, ()), *added]
    return found


def _pair_unused(pairs: Pairs, left: Uses, right: Uses) -> None:
    """Pairs what no code refers to (it is kept by an attribute) if its name is the only one."""

    def unused(unit: Unit, uses: Uses) -> dict[str, list[Atom]]:
        used = {i for targets in uses.values() for i in targets}
        groups: dict[str, list[Atom]] = defaultdict(list)
        for atom in unit.atoms:
            if atom.kind in (Kind.DATA, Kind.RODATA) and pairs.is_numbered(unit, atom):
                groups[_base(atom)].append(atom)
        return {
            base: group
            for base, group in groups.items()
            if len(group) == 1 and group[0].index not in used
        }

    ours, theirs = unused(pairs.orig, left), unused(pairs.patched, right)
    for base in ours.keys() & theirs.keys():
        pairs.add(ours[base][0], theirs[base][0])
