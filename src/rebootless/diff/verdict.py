"""What a live patch must not do: findings over the compared atoms, each with a way out."""

from __future__ import annotations

from collections import defaultdict

from .atoms import I64, NO_ATOM, POOLED, Atom, Kind, Unit, is_inside
from .compare import Comparison
from .correlate import Correlation
from .delta import NO_FENTRY, NO_FENTRY_INFORMATION, Finding
from .names import (
    cold_parent,
    is_boot_only,
    is_compilers_text,
    is_init_text,
    is_plain_data_section,
    is_special_static,
    local_name,
    source_name,
)

DATA_HINT = (
    "the running kernel keeps its own copy: set it from a callback and say so by "
    "REBOOTLESS_ALLOW_DATA, or keep the data and change the code"
)
CONSTANT_HINT = (
    "the running kernel keeps its own copy, which is read-only: keep it and change the code"
)


def copied_constants(
    orig: Unit, patched: Unit, correlation: Correlation, comparison: Comparison
) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Changed data that may be copied: original atom -> (name, functions that use it).

    Statics that macros make; and local read-only data that only functions use, and that holds no
    address but of strings and of places inside of its users (a switch table): then every user is
    patched with it, and nothing can tell the copies apart.
    """
    users = _users(patched)
    found: dict[int, tuple[str, tuple[int, ...]]] = {}
    for index in comparison.changed:
        atom = orig.atoms[index]
        partner = patched.atoms[int(correlation.to_patched[index])]
        section = orig.section(atom).name
        if atom.kind not in (Kind.DATA, Kind.RODATA) or section == ".BTF_ids":
            continue
        using = tuple(users.get(partner.index, ()))
        special = is_special_static(atom.name, section)
        if not all(patched.atoms[u].kind is Kind.FUNCTION for u in using):
            continue
        local = not any(int(orig.elf.symbols.binding[s]) for s in atom.symbols)
        plain = _is_plain(orig, atom, users=None) and _is_plain(patched, partner, using)
        if special or (using and local and plain):
            found[index] = (atom.name, using)
    return found


def _is_plain(unit: Unit, atom: Atom, users: tuple[int, ...] | None) -> bool:
    """Whether an atom is read-only data without addresses, but for those that may be copied."""
    if atom.kind is not Kind.RODATA:
        return False
    refs = unit.refs_of(atom)
    for target, addend in zip(refs.atom.tolist(), refs.addend.tolist(), strict=True):
        if target == NO_ATOM:
            return False
        other = unit.atoms[target]
        inside = is_inside(other, addend)
        if other.kind is not Kind.STRING and not inside:
            return False
        if inside and users is not None and target not in users and not _cold(unit, other, users):
            return False
    return True


def _cold(unit: Unit, atom: Atom, users: tuple[int, ...]) -> bool:
    return cold_parent(atom.name) in {unit.atoms[u].name for u in users}


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
            f"several static variables named '{name}' of one function cannot be told apart once "
            "it changes: patch a function that calls it, or one that it calls",
        )
        for name in correlation.ambiguous
    ]
    for index, reason in sorted(comparison.changed.items()):
        atom = orig.atoms[index]
        if atom.kind in (Kind.DATA, Kind.RODATA) and index not in copied:
            found.append(_changed_data(orig, atom, reason))
    found += _removed_statics(orig, correlation)
    return found


def _changed_data(orig: Unit, atom: Atom, reason: str) -> Finding:
    section = orig.section(atom)
    name = local_name(atom.name) or atom.name
    if section.name.startswith((".init.", ".exit.")):
        return Finding("init-data", name, f"'{name}' is __init data, used up at boot: {reason}")
    if section.name == ".BTF_ids":
        return Finding(
            "btf-ids",
            name,
            f"the list of BTF ids '{name}' changed ({reason}): it is resolved when the kernel is "
            "linked; check in a patched function instead",
        )
    if not atom.symbols:
        return Finding(
            "unsupported-section",
            section.name,
            f"the content of section '{section.name}' changed ({reason}); it is not supported",
        )
    if atom.kind is Kind.RODATA:
        return Finding(
            "data-changed", name, f"constant '{name}' changed ({reason}): {CONSTANT_HINT}"
        )
    return Finding("data-changed", name, f"static data '{name}' changed ({reason}): {DATA_HINT}")


def _removed_statics(orig: Unit, correlation: Correlation) -> list[Finding]:
    found = []
    for atom in orig.atoms:
        if (
            atom.kind is Kind.DATA
            and atom.symbols
            and correlation.to_patched[atom.index] == NO_ATOM
            and local_name(atom.name) is not None
            and not is_boot_only(orig.section(atom).name)
            and local_name(atom.name) not in correlation.ambiguous
            and not is_special_static(atom.name, orig.section(atom).name)
        ):
            name = local_name(atom.name) or atom.name
            found.append(
                Finding(
                    "static-local-removed",
                    name,
                    f"static local '{name}' is gone or is no longer found in its function: "
                    "its state in the running kernel would be lost; keep it in the source",
                )
            )
    return found


def _grouped(name: str) -> Finding:
    return Finding(
        "section-group",
        name,
        f"'{name}' is in a section group, of which the kernel keeps the copy of one unit for all: "
        "give the new code another name",
    )


def function_findings(
    orig: Unit, changed: dict[int, str], traced: set[int] | None, carried: frozenset[int]
) -> tuple[list[Finding], list[Finding], set[int]]:
    """Judges changed functions: (refusals, warnings, original atoms that cannot be patched).

    `traced` have a fentry (None: not known), `carried` are reached through patched callers alone.
    When something else can be patched, __init code that changed is a warning: it has run already.
    """
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
        elif orig.section(atom).is_grouped:
            refused.append(_grouped(name))
        elif (
            traced is not None
            and index not in traced
            and index not in carried
            and cold_parent(atom.name) is None
        ):
            refused.append(
                Finding(
                    NO_FENTRY,
                    name,
                    f"'{name}' has no call to __fentry__ (notrace, noinstr or early code): "
                    "livepatch cannot redirect it; patch a function that calls it",
                )
            )
    if traced is None and changed:
        warnings.append(
            Finding(
                NO_FENTRY_INFORMATION,
                "",
                "the original object has no __mcount_loc section: whether its functions can be "
                "redirected cannot be told from it",
            )
        )
    if init and not changed.keys() - unpatchable - carried:
        refused += init
    else:
        warnings += init
    return refused, warnings, unpatchable


def renaming_warnings(orig: Unit, patched: Unit, correlation: Correlation) -> list[Finding]:
    """Variables that are gone where one of the same size is new: only renamed, perhaps."""
    gone = _variables(orig, correlation.to_patched)
    fresh = _variables(patched, correlation.to_orig)
    return [
        Finding(
            "data-renamed",
            old.name,
            f"'{old.name}' is gone, and '{new.name}' of the same size is new: if it was only "
            "renamed, its value in the running kernel is lost; keep the old name",
        )
        for old in gone
        for new in fresh
        if old.size == new.size and orig.section(old).type == patched.section(new).type
    ]


def _variables(unit: Unit, partner: I64) -> list[Atom]:
    """The writable variables of a file that have no partner, static locals left out."""
    return [
        a
        for a in unit.atoms
        if a.kind is Kind.DATA
        and a.symbols
        and partner[a.index] == NO_ATOM
        and local_name(a.name) is None
        and is_plain_data_section(unit.section(a).name)
        and not is_special_static(a.name, unit.section(a).name)
    ]


def move_warnings(orig: Unit, patched: Unit, correlation: Correlation) -> list[Finding]:
    """Functions whose attribute (noinstr, __sched, __kprobes...) the patch changes."""
    found = []
    for atom in orig.atoms:
        partner = int(correlation.to_patched[atom.index])
        if atom.kind is not Kind.FUNCTION or partner == NO_ATOM:
            continue
        before = orig.section(atom).name
        after = patched.section(patched.atoms[partner]).name
        if before == after or (is_compilers_text(before) and is_compilers_text(after)):
            continue
        if not is_init_text(after):
            found.append(
                Finding(
                    "section-moved",
                    source_name(atom.name),
                    f"'{source_name(atom.name)}' moves from {before} to {after}: a live patch's "
                    "code stays with the patch, so what the section means does not come with it",
                )
            )
    return found


def traced_functions(unit: Unit) -> set[int] | None:
    """The atoms that begin with a call to __fentry__; None if the object lists none at all."""
    found = {
        owner
        for entries in unit.tables
        if entries.section.name == "__mcount_loc"
        for owner in entries.owner.tolist()
    }
    return found or None
