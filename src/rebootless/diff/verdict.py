"""What a live patch must not do: findings over the compared atoms, each with a way out."""

from __future__ import annotations

from collections import defaultdict

from ..elf.constants import SectionType
from .compare import Comparison
from .correlate import Correlation
from .delta import Finding
from .names import (
    cold_parent,
    is_export_section,
    is_init_text,
    is_special_static,
    source_name,
    static_local_base,
)
from .normalize import NO_ATOM, POOLED, Atom, Kind, Unit, table_entries

DATA_HINT = (
    "the running kernel keeps its own copy: change it from a callback, or keep the data and change "
    "the code"
)


def copied_constants(
    orig: Unit, patched: Unit, correlation: Correlation, comparison: Comparison
) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Changed constants that may be copied: original atom -> (name, functions that use it).

    Only local read-only data that holds no address of code or data, and that only functions use:
    then every user is patched with it, and nothing can tell the copies apart.
    """
    users = _users(patched)
    found: dict[int, tuple[str, tuple[int, ...]]] = {}
    for index in comparison.changed:
        atom = orig.atoms[index]
        partner = patched.atoms[int(correlation.to_patched[index])]
        if atom.kind is not Kind.RODATA or not atom.symbols or partner.kind is not Kind.RODATA:
            continue
        if any(int(orig.elf.symbols.binding[s]) for s in atom.symbols):
            continue
        targets = {*orig.refs_of(atom).atom.tolist(), *patched.refs_of(partner).atom.tolist()}
        plain = len(targets) == 0 or (_only_strings(orig, atom) and _only_strings(patched, partner))
        using = users.get(partner.index, ())
        if plain and using and all(patched.atoms[u].kind is Kind.FUNCTION for u in using):
            found[index] = (atom.name, tuple(using))
    return found


def _only_strings(unit: Unit, atom: Atom) -> bool:
    return all(
        t != NO_ATOM and unit.atoms[t].kind is Kind.STRING for t in unit.refs_of(atom).atom.tolist()
    )


def _users(unit: Unit) -> dict[int, list[int]]:
    """Which atoms refer to each data atom (special sections left out)."""
    found: dict[int, list[int]] = defaultdict(list)
    for atom in unit.atoms:
        if atom.kind in POOLED or atom.kind is Kind.TABLE:
            continue
        for target in set(unit.refs_of(atom).atom.tolist()):
            if target != NO_ATOM and unit.atoms[target].kind in (Kind.DATA, Kind.RODATA):
                found[target].append(atom.index)
    return found


def data_findings(
    orig: Unit,
    patched: Unit,
    correlation: Correlation,
    comparison: Comparison,
    copied: frozenset[int],
) -> list[Finding]:
    """Refusals for data that changed, vanished, or cannot be told apart."""
    found = [
        Finding(
            "ambiguous-static-local",
            name,
            f"static variables named '{name}' changed in number and cannot be told apart; "
            "give them different names in the source",
        )
        for name in correlation.ambiguous
    ]
    for index, reason in sorted(comparison.changed.items()):
        atom = orig.atoms[index]
        if atom.kind in (Kind.DATA, Kind.RODATA) and index not in copied:
            found.append(_changed_data(orig, atom, reason))
    found += _removed_statics(orig, correlation)
    found += _export_findings(orig, patched)
    found += [
        Finding("section-group", s.name, f"section group '{s.name}' is not supported")
        for s in patched.elf.sections
        if s.type == SectionType.GROUP
    ]
    return found


def _changed_data(orig: Unit, atom: Atom, reason: str) -> Finding:
    section = orig.section(atom)
    name = static_local_base(atom.name) or atom.name
    if section.name.startswith((".init.", ".exit.")):
        return Finding("init-data", name, f"'{name}' is __init data, used up at boot: {reason}")
    if not atom.symbols:
        return Finding(
            "unsupported-section",
            section.name,
            f"the content of section '{section.name}' changed ({reason}); it is not supported",
        )
    what = "constant" if atom.kind is Kind.RODATA else "static data"
    return Finding("data-changed", name, f"{what} '{name}' changed ({reason}): {DATA_HINT}")


def _removed_statics(orig: Unit, correlation: Correlation) -> list[Finding]:
    found = []
    for atom in orig.atoms:
        if (
            atom.kind is Kind.DATA
            and atom.symbols
            and correlation.to_patched[atom.index] == NO_ATOM
            and static_local_base(atom.name) is not None
            and static_local_base(atom.name) not in correlation.ambiguous
            and not is_special_static(atom.name, orig.section(atom).name)
        ):
            name = static_local_base(atom.name) or atom.name
            found.append(
                Finding(
                    "static-local-removed",
                    name,
                    f"static local '{name}' is gone or is no longer found in its function: "
                    "its state in the running kernel would be lost; keep it in the source",
                )
            )
    return found


def _export_findings(orig: Unit, patched: Unit) -> list[Finding]:
    def exports(unit: Unit) -> set[str]:
        return {
            s.name.partition("+")[2]
            for s in unit.elf.sections
            if is_export_section(s.name) and "+" in s.name
        }

    return [
        Finding("export-changed", name, f"the export of '{name}' was {what} by the patch")
        for what, names in (
            ("added", exports(patched) - exports(orig)),
            ("removed", exports(orig) - exports(patched)),
        )
        for name in sorted(names)
    ]


def function_findings(
    orig: Unit, changed: dict[int, str]
) -> tuple[list[Finding], list[Finding], set[int]]:
    """Judges changed functions: (refusals, warnings, original atoms that cannot be patched).

    When something else can be patched, __init code that changed is a warning: it has run already.
    """
    traced = traced_functions(orig)
    init, refused, warnings = [], [], []
    unpatchable: set[int] = set()
    for index in sorted(changed):
        atom = orig.atoms[index]
        name = source_name(atom.name)
        section = orig.section(atom).name
        if is_init_text(section):
            unpatchable.add(index)
            init.append(
                Finding(
                    "init-function",
                    name,
                    f"'{name}' is in {section}: it runs at boot, load or exit only, and patching "
                    "it has no effect",
                )
            )
        elif traced is not None and index not in traced and cold_parent(atom.name) is None:
            refused.append(
                Finding(
                    "no-fentry",
                    name,
                    f"'{name}' has no call to __fentry__ (notrace, noinstr or early code): "
                    "livepatch cannot redirect it; patch a function that calls it",
                )
            )
    if traced is None and changed:
        warnings.append(
            Finding(
                "no-fentry-information",
                "",
                "the original object has no __mcount_loc section: whether its functions can be "
                "redirected cannot be told from it",
            )
        )
    if init and len(unpatchable) == len(changed):
        refused += init
    else:
        warnings += init
    return refused, warnings, unpatchable


def traced_functions(unit: Unit) -> set[int] | None:
    """The atoms that begin with a call to __fentry__; None if the object lists none at all."""
    found: set[int] = set()
    listed = False
    for name in ("__mcount_loc", "__patchable_function_entries"):
        for section in unit.elf.sections_named(name):
            if section.index in unit.refs:
                listed = True
                _, owners, _, _ = table_entries(unit, section)
                found.update(owners.tolist())
    return found if listed else None
