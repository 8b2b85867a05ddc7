"""Which correlated atoms differ, and why.

Two atoms are equal when their bytes are (relocated fields are zero in an object file) and each
relocation has the same place, type and addend and a correlated target. A function also owns its
entries in the compared special sections (exception fixups, alternatives, bug flags...).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ..elf.model import Section
from .correlate import Correlation
from .names import is_special_static
from .normalize import I64, NO_ATOM, POOLED, Atom, Kind, Refs, Unit, table_entries
from .tables import TABLES

_SNIPPET = -3  # stands for any snippet: those compare by content, with the table that uses them
_EXTERNAL_BASE = -16  # -16 - n stands for the n-th external name


@dataclass(frozen=True)
class Comparison:
    """Reasons by original atom index, for the correlated atoms that differ."""

    changed: dict[int, str]


def compare(orig: Unit, patched: Unit, correlation: Correlation) -> Comparison:
    """Compares every correlated pair of atoms."""
    keys = _Keys(orig, patched, correlation)
    tables = _TableIndex(orig, patched, keys)
    changed: dict[int, str] = {}
    for a in orig.atoms:
        partner = int(correlation.to_patched[a.index])
        if partner == NO_ATOM or a.kind in POOLED or a.kind in (Kind.TABLE, Kind.SNIPPET):
            continue
        b = patched.atoms[partner]
        reason = _difference(orig, patched, a, b, keys)
        if reason is None and a.kind is Kind.FUNCTION:
            reason = tables.difference(a, b)
        if reason is not None:
            changed[a.index] = reason
    return Comparison(changed)


class _Keys:
    """Relocation targets of both objects as integers that are equal for correlated targets."""

    def __init__(self, orig: Unit, patched: Unit, correlation: Correlation) -> None:
        names: dict[str, int] = {}
        canonical = _canonical_pools(patched, correlation)
        to_patched = np.append(correlation.to_patched, NO_ATOM)
        for unit, mapping in ((orig, to_patched), (patched, canonical)):
            mapping[[a.index for a in unit.atoms if a.kind is Kind.SNIPPET]] = _SNIPPET
        self.orig = {
            s: self._keys(orig, refs.atom, refs.symbol, to_patched, names)
            for s, refs in orig.refs.items()
        }
        self.patched = {
            s: self._keys(patched, refs.atom, refs.symbol, canonical, names)
            for s, refs in patched.refs.items()
        }

    @staticmethod
    def _keys(unit: Unit, atom: I64, symbol: I64, mapping: I64, names: dict[str, int]) -> I64:
        keys = mapping[atom]
        for position in np.nonzero(atom == NO_ATOM)[0].tolist():
            name = unit.elf.symbols.names[symbol[position]]
            keys[position] = _EXTERNAL_BASE - names.setdefault(name, len(names))
        return keys


def _canonical_pools(patched: Unit, correlation: Correlation) -> I64:
    """Patched atom -> itself; equal pool content -> the one that originals map to."""
    canonical = np.append(np.arange(len(patched.atoms), dtype=np.int64), NO_ATOM)
    for atom in patched.atoms:
        if atom.kind in POOLED and correlation.to_orig[atom.index] != NO_ATOM:
            canonical[atom.index] = correlation.to_patched[correlation.to_orig[atom.index]]
    return canonical


def _difference(orig: Unit, patched: Unit, a: Atom, b: Atom, keys: _Keys) -> str | None:
    section_a, section_b = orig.section(a), patched.section(b)
    if section_a.is_exec and section_a.name.startswith(".init") != section_b.name.startswith(
        ".init"
    ):
        return f"moved from {section_a.name} to {section_b.name}"
    left, right = orig.data(a), patched.data(b)
    special = a.kind is Kind.DATA and is_special_static(a.name, section_a.name)
    if special:  # its content is line numbers and state that starts anew
        return None if len(left) == len(right) else "size"
    if left != right:
        if len(left) != len(right):
            return f"size {len(left)} -> {len(right)}"
        at = int(np.nonzero(np.frombuffer(left, np.uint8) != np.frombuffer(right, np.uint8))[0][0])
        return f"first differing byte at +{at:#x}"
    return _reference_difference(orig, patched, a, b, keys)


def _reference_difference(orig: Unit, patched: Unit, a: Atom, b: Atom, keys: _Keys) -> str | None:
    ours, theirs = orig.refs_of(a), patched.refs_of(b)
    if len(ours.offset) != len(theirs.offset):
        return "different number of references"
    if not len(ours.offset):
        return None
    same = (
        (ours.offset - a.start == theirs.offset - b.start)
        & (ours.type == theirs.type)
        & (ours.addend == theirs.addend)
        & (_slice(keys.orig, orig, a) == _slice(keys.patched, patched, b))
    )
    if same.all():
        return None
    at = int(np.nonzero(~same)[0][0])
    where = int(theirs.offset[at]) - b.start
    return (
        f"reference at +{where:#x} is now to {target_name(patched, theirs.atom, theirs.symbol, at)}"
    )


def _slice(keys: dict[int, I64], unit: Unit, atom: Atom) -> I64:
    return keys[atom.section][unit.refs[atom.section].of(atom)]


def target_name(unit: Unit, atoms: I64, symbols: I64, position: int) -> str:
    """How to name the target of a relocation to a person."""
    index = int(atoms[position])
    if index == NO_ATOM:
        return unit.elf.symbols.names[int(symbols[position])]
    atom = unit.atoms[index]
    if atom.kind is Kind.STRING:
        text = unit.data(atom).rstrip(b"\0").decode(errors="replace")
        return f'the string "{text[:40]}"'
    return atom.name or atom.kind.value


class _TableIndex:
    """The compared special sections' entries, as values, by the function they belong to."""

    def __init__(self, orig: Unit, patched: Unit, keys: _Keys) -> None:
        self._orig = _entries_by_function(orig, keys.orig)
        self._patched = _entries_by_function(patched, keys.patched)

    def difference(self, a: Atom, b: Atom) -> str | None:
        ours, theirs = self._orig.get(a.index, {}), self._patched.get(b.index, {})
        for section in ours.keys() | theirs.keys():
            if sorted(ours.get(section, ())) != sorted(theirs.get(section, ())):
                return f"different entries in {section}"
        return None


EntryValue = tuple[int, bytes, tuple[tuple[int, int, int], ...]]


def _entries_by_function(
    unit: Unit, keys: dict[int, I64]
) -> dict[int, dict[str, list[EntryValue]]]:
    found: dict[int, dict[str, list[EntryValue]]] = defaultdict(lambda: defaultdict(list))
    for section in unit.elf.sections:
        table = TABLES.get(section.name)
        if table is None or not table.compared or section.index not in unit.refs:
            continue
        size, owners, offsets, refs = table_entries(unit, section)
        if size == 0:
            continue
        target = keys[section.index]
        firsts = np.nonzero(refs.offset % size == 0)[0].tolist()
        for n, (owner, offset) in enumerate(zip(owners.tolist(), offsets.tolist(), strict=True)):
            start = int(refs.offset[firsts[n]])
            stop = firsts[n + 1] if n + 1 < len(firsts) else len(refs.offset)
            rest = tuple(
                (
                    int(refs.offset[k]) - start,
                    *_table_target(unit, refs, target, k),
                )
                for k in range(firsts[n] + 1, stop)
                if not table.ignores_targets
            )
            found[owner][section.name].append((offset, _entry_bytes(section, start, size), rest))
    return found


def _entry_bytes(section: Section, start: int, size: int) -> bytes:
    ignored = TABLES[section.name].ignored_bytes
    blob = bytearray(section.data[start : start + size])
    if ignored[1] <= len(blob):
        blob[ignored[0] : ignored[1]] = bytes(ignored[1] - ignored[0])
    return bytes(blob)


def _table_target(unit: Unit, refs: Refs, keys: I64, k: int) -> tuple[int, int]:
    """An entry's further target; replacement code compares by content, not by its place."""
    index = int(refs.atom[k])
    if index != NO_ATOM and unit.atoms[index].kind is Kind.SNIPPET:
        return (hash(unit.data(unit.atoms[index])), 0)
    return (int(keys[k]), int(refs.addend[k]))
