"""Whether code that is not patched calls a function whose parameters or result changed.

The running kernel's callers pass what the old prototype says, and livepatch sends them to the new
code. That is fine only if every caller is patched along with the function. A function whose own
code stays as it was serves old and new callers alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ..diff.atoms import Atom, Kind, Unit
from ..diff.carry import uses, with_parent
from ..diff.delta import Delta, Finding
from ..diff.names import cold_parent, is_export_section, is_init_text
from ..diff.normalize import normalize
from ..elf.constants import Binding
from ..elf.model import ElfFile
from .typechange import PrototypeChange, TypeChanges

NAMED_CALLERS = 3


@dataclass(frozen=True)
class Outside:
    """Who calls a function, or holds its address, in the shipped kernel and is not patched."""

    callers: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()


Elsewhere = Callable[[int], Outside]


def prototype_findings(
    changes: TypeChanges, orig: ElfFile, delta: Delta, elsewhere: Elsewhere
) -> tuple[Finding, ...]:
    """Refusals for changed functions that something which is not patched calls.

    `elsewhere` says who uses a global function (a symbol of the original object) in the shipped
    kernel and is not patched. Raises ElfError.
    """
    patched = {c.name for c in (*delta.changed, *delta.carried)}
    wanted = [p for p in changes.prototypes if p.name in patched]
    return tuple(_findings(wanted, orig, patched, elsewhere)) if wanted else ()


def _findings(
    wanted: Sequence[PrototypeChange], orig: ElfFile, patched: set[str], elsewhere: Elsewhere
) -> Iterator[Finding]:
    unit = normalize(orig)
    functions = {
        a.name: a for a in unit.atoms if a.kind is Kind.FUNCTION and cold_parent(a.name) is None
    }
    for change in wanted:
        function = functions.get(change.name)
        if function is None:
            continue
        users = {
            (unit.atoms[with_parent(unit, user.index)].name, is_call)
            for user, is_call in uses(unit, function.index)
            if not _is_beside_the_point(unit, user, is_call)
        }
        kept = [name for name, is_call in users if is_call and name not in patched]
        stored = [name for name, is_call in users if not is_call]
        binding = orig.symbols.binding
        if any(binding[s] != Binding.LOCAL for s in function.symbols):
            outside = elsewhere(function.symbols[0])
            kept += outside.callers
            stored += outside.holders
        if kept or stored:
            yield _finding(change, sorted(set(kept)), sorted(set(stored)))


def _is_beside_the_point(unit: Unit, user: Atom, is_call: bool) -> bool:
    """A reference that says nothing of later calls; other units' use of exports is asked for."""
    section = unit.section(user).name
    return (
        unit.is_passive(user) or is_export_section(section) or (is_call and is_init_text(section))
    )


def _finding(change: PrototypeChange, kept: Sequence[str], stored: Sequence[str]) -> Finding:
    why = []
    if kept:
        why.append(f"{_named(kept)} would call the new code in the old way")
    if stored:
        why.append(f"its address is in {_named(stored)}, for callers unknown")
    return Finding(
        "prototype-changed",
        change.name,
        f"'{change.name}' changes its parameters or result, and {'; '.join(why)}\n"
        f"      - {change.old}\n      + {change.new}\n"
        "      Leave the function as it is, and have the patched callers call a new one",
    )


def _named(names: Sequence[str]) -> str:
    text = ", ".join(f"'{name}'" for name in names[:NAMED_CALLERS])
    return f"{text}, ..." if len(names) > NAMED_CALLERS else text
