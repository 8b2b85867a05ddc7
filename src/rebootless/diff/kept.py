"""Which static variable of the original a static variable of a patched function is.

By the correlation of the object pair, never by number: `count` in f is the `count.7` that the
patched f refers to, and that is the original's `count.5`, or new.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ..elf.model import ElfFile
from .atoms import NO_ATOM, Atom, Kind, Unit
from .correlate import correlate
from .names import is_special_static, local_name, source_name
from .normalize import normalize


class KeptStatics:
    """Answers for one object pair; `roots` are the functions that go into the patch."""

    def __init__(self, orig: ElfFile, patched: ElfFile, roots: Iterable[str]) -> None:
        old, new = normalize(orig), normalize(patched)
        to_orig = correlate(old, new).to_orig
        self._of: dict[str, dict[str, set[int | None]]] = defaultdict(lambda: defaultdict(set))
        for atom in new.atoms:
            if atom.kind is not Kind.FUNCTION:
                continue
            for target in set(new.refs_of(atom).atom.tolist()) - {NO_ATOM}:
                name = _static_name(new, new.atoms[target])
                if name:
                    found = int(to_orig[target])
                    symbol = None if found == NO_ATOM else old.atoms[found].symbols[0]
                    self._of[source_name(atom.name)][name].add(symbol)
        self._roots = tuple(roots)
        self._functions = {source_name(a.name) for a in new.atoms if a.kind is Kind.FUNCTION}

    def find(self, function: str, name: str) -> frozenset[int | None]:
        """The symbols of the original that `name` in `function` may be; None is a new variable.

        Empty when the compiler needed no variable. A function without code of its own is looked
        for in the functions that go into the patch, one of which it was put into.
        """
        if function in self._functions:
            return frozenset(self._of[function][name])
        return frozenset().union(*(self._of[root][name] for root in self._roots))


def _static_name(unit: Unit, atom: Atom) -> str | None:
    if atom.kind not in (Kind.DATA, Kind.RODATA) or not atom.symbols:
        return None
    if is_special_static(atom.name, unit.section(atom).name):
        return None
    return local_name(atom.name)
