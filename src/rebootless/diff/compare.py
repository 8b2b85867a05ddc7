"""Which correlated atoms differ, and why.

Two atoms are equal when their bytes are (relocated fields are zero in an object file) and each
relocation has the same place, type and addend and a correlated target. A function also owns its
entries in the compared special sections (exception fixups, alternatives, bug flags...).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from ..elf.constants import Binding, Reloc
from .atoms import I64, NO_ATOM, POOLED, Atom, Entries, Kind, Refs, Unit
from .correlate import Correlation
from .names import carries_line, is_special_static
from .tables import TABLES

_SNIPPET = -3  # stands for any snippet inside of another
_EXTERNAL_BASE = -16  # -16 - n stands for the n-th external name
_SNIPPET_BASE = 1 << 40  # plus n stands for the n-th snippet by content: bytes and references

EntryValue = tuple[int, bytes, tuple[tuple[int, int, int], ...]]  # place, bytes, the other fields


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
        if orig.is_passive(a):
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
        contents: dict[object, int] = {}
        canonical = _canonical_pools(patched, correlation)
        to_patched = np.append(correlation.to_patched, NO_ATOM)
        self.orig = _keys(orig, to_patched, names, contents)
        self.patched = _keys(patched, canonical, names, contents)


def _keys(
    unit: Unit, mapping: I64, names: dict[str, int], contents: dict[object, int]
) -> dict[int, I64]:
    snippets = [a for a in unit.atoms if a.kind is Kind.SNIPPET]
    is_weak = np.append(unit.elf.symbols.binding == Binding.WEAK, False)
    mapping[[a.index for a in snippets]] = _SNIPPET
    found = {}
    for section, refs in unit.refs.items():
        keys = mapping[refs.atom]
        # A weak symbol is known by its name, too: another unit may define it otherwise.
        named = (refs.atom == NO_ATOM) | is_weak[refs.symbol]
        for position in np.nonzero(named)[0].tolist():
            name = unit.elf.symbols.names[refs.symbol[position]]
            keys[position] = _EXTERNAL_BASE - names.setdefault(name, len(names))
        found[section] = keys
    held = _held_by_snippets(unit, found, snippets)
    for atom in snippets:
        refs = unit.refs_of(atom)
        targets = _slice(found, unit, atom).tolist() if len(refs.offset) else []
        content = (
            unit.data(atom),
            tuple((refs.offset - atom.start).tolist()),
            tuple(_kinds(refs).tolist()),
            tuple(refs.addend.tolist()),
            tuple(targets),
            tuple((name, tuple(values)) for name, values in held.get(atom.index, {}).items()),
        )
        mapping[atom.index] = _SNIPPET_BASE + contents.setdefault(content, len(contents))
    if snippets:
        for section, refs in unit.refs.items():
            keys = mapping[refs.atom]
            found[section] = np.where(keys >= _SNIPPET_BASE, keys, found[section])
    return found


def _held_by_snippets(
    unit: Unit, keys: dict[int, I64], snippets: list[Atom]
) -> dict[int, dict[str, list[EntryValue]]]:
    """The entries for places in snippets (an exception in a replacement): there are seldom any."""
    indices = np.array([atom.index for atom in snippets], np.int64)
    tables = (t for t in unit.tables if TABLES[t.section.name].compared)
    if not len(indices) or not any(np.isin(t.owner, indices).any() for t in tables):
        return {}
    return _entries_by_function(unit, keys)


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
    if (
        a.kind in (Kind.DATA, Kind.RODATA)
        and _is_constant(orig, a)
        and not _is_constant(patched, b)
    ):
        return "it was read-only and is now writable"
    if section_a.name == ".BTF_ids" and orig.btf_ids(a) != patched.btf_ids(b):
        return "different BTF ids"
    left, right = orig.data(a), patched.data(b)
    if is_special_static(a.name, section_a.name) and carries_line(a.name, section_a.name):
        return None if len(left) == len(right) else "size"
    if left != right:
        if len(left) != len(right):
            return f"size {len(left)} -> {len(right)}"
        at = int(np.nonzero(np.frombuffer(left, np.uint8) != np.frombuffer(right, np.uint8))[0][0])
        return f"first differing byte at +{at:#x}"
    return _reference_difference(orig, patched, a, b, keys)


def _is_constant(unit: Unit, atom: Atom) -> bool:
    return atom.kind is Kind.RODATA or unit.section(atom).name == ".data..ro_after_init"


def _reference_difference(orig: Unit, patched: Unit, a: Atom, b: Atom, keys: _Keys) -> str | None:
    ours, theirs = orig.refs_of(a), patched.refs_of(b)
    if len(ours.offset) != len(theirs.offset):
        return "different number of references"
    if not len(ours.offset):
        return None
    same = (
        (ours.offset - a.start == theirs.offset - b.start)
        & (_kinds(ours) == _kinds(theirs))
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


def _kinds(refs: Refs) -> I64:
    """The types of relocations: those of calls are one, whether the target is global or not."""
    return np.where(refs.type == Reloc.PLT32, int(Reloc.PC32), refs.type)


def _slice(keys: dict[int, I64], unit: Unit, atom: Atom) -> I64:
    return keys[atom.section][unit.refs[atom.section].of(atom)]


def target_name(unit: Unit, atoms: I64, symbols: I64, position: int) -> str:
    """How to name the target of a relocation to a person."""
    index = int(atoms[position])
    if index == NO_ATOM:
        return unit.elf.symbols.names[int(symbols[position])]
    atom = unit.atoms[index]
    if atom.kind is Kind.STRING:
        text = unit.data(atom).rstrip(b"\0").decode("latin-1").encode("unicode_escape").decode()
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
            if _by_place(ours.get(section, [])) != _by_place(theirs.get(section, [])):
                return f"different entries in {section}"
        return None


def _by_place(entries: list[EntryValue]) -> list[EntryValue]:
    """Those of one place keep their order: of several alternatives, the last that fits is taken."""
    return sorted(entries, key=lambda entry: entry[0])


def _entries_by_function(
    unit: Unit, keys: dict[int, I64]
) -> dict[int, dict[str, list[EntryValue]]]:
    found: dict[int, dict[str, list[EntryValue]]] = defaultdict(lambda: defaultdict(list))
    for entries in unit.tables:
        section = entries.section
        if not TABLES[section.name].compared:
            continue
        targets = keys[section.index].tolist()
        offsets, addends = entries.refs.offset.tolist(), entries.refs.addend.tolist()
        places = entries.place.tolist()
        for n, owner in enumerate(entries.owner.tolist()):
            positions = entries.relocs_of(n)
            data, compared = _without_source_line(entries, n, positions)
            start = n * entries.size
            rest = tuple((offsets[k] - start, targets[k], addends[k]) for k in compared)
            found[owner][section.name].append((places[n], data, rest))
    return found


def _without_source_line(entries: Entries, n: int, positions: range) -> tuple[bytes, range]:
    """An entry's bytes without the line number, and its relocations without the file's name."""
    data = entries.data(n)
    if not TABLES[entries.section.name].names_source or len(positions) == 1:
        return data, positions[1:]
    line = int(entries.refs.offset[positions[-1]]) + 4 - n * entries.size
    return data[:line] + data[line + 2 :], positions[1:-1]
