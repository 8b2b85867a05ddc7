"""Changed functions that ftrace cannot redirect go along with the functions that call them.

The kernel's `inline` implies notrace, so an `inline` function that GCC leaves out of line has no
call to __fentry__. When it is static and only ever called, nothing but its callers reaches it:
they are patched, and their new code calls the new copy.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..elf.constants import Binding, Reloc
from ..elf.insn import is_branch
from .atoms import NO_ATOM, Atom, Kind, Unit
from .correlate import Correlation
from .names import cold_parent, is_init_text

AT_START = -4  # the addend of a relative call to a function's first byte


def carry(
    old: Unit,
    new: Unit,
    correlation: Correlation,
    changed: dict[int, str],
    traced: set[int] | None,
) -> tuple[dict[int, str], frozenset[int]]:
    """Adds the callers of functions without fentry to `changed` (original atom -> reason).

    Returns the larger `changed`, and the atoms that are reached through their callers alone.
    `traced` are the atoms that have a fentry; None when the object does not tell.
    """
    if traced is None:
        return changed, frozenset()
    wider = dict(changed)
    carried: set[int] = set()
    work = list(changed)
    while work:
        index = work.pop()
        atom = old.atoms[index]
        if index in traced or index in carried:
            continue
        partner = new.atoms[int(correlation.to_patched[index])]
        if not (_is_private_code(old, atom) and _is_private_code(new, partner)):
            continue
        callers = _callers(old, new, correlation, index)
        if not callers:
            continue
        carried.add(index)
        for caller in callers - wider.keys():
            wider[caller] = f"calls '{atom.name}', which cannot be redirected itself"
            work.append(caller)
    return wider, frozenset(carried)


def _is_private_code(unit: Unit, atom: Atom) -> bool:
    binding = unit.elf.symbols.binding
    return (
        bool(atom.symbols)
        and cold_parent(atom.name) is None
        and not is_init_text(unit.section(atom).name)
        and all(binding[s] == Binding.LOCAL for s in atom.symbols)
    )


def _callers(old: Unit, new: Unit, correlation: Correlation, index: int) -> set[int]:
    """The original atoms that call a function, before or after; empty if it is not only called.

    One that the patch removes keeps its old code, and so the old function.
    """
    found: set[int] = set()
    partner = int(correlation.to_patched[index])
    for unit, target in ((old, index), (new, partner)):
        for user, is_call in uses(unit, target):
            original = user.index if unit is old else int(correlation.to_orig[user.index])
            if not is_call:
                return set()
            if original == NO_ATOM:  # a new function comes along with its own callers
                continue
            whole = with_parent(old, original)
            if correlation.to_patched[whole] != NO_ATOM:
                found.add(whole)
    return found - {index}


def uses(unit: Unit, target: int) -> Iterator[tuple[Atom, bool]]:
    """Every atom that refers to `target`, and whether it is by a call or a jump.

    Of code that stands in for a place (a replacement, a fixup), which may be of any function, jumps
    into the middle of `target` are its own; no other use counts as a call.
    """
    for atom in unit.atoms:
        refs = unit.refs_of(atom)
        if atom.kind is Kind.TABLE or atom.index == target:
            continue
        for k in (refs.atom == target).nonzero()[0].tolist():
            section = unit.section(atom)
            relative = section.is_exec and int(refs.type[k]) in (Reloc.PC32, Reloc.PLT32)
            is_call = relative and is_branch(section.data, int(refs.offset[k]))
            if atom.kind is not Kind.SNIPPET:
                yield atom, is_call
            elif not is_call or int(refs.addend[k]) == AT_START:
                yield atom, False


def with_parent(unit: Unit, index: int) -> int:
    """The atom itself; for a cold part, its function."""
    parent = cold_parent(unit.atoms[index].name)
    found = (a.index for a in unit.atoms if a.kind is Kind.FUNCTION and a.name == parent)
    return next(found, index)
