"""What the author of a patch says in it by the macros of kmod/rebootless.h.

The macros leave entries in sections `.rebootless.*` of the patched object: pointers to callbacks,
names of functions, variables and sections as strings, and system states as pairs of numbers. The
names are strings on purpose: a pointer to a function would change how the compiler treats it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from ..base.errors import ElfError
from ..elf.model import ElfFile
from .atoms import NO_ATOM, Atom, Kind, Unit
from .compare import Comparison
from .correlate import Correlation
from .delta import Callback, CallbackKind, Finding, SystemState
from .names import cold_parent, fold, is_init_text, source_name, static_local_base
from .tables import COMPANIONS, TABLES

PREFIX = ".rebootless."
_STATE = struct.Struct("<QQ")


@dataclass(frozen=True)
class Marks:
    """All that one unit says. A callback is the index of its atom in the patched object."""

    callbacks: tuple[tuple[CallbackKind, int], ...] = ()
    states: tuple[SystemState, ...] = ()
    ignored_functions: frozenset[str] = frozenset()
    forced_functions: frozenset[str] = frozenset()
    allowed_data: frozenset[str] = frozenset()
    ignored_sections: frozenset[str] = frozenset()

    @property
    def callback_atoms(self) -> list[int]:
        """The functions of the callbacks, to be included in the patch."""
        return [atom for _, atom in self.callbacks if atom != NO_ATOM]

    @property
    def source_only(self) -> frozenset[str]:
        """What is said of functions, variables and sections that a source patch changes."""
        named = self.ignored_functions | self.forced_functions | self.allowed_data
        return named | self.ignored_sections


def read_marks(patched: Unit) -> Marks:
    """Reads the marks of a patched object. Raises ElfError for ones that no macro makes."""
    elf = patched.elf
    return Marks(
        tuple(_callbacks(patched)),
        tuple(dict.fromkeys(_states(elf))),
        _names(elf, "ignore_function"),
        _names(elf, "force_function"),
        _names(elf, "allow_data"),
        _names(elf, "ignore_section"),
    )


def _callbacks(unit: Unit) -> Iterator[tuple[CallbackKind, int]]:
    elf = unit.elf
    for kind in CallbackKind:
        for section in elf.sections_named(PREFIX + kind.value):
            relocs = elf.relocations(section)
            if len(relocs) != 1:
                raise ElfError(f"{elf.name}: section '{section.name}' holds no single callback")
            symbol = int(relocs.symbol[0])
            place = int(elf.symbols.value[symbol]) + int(relocs.addend[0])
            yield kind, _function_at(unit, int(elf.symbols.shndx[symbol]), place)


def _function_at(unit: Unit, section: int, start: int) -> int:
    """The function that begins at a place; NO_ATOM when it is in no section of the object."""
    for atom in unit.atoms:
        if (atom.section, atom.start, atom.kind) == (section, start, Kind.FUNCTION):
            return atom.index
    return NO_ATOM


def _states(elf: ElfFile) -> Iterator[SystemState]:
    for section in elf.sections_named(PREFIX + "state"):
        if section.size % _STATE.size:
            raise ElfError(f"{elf.name}: section '{section.name}' holds half a state")
        for number, version in _STATE.iter_unpack(bytes(section.data)):
            yield SystemState(number, version)


def _names(elf: ElfFile, what: str) -> frozenset[str]:
    return frozenset(
        name.decode(errors="replace")
        for section in elf.sections_named(PREFIX + what)
        for name in bytes(section.data).split(b"\0")
        if name
    )


def callbacks_in(piece_of: dict[int, int], patched: Unit, marks: Marks) -> tuple[Callback, ...]:
    """The callbacks, by the pieces that they went into."""
    return tuple(
        Callback(kind, patched.atoms[atom].name, piece_of[atom])
        for kind, atom in marks.callbacks
        if atom != NO_ATOM
    )


def without_ignored(
    marks: Marks, orig: Unit, changed: dict[int, str]
) -> tuple[dict[int, str], list[Finding]]:
    """`changed` without the functions to ignore, and a warning for each that is left out."""
    kept, warnings = {}, []
    for index, reason in changed.items():
        name = source_name(orig.atoms[index].name)
        if name in marks.ignored_functions:
            text = f"'{name}' keeps its old code ({reason}): REBOOTLESS_IGNORE_FUNCTION says so"
            warnings.append(Finding("function-ignored", name, text))
        else:
            kept[index] = reason
    return kept, warnings


def ignored_callers(
    marks: Marks, orig: Unit, comparison: Comparison, redirected: AbstractSet[int]
) -> list[Finding]:
    """Refusals for clones in `redirected` that an ignored function, which changes, goes on calling.

    The compiler chooses anew how a clone is called whenever it compiles the callers.
    """
    found = {}
    for index in comparison.changed if marks.ignored_functions else ():
        caller = orig.atoms[index]
        if source_name(caller.name) not in marks.ignored_functions:
            continue
        for target in redirected & set(orig.refs_of(caller).atom.tolist()):
            name = orig.atoms[target].name
            if caller.kind is Kind.FUNCTION and fold(name) != name and cold_parent(name) is None:
                text = (
                    f"'{source_name(caller.name)}' is ignored, and would call the new "
                    f"'{name}' in the old way: the compiler may have changed how this clone is "
                    "called; ignore both, or patch both"
                )
                found[target, index] = Finding("ignored-caller", source_name(name), text)
    return [found[key] for key in sorted(found)]


def with_forced(
    marks: Marks, orig: Unit, correlation: Correlation, changed: dict[int, str]
) -> dict[int, str]:
    """`changed` with the functions that are to be patched in any case."""
    wider = dict(changed)
    for atom in orig.atoms if marks.forced_functions else ():
        if (
            atom.kind is Kind.FUNCTION
            and atom.symbols
            and source_name(atom.name) in marks.forced_functions
            and correlation.to_patched[atom.index] != NO_ATOM
        ):
            wider.setdefault(atom.index, "REBOOTLESS_FORCE_FUNCTION says so")
    return wider


def mark_findings(
    marks: Marks, orig: Unit, patched: Unit, correlation: Correlation
) -> tuple[list[Finding], list[Finding]]:
    """(refusals, warnings) for marks that cannot be followed, or that name nothing."""
    functions = {source_name(a.name) for a in orig.atoms if a.kind is Kind.FUNCTION and a.symbols}
    variables = {_variable(a) for a in orig.atoms if a.kind in (Kind.DATA, Kind.RODATA)}
    sections = {s.name: s for unit in (orig, patched) for s in unit.elf.sections}
    refused = callback_findings(marks, patched, correlation)
    for name in sorted(marks.forced_functions - functions):
        text = f"REBOOTLESS_FORCE_FUNCTION({name}): the shipped unit has no function of that name"
        refused.append(Finding("force-unknown", name, text))
    for name in sorted(marks.forced_functions & marks.ignored_functions):
        text = f"REBOOTLESS_FORCE_FUNCTION({name}) contradicts REBOOTLESS_IGNORE_FUNCTION({name})"
        refused.append(Finding("force-ignored", name, text))
    for name in sorted(marks.ignored_sections & sections.keys()):
        if sections[name].is_exec or name in TABLES or name in COMPANIONS:
            text = (
                f'REBOOTLESS_IGNORE_SECTION("{name}"): the section is code or belongs to code; '
                "use REBOOTLESS_IGNORE_FUNCTION for a function"
            )
            refused.append(Finding("ignored-code", name, text))
    return refused, [
        Finding(
            "mark-unknown",
            name,
            f"REBOOTLESS_{macro}: the shipped unit has no '{name}'; check the name",
        )
        for macro, names, known in (
            ("IGNORE_FUNCTION", marks.ignored_functions, functions),
            ("ALLOW_DATA", marks.allowed_data, variables),
            ("IGNORE_SECTION", marks.ignored_sections, sections.keys()),
        )
        for name in sorted(names - known)
    ]


def callback_findings(marks: Marks, patched: Unit, correlation: Correlation) -> list[Finding]:
    """Refusals for callbacks that the kernel could not call."""
    return [
        finding
        for kind, atom in marks.callbacks
        if (finding := _callback_finding(kind, atom, patched, correlation)) is not None
    ]


def _callback_finding(
    kind: CallbackKind, index: int, patched: Unit, correlation: Correlation
) -> Finding | None:
    macro = f"REBOOTLESS_{kind.value.upper()}"
    if index == NO_ATOM:
        return Finding(
            "callback-elsewhere",
            macro,
            f"the function of {macro} is not defined in its unit: define it there",
        )
    atom = patched.atoms[index]
    if is_init_text(patched.section(atom).name):
        return Finding(
            "callback-init",
            atom.name,
            f"the callback '{atom.name}' is __init, and would be gone when the patch is taken "
            "off: drop the __init",
        )
    if correlation.to_orig[index] != NO_ATOM:
        return Finding(
            "callback-not-new",
            atom.name,
            f"the callback '{atom.name}' is a function of the kernel: write a new one that calls "
            "it",
        )
    return None


def without_allowed(
    marks: Marks, orig: Unit, patched: Unit, correlation: Correlation, comparison: Comparison
) -> tuple[Comparison, list[Finding]]:
    """Takes out the variables whose new value the author vouches for, with a warning for each.

    A variable that grows stays in: what reads its new end would read another variable.
    """
    changed, warnings = dict(comparison.changed), []
    for index, reason in comparison.changed.items():
        atom = orig.atoms[index]
        name = _variable(atom)
        if atom.kind not in (Kind.DATA, Kind.RODATA) or name not in marks.allowed_data:
            continue
        partner = patched.atoms[int(correlation.to_patched[index])]
        if (atom.kind, partner.kind, atom.size) != (Kind.DATA, Kind.DATA, partner.size):
            changed[index] = f"{reason}, which REBOOTLESS_ALLOW_DATA cannot vouch for"
            continue
        del changed[index]
        text = (
            f"'{name}' has another initial value ({reason}), and the running kernel keeps the one "
            "it has unless a callback sets it: REBOOTLESS_ALLOW_DATA says so"
        )
        warnings.append(Finding("data-changed", name, text))
    return Comparison(changed), warnings


def _variable(atom: Atom) -> str:
    return static_local_base(atom.name) or atom.name
