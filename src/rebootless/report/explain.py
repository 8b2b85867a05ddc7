"""Two objects of a unit and their Delta -> the facts that explain each function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from ..diff.delta import Delta, FunctionChange, KernelRef, Piece, PieceKind, PieceRef
from ..diff.names import cold_parent
from ..elf.constants import SymbolType
from ..elf.model import ElfFile, Symbol
from .alignment import align, shortened
from .disassembly import Body, disassemble
from .facts import (
    NEW,
    OLD,
    Caller,
    Chain,
    FirstDifference,
    FunctionFacts,
    Listing,
    Mark,
    UnitFacts,
)
from .lines import has_lines, source_lines
from .references import by_kind, callers, gone, references, table_entries

# How the new code reaches a symbol of the running kernel: exported, private...
Reach = Callable[[KernelRef], str]
# The callers of a function outside of its unit.
Outside = Callable[[FunctionChange], Sequence[Caller]]
PATCH = "patch"


@dataclass(frozen=True)
class _Part:
    """A function, or its cold part, in both objects (None where it is not)."""

    old: Symbol | None
    new: Symbol | None

    @property
    def name(self) -> str:
        known = self.new or self.old
        return known.name if known else ""


@dataclass(frozen=True)
class _Function:
    kind: str
    change: FunctionChange
    parts: tuple[_Part, ...]
    bodies: tuple[tuple[Body, Body], ...]
    listings: tuple[Listing, ...]


def by_objects(ref: KernelRef) -> str:
    """The way to a symbol when only the objects are known: of this unit, or from elsewhere."""
    return "unit" if ref.defined else "elsewhere"


def explain_unit(
    orig: ElfFile,
    patched: ElfFile,
    delta: Delta,
    *,
    source: str = "",
    owner: str = "",
    written: str = "",
    reach: Reach = by_objects,
    outside: Outside = lambda change: (),
) -> UnitFacts:
    """Explains every changed, carried and new function of a unit.

    `source` and `owner` name the unit and the object (vmlinux or a module) that it belongs to,
    `written` the C file that was compiled in the unit's place, if there is one. Raises ElfError,
    ResourceError.
    """
    cold_old, cold_new = _cold_parts(orig), _cold_parts(patched)
    functions = [
        _function(orig, patched, kind, change, _parts(orig, patched, change, delta, cold))
        for cold in ((cold_old, cold_new),)
        for kind in ("changed", "carried", "new")
        for change in getattr(delta, kind)
    ]
    sources = _Sources(orig, patched, functions, (source, written) if written else ("", ""))
    neighbours = _Neighbours(orig, patched, functions)
    return UnitFacts(
        source,
        owner,
        tuple(
            _facts(f, sources, neighbours, _ways(delta, f, reach), tuple(outside(f.change)))
            for f in functions
        ),
        delta.new_data,
        delta.removed,
        tuple((t.section, t.entries) for t in delta.special),
        has_lines(orig) and has_lines(patched),
    )


def _cold_parts(elf: ElfFile) -> dict[str, Symbol]:
    """The cold parts of an object by the function that they belong to."""
    found: dict[str, Symbol] = {}
    for index, name in enumerate(elf.symbols.names):
        if ".cold" in name and elf.symbols.type[index] == SymbolType.FUNC:
            parent = cold_parent(name)
            if parent is not None:
                found.setdefault(parent, elf.symbols[index])
    return found


def _parts(
    orig: ElfFile,
    patched: ElfFile,
    change: FunctionChange,
    delta: Delta,
    cold: tuple[dict[str, Symbol], dict[str, Symbol]],
) -> tuple[_Part, ...]:
    old = orig.symbols[change.orig_symbol] if change.orig_symbol is not None else None
    new = _patched_symbol(patched, delta.pieces[change.piece])
    colds = _Part(cold[0].get(old.name) if old else None, cold[1].get(new.name) if new else None)
    return (_Part(old, new), colds) if colds.old or colds.new else (_Part(old, new),)


def _patched_symbol(patched: ElfFile, piece: Piece) -> Symbol | None:
    """The symbol that a function's piece was made of: of that name and size."""
    for index in patched.symbols.by_name.get(piece.name, ()):
        symbol = patched.symbols[index]
        if symbol.is_function and symbol.size == piece.size:
            return symbol
    return None


def _function(
    orig: ElfFile, patched: ElfFile, kind: str, change: FunctionChange, parts: tuple[_Part, ...]
) -> _Function:
    bodies = tuple(
        (
            disassemble(orig, part.old) if part.old else Body(),
            disassemble(patched, part.new) if part.new else Body(),
        )
        for part in parts
    )
    listings = tuple(
        Listing(part.name, shortened(align(old.instructions, new.instructions)))
        for part, (old, new) in zip(parts, bodies, strict=True)
    )
    return _Function(kind, change, parts, bodies, listings)


class _Sources:
    """The source of every instruction that is shown; of equal ones, as the original has it."""

    def __init__(
        self,
        orig: ElfFile,
        patched: ElfFile,
        functions: Iterable[_Function],
        renamed: tuple[str, str],
    ) -> None:
        """`renamed`: what the lines of the patched object call its C file, and what it is."""
        wanted: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})
        for function in functions:
            for part, listing in zip(function.parts, function.listings, strict=True):
                for side, symbol in ((OLD, part.old), (NEW, part.new)):
                    if symbol:
                        places = [symbol.value + n for n in _offsets(listing, side)]
                        wanted[side].setdefault(symbol.shndx, []).extend(places)
        with ThreadPoolExecutor(max_workers=2) as both:  # each waits for a program
            old, new = both.map(source_lines, (orig, patched), wanted)
        # With `#line` gcc's first two files differ, which binutils take for the same one.
        self._chains = (old, {at: _renamed(chain, *renamed) for at, chain in new.items()})

    def of(self, function: _Function) -> dict[tuple[str, int, int], Chain]:
        """(part, side, offset) -> chain, for the instructions of known source."""
        found = {}
        for part, listing in zip(function.parts, function.listings, strict=True):
            for side, symbol in ((OLD, part.old), (NEW, part.new)):
                if symbol:
                    known, shndx, base = self._chains[side], symbol.shndx, symbol.value
                    for offset in _offsets(listing, side):
                        chain = known.get((shndx, base + offset))
                        if chain:
                            found[(listing.name, side, offset)] = chain
        return found


def _renamed(chain: Chain, unit: str, written: str) -> Chain:
    return tuple(replace(f, file=written) if f.file == unit else f for f in chain)


def _offsets(listing: Listing, side: int) -> Iterator[int]:
    for row in listing.rows:
        one = row.new if side == NEW else row.old
        if one and (side == OLD or row.mark is not Mark.SAME):
            yield one.offset


class _Neighbours:
    """What functions refer to and who refers to them."""

    def __init__(self, orig: ElfFile, patched: ElfFile, functions: Sequence[_Function]) -> None:
        self._orig, self._patched = orig, patched
        old = [f.parts[0].old for f in functions if f.parts[0].old]
        new = [f.parts[0].new for f in functions if f.parts[0].new]
        self._callers = callers(orig, old), callers(patched, new)
        self._tables = table_entries(patched, [p.new for f in functions for p in f.parts if p.new])

    def callers(self, function: _Function) -> tuple[Caller, ...]:
        """The callers within the unit, before or after."""
        main = function.parts[0]
        before = self._callers[0].get(main.old.index, ()) if main.old else ()
        after = self._callers[1].get(main.new.index, ()) if main.new else ()
        return tuple(sorted({*before, *after}, key=lambda c: (c.name, c.how)))

    def special(self, function: _Function) -> tuple[tuple[str, int], ...]:
        """The entries of special sections that belong to the new code."""
        total: Counter[str] = Counter()
        for part in function.parts:
            if part.new:
                total += self._tables[part.new.index]
        return tuple(sorted(total.items()))


def _ways(delta: Delta, function: _Function, reach: Reach) -> dict[tuple[str, int], str]:
    """How each relocation of the new code finds its target: (part, offset) -> way."""
    found = {}
    names = {part.name for part in function.parts}
    for piece in delta.pieces:
        if piece.kind is PieceKind.FUNCTION and piece.name in names:
            for reloc in piece.relocs:
                here = isinstance(reloc.target, PieceRef)
                way = PATCH if isinstance(reloc.target, PieceRef) else reach(reloc.target)
                found[(piece.name, reloc.offset)] = PATCH if here else way
    return found


def _facts(
    function: _Function,
    sources: _Sources,
    neighbours: _Neighbours,
    ways: dict[tuple[str, int], str],
    outside: tuple[Caller, ...],
) -> FunctionFacts:
    change = function.change
    chains = sources.of(function)
    before = [use for old, _ in function.bodies for use in old.uses]
    after = [
        (part.name, use)
        for part, (_, new) in zip(function.parts, function.bodies, strict=True)
        for use in new.uses
    ]
    way_of = {id(use): ways.get((part, use.offset), PATCH) for part, use in after}
    new_uses = [use for _, use in after]
    own = {part.name for part in function.parts}
    return FunctionFacts(
        name=change.name,
        kind=function.kind,
        reason=change.reason,
        size_old=change.size_old,
        size_new=change.size_new,
        first=None if function.kind == "new" else _first(function, chains),
        relocs_old=by_kind(before),
        relocs_new=by_kind(new_uses),
        references=tuple(
            r for r in references(before, new_uses, lambda u: way_of[id(u)]) if r.name not in own
        ),
        gone=gone(before, new_uses) if function.kind != "new" else (),
        callers=neighbours.callers(function) + outside,
        special=neighbours.special(function),
        listings=function.listings,
        chains=chains,
    )


def _first(
    function: _Function, chains: dict[tuple[str, int, int], Chain]
) -> FirstDifference | None:
    """The first row that is not equal; None where only tables or constants differ."""
    for listing in function.listings:
        for row in listing.rows:
            if row.mark in (Mark.SAME, Mark.SKIPPED):
                continue
            old, new = row.old, row.new
            side, at = (NEW, new.offset) if new else (OLD, old.offset if old else 0)
            return FirstDifference(
                listing.name,
                old.offset if old else None,
                new.offset if new else None,
                old.text if old else "",
                new.text if new else "",
                chains.get((listing.name, side, at), ()),
            )
    return None
