"""Pairs of atoms in the making, and what levels of correlation share."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from .atoms import NO_ATOM, Atom, Kind, Unit
from .names import fold, is_sanitizer_data, is_special_static, static_local_base


class Pairs:
    """The pairs of atoms found so far."""

    def __init__(self, orig: Unit, patched: Unit) -> None:
        self.orig, self.patched = orig, patched
        self.to_patched = np.full(len(orig.atoms), NO_ATOM, np.int64)
        self.to_orig = np.full(len(patched.atoms), NO_ATOM, np.int64)
        # Of two of one name, clang leaves the first without a number: that says nothing either.
        self._counted = {
            base
            for unit in (orig, patched)
            for atom in unit.atoms
            if atom.kind in (Kind.DATA, Kind.RODATA)
            and (base := static_local_base(atom.name)) is not None
        }

    def is_numbered(self, unit: Unit, atom: Atom) -> bool:
        """Whether the atom's name has a number that the compiler chose, or is that of its user."""
        return self._numbered[unit is self.patched][atom.index]

    @cached_property
    def _numbered(self) -> tuple[list[bool], list[bool]]:
        left, right = ([self._judge(u, a) for a in u.atoms] for u in (self.orig, self.patched))
        return left, right

    def _judge(self, unit: Unit, atom: Atom) -> bool:
        if atom.kind is Kind.FUNCTION:
            return fold(atom.name) != atom.name
        section = unit.section(atom).name
        if not atom.symbols:
            is_constant = atom.kind is Kind.RODATA and section.startswith(".rodata")
            return is_constant or is_sanitizer_data(section)
        return (
            static_local_base(atom.name) is not None
            or ("." in atom.name and atom.name in self._counted)
            or is_special_static(atom.name, section)
        )

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


def ref_names(unit: Unit, atom: Atom) -> tuple[str, ...]:
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
