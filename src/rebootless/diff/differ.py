"""The differ: the steps of the package, in order."""

from __future__ import annotations

from dataclasses import replace

from ..elf.constants import Binding
from ..elf.model import ElfFile
from .atoms import NO_ATOM, Atom, Kind, Unit
from .carry import carry
from .compare import Comparison, compare
from .correlate import Correlation, correlate
from .delta import Delta, Finding, FunctionChange
from .include import Inclusion, include, new_functions
from .marks import (
    callbacks_in,
    ignored_callers,
    mark_findings,
    read_marks,
    with_forced,
    without_allowed,
    without_ignored,
)
from .names import cold_parent, fold, is_boot_only, is_export_section
from .normalize import normalize
from .registrations import registration_findings
from .verdict import (
    copied_constants,
    data_findings,
    function_findings,
    move_warnings,
    renaming_warnings,
    traced_functions,
)


def diff(orig: ElfFile, patched: ElfFile) -> Delta:
    """Compares the original and the patched object of one unit.

    Both must be compiled with -ffunction-sections -fdata-sections by the same compiler. Never
    raises for what a patch does: that is in `Delta.refused` and `Delta.warnings`. Raises ElfError
    for a special section whose entries cannot be told apart.
    """
    old, new = normalize(orig), normalize(patched)
    marks = read_marks(new)
    old, new = (replace(unit, ignored_sections=marks.ignored_sections) for unit in (old, new))
    correlation = correlate(old, new)
    comparison = compare(old, new, correlation)
    copied = copied_constants(old, new, correlation, comparison)
    changed = _changed_functions(old, new, correlation, comparison, copied)
    changed, left_out = without_ignored(marks, old, changed)
    changed = with_forced(marks, old, correlation, changed)
    traced = traced_functions(old)
    changed, carried = carry(old, new, correlation, changed, traced)
    changed, also_left_out = without_ignored(marks, old, changed)
    refused, warnings, unpatchable = function_findings(old, changed, traced, carried)
    comparison, allowed = without_allowed(marks, old, new, correlation, comparison)
    warnings += left_out + also_left_out + allowed
    data = data_findings(old, new, correlation, comparison, frozenset(copied))
    to_patch = {i: reason for i, reason in changed.items() if i not in unpatchable}
    for finding in data:  # beside code that can be patched, what was used up at boot is only told
        told = finding.code == "init-data" and to_patch
        (warnings if told else refused).append(finding)
    for more_refused, more_warnings in (
        registration_findings(old, new, correlation),
        mark_findings(marks, old, new, correlation),
    ):
        refused += more_refused
        warnings += more_warnings
    refused += ignored_callers(marks, old, comparison, to_patch.keys() - carried)
    fresh = _new_atoms(new, correlation)
    roots = [int(correlation.to_patched[i]) for i in to_patch] + [a.index for a in fresh]
    roots += marks.callback_atoms
    copies = frozenset(int(correlation.to_patched[i]) for i in copied)
    inclusion = include(old, new, correlation, roots, copies)
    refused = [*_better_told(refused, inclusion.findings), *inclusion.findings]
    warnings += _removed_warnings(old, correlation) + move_warnings(old, new, correlation)
    warnings += renaming_warnings(old, new, correlation)
    entered = {i: reason for i, reason in to_patch.items() if i not in carried}
    along = {i: reason for i, reason in to_patch.items() if i in carried}
    return Delta(
        changed=_changes(old, new, correlation, inclusion, entered),
        new=new_functions(new, inclusion, correlation),
        removed=_removed(old, correlation),
        new_data=inclusion.new_data,
        special=inclusion.special,
        refused=tuple(refused),
        warnings=tuple(warnings),
        pieces=inclusion.pieces,
        carried=_changes(old, new, correlation, inclusion, along),
        callbacks=callbacks_in(inclusion.piece_of, new, marks),
        states=marks.states,
    )


def _better_told(refused: list[Finding], told: tuple[Finding, ...]) -> list[Finding]:
    """`refused` without what `told` says of a section by the function that it is about."""
    sections = {f.symbol for f in told if f.code == "unsupported-section"}
    return [f for f in refused if f.code != "unsupported-section" or f.symbol not in sections]


def _changed_functions(
    old: Unit,
    new: Unit,
    correlation: Correlation,
    comparison: Comparison,
    copied: dict[int, tuple[str, tuple[int, ...]]],
) -> dict[int, str]:
    """Original function atoms that change, with the reason.

    A cold part cannot be redirected, so its parent changes with it; a function that reads a
    constant that changed is changed too.
    """
    changed = {
        i: reason for i, reason in comparison.changed.items() if old.atoms[i].kind is Kind.FUNCTION
    }
    for name, users in copied.values():
        for user in users:
            original = int(correlation.to_orig[user])
            if original != NO_ATOM:
                changed.setdefault(original, f"reads the constant '{name}', which changed")
    parents = {a.name: a.index for a in old.atoms if a.kind is Kind.FUNCTION}
    for index in list(changed):
        parent = cold_parent(old.atoms[index].name)
        whole = parents.get(parent) if parent is not None else None
        if whole is not None and correlation.to_patched[whole] != NO_ATOM:
            changed.setdefault(whole, "its cold part changed")
    new_parents = {a.name: a.index for a in new.atoms if a.kind is Kind.FUNCTION}
    for atom in new.atoms:  # a cold part that is not the original's, under an unchanged parent
        parent = cold_parent(atom.name) if atom.kind is Kind.FUNCTION else None
        if parent in new_parents and correlation.to_orig[atom.index] == NO_ATOM:
            original = int(correlation.to_orig[new_parents[parent]])
            if original != NO_ATOM:
                changed.setdefault(original, "it gained a cold part")
    return changed


def _new_atoms(new: Unit, correlation: Correlation) -> list[Atom]:
    """Functions and global data that the patch adds: other units may refer to them.

    What is local comes along only if something included uses it.
    """
    table = new.elf.symbols
    return [
        atom
        for atom in new.atoms
        if atom.kind in (Kind.FUNCTION, Kind.DATA, Kind.RODATA)
        and atom.symbols
        and correlation.to_orig[atom.index] == NO_ATOM
        and any(table.binding[s] != Binding.LOCAL for s in atom.symbols)
        and not is_boot_only(new.section(atom).name)
        and not new.section(atom).is_grouped  # whoever needs it has it
        and not new.is_passive(atom)
        and not is_export_section(new.section(atom).name)
    ]


def _changes(
    old: Unit,
    new: Unit,
    correlation: Correlation,
    inclusion: Inclusion,
    changed: dict[int, str],
) -> tuple[FunctionChange, ...]:
    found = []
    for index, reason in sorted(changed.items()):
        atom = old.atoms[index]
        if cold_parent(fold(atom.name)) is not None:
            continue
        partner = new.atoms[int(correlation.to_patched[index])]
        found.append(
            FunctionChange(
                atom.name,
                reason,
                atom.size,
                partner.size,
                inclusion.piece_of[partner.index],
                atom.symbols[0],
            )
        )
    return tuple(found)


def _removed(old: Unit, correlation: Correlation) -> tuple[str, ...]:
    return tuple(
        atom.name
        for atom in old.atoms
        if atom.kind is Kind.FUNCTION
        and atom.symbols
        and correlation.to_patched[atom.index] == NO_ATOM
        and cold_parent(fold(atom.name)) is None
        and not is_boot_only(old.section(atom).name)
    )


def _removed_warnings(old: Unit, correlation: Correlation) -> list[Finding]:
    table = old.elf.symbols
    return [
        Finding(
            "global-removed",
            atom.name,
            f"global function '{atom.name}' is gone from the source; the running kernel keeps it "
            "for units that were not rebuilt",
        )
        for atom in old.atoms
        if atom.kind is Kind.FUNCTION
        and atom.symbols
        and correlation.to_patched[atom.index] == NO_ATOM
        and not is_boot_only(old.section(atom).name)
        and any(table.binding[s] != Binding.LOCAL for s in atom.symbols)
    ]
