"""The object of a hand-written patch -> Delta: it says itself what it replaces.

Nothing is compared. The functions that REBOOTLESS_PATCH names are the changed ones, all else in
the object is new, and what the object leaves undefined is in the kernel. So the steps after this
one are those of any patch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..elf.constants import SHN_UNDEF, Binding, SymbolType
from ..elf.model import ElfFile
from .atoms import NO_ATOM, Atom, Kind, Unit
from .correlate import Correlation
from .delta import Delta, Finding, FunctionChange, KernelRef, Piece
from .include import Inclusion, include, new_functions
from .marks import callback_findings, callbacks_in, read_marks
from .names import fold, source_name, static_local_base
from .normalize import normalize
from .records import PatchRecord, Records, SymbolRecord, read_records
from .verdict import function_findings, traced_functions


def handwritten(orig: ElfFile, made: ElfFile, owner: str) -> Delta:
    """What the object `made` replaces of the unit `orig`, which belongs to `owner`.

    Never raises for what the author wrote: that is in `Delta.refused`. Raises ElfError for
    malformed objects.
    """
    old, new = normalize(orig), normalize(made)
    records = read_records(made)
    pairs, refused = _pairs(old, new, records, owner)
    correlation = _correlation(old, new, pairs)
    changed = {a.index: "replaced" for a, _ in pairs}
    findings, warnings, unpatchable = function_findings(
        old, changed, traced_functions(old), frozenset()
    )
    marks = read_marks(new)
    refused += findings + callback_findings(marks, new, correlation)
    warnings += [
        Finding("mark-unknown", name, f"what is said of '{name}' is for source patches only")
        for name in sorted(marks.source_only)
    ]
    kept = [(a, b) for a, b in pairs if a.index not in unpatchable]
    roots = [b.index for _, b in kept] + marks.callback_atoms
    inclusion = include(old, new, correlation, roots, frozenset())
    declared = {record.identifier: record for record in records.symbols}
    for name in {a.name for a, _ in pairs} - declared.keys():
        declared[name] = SymbolRecord(owner, name, name, -1)
    pieces, undeclared = _with_declared(inclusion.pieces, declared, orig, owner)
    return Delta(
        changed=tuple(_change(a, b, inclusion) for a, b in kept),
        new=new_functions(new, inclusion, correlation),
        removed=(),
        new_data=inclusion.new_data,
        special=inclusion.special,
        refused=(*refused, *inclusion.findings, *undeclared),
        warnings=tuple(warnings),
        pieces=pieces,
        callbacks=callbacks_in(inclusion.piece_of, new, marks),
        states=marks.states,
    )


def _pairs(
    old: Unit, new: Unit, records: Records, owner: str
) -> tuple[list[tuple[Atom, Atom]], list[Finding]]:
    """(replaced, replacement) for each record, and what is wrong with the others."""
    theirs, ours = _functions(old), _functions(new)
    pairs: dict[int, tuple[Atom, Atom]] = {}
    refused = []
    for record in records.patches:
        if (wrong := _wrong(record, owner, theirs, ours)) is not None:
            refused.append(wrong)
        elif theirs[record.old].index in pairs:
            refused.append(
                Finding("replaced-twice", record.old, f"'{record.old}' is replaced more than once")
            )
        else:
            pairs[theirs[record.old].index] = theirs[record.old], ours[record.new]
    return [pairs[index] for index in sorted(pairs)], refused


def _functions(unit: Unit) -> dict[str, Atom]:
    names = unit.elf.symbols.names
    return {names[s]: a for a in unit.atoms if a.kind is Kind.FUNCTION for s in a.symbols}


def _wrong(
    record: PatchRecord, owner: str, theirs: dict[str, Atom], ours: dict[str, Atom]
) -> Finding | None:
    """Why a record cannot be followed; None if it can."""
    if record.object != owner:
        return Finding(
            "wrong-object",
            record.old,
            f"REBOOTLESS_PATCH says that '{record.old}' belongs to {record.object}, but its unit "
            f"is a part of {owner}",
        )
    if record.old not in theirs:
        return _without_symbol(record.old, theirs)
    if record.new not in ours:
        return Finding("not-in-unit", record.new, f"the file has no function '{record.new}'")
    return None


def _without_symbol(name: str, functions: Iterable[str]) -> Finding:
    clones = sorted(n for n in functions if n != name and _is_clone(n, name))
    why = "the compiler has put it into its callers, or it is of another unit"
    if clones:
        why = f"only its clone {clones[0]}, which is called in a way of its own"
    return Finding(
        "not-in-unit",
        name,
        f"the unit's object has no function '{name}' ({why}): replace the functions that call it",
    )


def _is_clone(name: str, wanted: str) -> bool:
    return source_name(name) == wanted and fold(name) != wanted


def _correlation(old: Unit, new: Unit, pairs: Iterable[tuple[Atom, Atom]]) -> Correlation:
    to_patched = np.full(len(old.atoms), NO_ATOM, np.int64)
    to_orig = np.full(len(new.atoms), NO_ATOM, np.int64)
    for a, b in pairs:
        to_patched[a.index], to_orig[b.index] = b.index, a.index
    return Correlation(to_patched, to_orig, ())


def _change(old: Atom, new: Atom, inclusion: Inclusion) -> FunctionChange:
    reason = f"replaced by '{new.name}'" if new.name != old.name else "replaced"
    piece = inclusion.piece_of[new.index]
    return FunctionChange(old.name, reason, old.size, new.size, piece, old.symbols[0])


def _with_declared(
    pieces: Iterable[Piece], declared: dict[str, SymbolRecord], orig: ElfFile, owner: str
) -> tuple[tuple[Piece, ...], list[Finding]]:
    """The pieces with references to declared symbols as the author declared them.

    A name that is private to the unit must be declared: the file says what it depends on.
    """
    found: dict[str, Finding] = {}

    def settled(ref: KernelRef) -> KernelRef:
        record = declared.get(ref.name)
        if record is None:
            if ref.orig_symbol is not None and _is_private(orig, ref.orig_symbol):
                found[ref.name] = _undeclared(ref.name, owner)
            return ref
        if record.position < 0:  # a function that this file replaces
            return ref
        numbered = static_local_base(record.name) is not None  # the numbers differ between builds
        known = () if numbered else orig.symbols.by_name.get(record.name, ())
        index = known[0] if len(known) == 1 and record.object == owner else None
        return replace(
            ref,
            name=record.name,
            orig_symbol=index,
            position=record.position,
            object=record.object,
        )

    settled_pieces = tuple(
        replace(
            piece,
            relocs=tuple(
                replace(r, target=settled(r.target)) if isinstance(r.target, KernelRef) else r
                for r in piece.relocs
            ),
        )
        for piece in pieces
    )
    return settled_pieces, list(found.values())


def _is_private(orig: ElfFile, symbol: int) -> bool:
    table = orig.symbols
    return bool(
        table.binding[symbol] == Binding.LOCAL
        and table.shndx[symbol] != SHN_UNDEF
        and table.type[symbol] != SymbolType.SECTION
    )


def _undeclared(name: str, owner: str) -> Finding:
    return Finding(
        "undeclared-symbol",
        name,
        f"'{name}' is private to its unit, and the file does not declare it: add "
        f"REBOOTLESS_SYMBOL({owner}, {name}, 0); beside its `extern` declaration",
    )
