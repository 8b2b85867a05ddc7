"""Run-pre matching of one unit: which shipped symbol is each symbol of our object?

Every function of the object is compared with the shipped code wherever a symbol of its name is.
Where the bytes agree, the shipped relocation fields tell the addresses of everything that the
function refers to. Those must agree between all functions, which

* tells static functions and data of the same name apart,
* finds static locals although their numbers differ (`x.123` here, `x.456` there),
* and carries on into data: a table found so is compared too, and its pointers tell more.

What remains with several possible places is decided by order, in two levels:

1. the linker keeps the code of a unit together: a place between two proven functions of the unit
   belongs to the unit (a `jhash` in the middle of af_netlink.o, of a dozen in the kernel);
2. functions come in the order in which gcc wrote them, here as there: a place next to that of the
   object's next or previous function is this one's (a `jhash` that comes first in its unit).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..elf.constants import RESERVED_BASE, SHN_UNDEF, Binding, SymbolType
from ..elf.model import ElfFile
from .blocks import SYMBOL, Block, BlockBuilder
from .compare import Difference, Fit, compare
from .order import Layout, family
from .result import DataMatch, FunctionMatch, Proven, Status, UnitMatch, describe
from .shipped import Shipped, folded


def match_unit(orig: ElfFile, shipped: Shipped) -> UnitMatch:
    """Matches every function and data section of `orig` against the shipped kernel or module."""
    return _Matcher(orig, shipped).run()


@dataclass
class _Pending:
    """A block whose place is not settled: the places where it fits, or the best near miss.

    `lone` says that only one place bears its name, be it this unit's or not.
    """

    block: Block
    fits: list[Fit]
    miss: tuple[int, Difference] | None = None
    lone: bool = False


class _Matcher:
    """The state of one run: facts (key -> place) grow until nothing more can be concluded."""

    def __init__(self, elf: ElfFile, shipped: Shipped) -> None:
        self.elf = elf
        self.shipped = shipped
        self.builder = BlockBuilder(elf)
        self.facts: dict[int, int] = {}
        self.taken: dict[int, int] = {}  # place -> section that starts there
        self.functions: dict[int, FunctionMatch] = {}
        self.data: dict[int, DataMatch] = {}
        self.uses: dict[int, frozenset[int]] = {}  # function symbol -> data sections
        self.layout = Layout()
        self.fresh: list[int] = []  # sections whose place was learned, content not yet compared
        self.data_sections = {s.index: s for s in self.builder.data_sections()}
        self._named: dict[tuple[int, int], bool] = {}

    def run(self) -> UnitMatch:
        blocks = self.builder.functions()
        for block in blocks:
            self.layout.add(block)
        pending = self._settle([self._pend(block) for block in blocks])
        while True:
            before = len(self.facts)
            self._data_by_name()
            pending = self._settle(pending)
            pending = self._by_order(pending)
            if len(self.facts) == before:
                break
        for item in pending:
            self._give_up(item)
        self._drop_strays()
        ordered = sorted(self.functions.values(), key=lambda f: f.symbol)
        data = tuple(self.data[k] for k in sorted(self.data))
        return UnitMatch(self.shipped.name, tuple(ordered), data, self._prove(), self.uses)

    # --- where a block may be -------------------------------------------------------------

    def _pend(self, block: Block) -> _Pending:
        names = [self.elf.symbols.names[i] for i in block.symbols]
        places = {p for name in names for p in self.shipped.candidates(name)}
        item = self._try(block, places)
        loose = {p for name in names for p in self.shipped.folded_candidates(name)} - places
        if not item.fits:
            more = self._try(block, loose)
            item = _Pending(block, more.fits, item.miss or more.miss)
        item.lone = len(places | loose) == 1
        return item

    def _try(self, block: Block, places: set[int]) -> _Pending:
        item = _Pending(block, [])
        for place in sorted(places):
            result = compare(self.elf, block, self.shipped, place)
            if isinstance(result, Fit):
                learned = result.learned.items()
                wrong = next((k for k, p in learned if not self._name_ok(k, p)), None)
                if wrong is None:
                    item.fits.append(result)
                    continue
                result = self._contradiction(block, wrong, result.learned[wrong])
            if item.miss is None or result.offset > item.miss[1].offset:
                item.miss = place, result
        return item

    def _contradiction(self, block: Block, key: int, place: int) -> Difference:
        """The code agrees, but it refers to something else than the object does."""
        there = self.shipped.name_at(place)
        what = f"{there.name}+{there.offset:#x}" if there else f"{place:#x}"
        hits = block.fields.offset[block.fields.key == key]
        offset = int(hits[0]) if len(hits) else 0
        return Difference(offset, b"", b"", f"refers to {what}, not to {self._key_name(key)}")

    def _key_name(self, key: int) -> str:
        if key >= SYMBOL:
            return self.elf.symbols.names[key - SYMBOL]
        symbol = self.elf.symbol_at(key, 0)
        return symbol.name if symbol else self.elf.sections[key].name

    def _name_ok(self, key: int, place: int) -> bool:
        """Whether what is shipped at `place` may bear the name that `key` stands for."""
        known = self._named.get((key, place))
        if known is None:
            known = self._named[key, place] = self._check_name(key, place)
        return known

    def _check_name(self, key: int, place: int) -> bool:
        table = self.elf.symbols
        if key >= SYMBOL:
            index = key - SYMBOL
            if place == 0 and table.binding[index] == Binding.WEAK:
                return True  # defined nowhere
            named = self.shipped.candidates(table.names[index])
            return place in named if named else not self.shipped.names_at(place)
        for index in self.elf.symbols_in_section.get(key, ())[:8]:
            name = table.names[index]
            if name.startswith(".L") or table.binding[index] == Binding.WEAK:
                continue
            there = self.shipped.names_at(place + int(table.value[index]))
            if any(folded(n) == folded(name) for n in there):
                continue
            # A name that is shipped nowhere may be one that the symbol table leaves out; but then
            # no other name is there either.
            if there or self.shipped.folded_candidates(name):
                return False
        return True

    # --- conclusions ----------------------------------------------------------------------

    def _settle(self, pending: list[_Pending]) -> list[_Pending]:
        """Fixes every block that fits in one place only and is tied to the unit there, until that
        changes nothing more."""
        changed = True
        while changed:
            changed = False
            rest = []
            for item in pending:
                self._narrow(item)
                if len(item.fits) == 1 and (item.lone or self._tied(item.block, item.fits[0])):
                    self._fix(item.block, item.fits[0])
                    changed = True
                else:
                    rest.append(item)
            pending = rest
            changed |= self._compare_learned()
        return pending

    def _tied(self, block: Block, fit: Fit) -> bool:
        """Whether proven code or data of the unit refers to the block, or to what it refers to.

        Equal code of another unit would fit as well, where the build differs from what is shipped
        of this one; but it cannot refer to what is private to this unit.
        """
        if block.section.index in self.facts:
            return True
        return any(k < SYMBOL and k in self.facts and self._private(k) for k in fit.learned)

    def _private(self, section: int) -> bool:
        """Whether all symbols of a section are local ones."""
        indices = self.elf.symbols_in_section.get(section, ())
        return all(self.elf.symbols.binding[i] == Binding.LOCAL for i in indices)

    def _narrow(self, item: _Pending) -> None:
        """Drops the places that contradict the facts; tries the place the facts demand."""
        section = item.block.section.index
        demanded = self.facts.get(section)
        if not item.fits and demanded is not None:
            place = demanded + item.block.start
            if item.miss is None or item.miss[0] != place:
                found = self._try(item.block, {place})
                item.fits, item.miss = found.fits, found.miss or item.miss
        keep = []
        for fit in item.fits:
            wrong = self._wrong(fit.learned)
            if wrong is None:
                keep.append(fit)
            else:
                item.miss = fit.place, self._clash(item.block, wrong, fit.learned[wrong])
        item.fits = keep

    def _wrong(self, learned: dict[int, int]) -> int | None:
        """The first key that the facts have elsewhere, or whose place is that of another key."""
        taken: dict[int, int] = {}
        for key, place in learned.items():
            if self.facts.get(key, place) != place:
                return key
            if key >= SYMBOL or not self.elf.sections[key].size:
                continue
            if taken.setdefault(place, key) != key or self.taken.get(place, key) != key:
                return key
        return None

    def _clash(self, block: Block, key: int, place: int) -> Difference:
        other = self.facts.get(key)
        hits = block.fields.offset[block.fields.key == key]
        reason = f"refers to {self._key_name(key)} at {place:#x}, but the rest of the unit has "
        reason += "something else there" if other is None else f"it at {other:#x}"
        return Difference(int(hits[0]) if len(hits) else 0, b"", b"", reason)

    def _fix(self, block: Block, fit: Fit) -> None:
        self._learn(fit.learned)
        self.layout.note(block, fit.place)
        uses = frozenset(block.fields.key.tolist()) & self.data_sections.keys()
        for index in block.symbols:
            self.uses[index] = uses
            self.functions[index] = FunctionMatch(
                self.elf.symbols.names[index], index, Status.MATCHED, fit.place, block.size,
                explained=fit.explained,
            )  # fmt: skip

    def _learn(self, learned: dict[int, int]) -> None:
        for key, place in learned.items():
            if key not in self.facts:
                self.facts[key] = place
                if key < SYMBOL and self.elf.sections[key].size:
                    self.taken[place] = key
                if key in self.data_sections and key not in self.data:
                    self.fresh.append(key)

    def _compare_learned(self) -> bool:
        """Compares the data sections whose place was learned; True if that taught more."""
        before = len(self.facts)
        while self.fresh:
            key = self.fresh.pop()
            if key not in self.data:
                self._compare_data(self.builder.data(self.data_sections[key]), self.facts[key])
        return len(self.facts) > before

    def _compare_data(self, block: Block, place: int) -> None:
        if not block.has_content:
            self._note_data(block, Status.MATCHED, place, "reference")
            return
        item = self._try(block, {place})
        self._narrow(item)
        if item.fits:
            self._note_data(block, Status.MATCHED, place, "reference")
            self._learn(item.fits[0].learned)
        else:
            self._note_data(block, Status.MISMATCHED, place, "reference", item.miss)

    def _note_data(
        self,
        block: Block,
        status: Status,
        place: int | None,
        evidence: str = "",
        miss: tuple[int, Difference] | None = None,
        reason: str = "",
    ) -> None:
        gap = miss[1] if miss else None
        self.data[block.section.index] = DataMatch(
            block.name, block.section.index, status, place, block.size, evidence,
            gap.offset if gap else None, gap.expected if gap else b"", gap.found if gap else b"",
            gap.reason if gap else reason,
        )  # fmt: skip

    def _data_by_name(self) -> None:
        """Places data that nothing proven refers to: by its name, and its content if it has any.

        Only where one place of that name is left; equal variables of other units are none of ours.
        Data without content and names is left out.
        """
        for index, section in self.data_sections.items():
            if index in self.data or index in self.facts:
                continue
            block = self.builder.data(section)
            if not block.symbols:
                continue
            first = block.symbols[0]
            name = self.elf.symbols.names[first]
            start = int(self.elf.symbols.value[first])
            places = self.shipped.candidates(name)
            numbered = folded(name) != name
            if not places or numbered:  # gcc's numbers tell nothing, even if equal
                places = self.shipped.folded_candidates(name)
            lone = len(places) == 1 and not numbered
            if not block.has_content:
                if lone and self._name_ok(index, places[0] - start):
                    self._note_data(block, Status.MATCHED, places[0] - start, "name")
                    self._learn({index: places[0] - start})
                continue
            item = self._try(block, {p - start for p in places})
            self._narrow(item)
            if len(item.fits) == 1 and (
                lone or not section.is_write or self._tied(block, item.fits[0])
            ):
                self._note_data(block, Status.MATCHED, item.fits[0].place, "content")
                self._learn(item.fits[0].learned)

    def _by_order(self, pending: list[_Pending]) -> list[_Pending]:
        """Settles blocks that fit in one place that is where the unit's code lies."""
        rest = []
        for item in pending:
            self._narrow(item)
            inside = [f for f in item.fits if self.layout.belongs(item.block, f.place)]
            if len(inside) == 1:
                self._fix(item.block, inside[0])
            else:
                rest.append(item)
        return self._settle(rest)

    def _drop_strays(self) -> None:
        """Takes back what was found away from the unit's code, and is referred to by none of it."""
        for block, home in self.layout.strays():
            for index in block.symbols:
                found = self.functions[index]
                reason = f"lies at {found.address:#x}, away from the unit's code at {home:#x}"
                self.functions[index] = replace(found, status=Status.MISMATCHED, reason=reason)

    def _give_up(self, item: _Pending) -> None:
        """Says why a block could not be placed."""
        block, table = item.block, self.elf.symbols
        status, place, gap, reason = Status.ABSENT, None, None, ""
        if item.fits:
            status = Status.AMBIGUOUS
            places = ", ".join(f"{f.place:#x}" for f in item.fits)
            reason = f"the same code is shipped at {places}, and nothing tells which is this one"
            if len(item.fits) == 1:
                reason = f"code of that name is shipped at {places}, maybe that of another unit"
        elif all(self._overridden(i) for i in block.symbols):
            reason = "weak, and overridden by another unit's definition"
        elif item.miss:
            status, (place, gap) = Status.MISMATCHED, item.miss
            reason = gap.reason
        elif block.section.name.startswith(".exit"):
            reason = "exit code, which is not kept in the shipped file"
        else:
            reason = f"{self.shipped.name} has no symbol of that name"
        for index in block.symbols:
            self.functions[index] = FunctionMatch(
                table.names[index], index, status, place, block.size,
                gap.offset if gap else None, gap.expected if gap else b"",
                gap.found if gap else b"", reason,
            )  # fmt: skip

    def _overridden(self, index: int) -> bool:
        """Whether a symbol is weak here and the shipped one of that name is not."""
        table = self.elf.symbols
        return table.binding[index] == Binding.WEAK and not self.shipped.is_weak(table.names[index])

    # --- the proof ------------------------------------------------------------------------

    def _prove(self) -> dict[int, Proven]:
        """The shipped symbol of every symbol of the object whose place is known."""
        table = self.elf.symbols
        found: dict[int, Proven] = {}
        files, weak = table.type == int(SymbolType.FILE), table.binding == int(Binding.WEAK)
        rows = zip(*(a.tolist() for a in (table.shndx, table.value, files, weak)), strict=True)
        for index, (shndx, value, is_file, is_weak) in enumerate(rows):
            place = self.facts.get(SYMBOL | index)
            if place is None and shndx != SHN_UNDEF and shndx < RESERVED_BASE:
                base = self.facts.get(shndx)
                place = None if base is None else base + value
            if place is None or is_file or index == 0:
                continue
            if place == 0 and shndx == SHN_UNDEF and is_weak:
                continue  # defined nowhere, although per-CPU symbols begin at 0
            name = table.names[index] or (self._key_name(shndx) if shndx < RESERVED_BASE else "")
            is_guess = is_weak and SYMBOL | index not in self.facts
            if is_guess and table.names[index] not in self.shipped.names_at(place):
                continue  # another unit's definition is the kernel's
            named = self.shipped.name_at(place, name)
            if named is not None:
                found[index] = Proven(place, named.name, named.sympos, named.offset, named.external)
        return found


__all__ = [
    "DataMatch", "FunctionMatch", "Proven", "Status", "UnitMatch", "describe", "family",
    "match_unit",
]  # fmt: skip
