"""An object file -> `Unit`: cuts it into atoms and rewrites its relocations onto them."""

from __future__ import annotations

import bisect
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ..base.errors import ElfError
from ..elf.constants import (
    PADDING_NAME,
    PC_RELATIVE,
    RESERVED_BASE,
    SHN_UNDEF,
    SYM_SIZE,
    SectionType,
    SymbolType,
)
from ..elf.insn import instruction_ends, is_padding
from ..elf.model import ElfFile, Section
from .atoms import I64, NO_ATOM, NOTHING, Atom, Kind, Refs, Unit
from .names import is_btf_id, is_ignored_section, is_passive_section
from .tables import ALTERNATIVES, COMPANIONS, SNIPPET_SECTIONS, TABLES, entry_shape

_PC_TYPES = np.array([int(t) for t in PC_RELATIVE], dtype=np.uint32)
_MAX_SIZE = 1 << 31  # what 32-bit relocations can span
_MAX_ZEROS = 1 << 28  # which are compared as bytes; the whole kernel may span 1 GiB
_MAX_CHARACTER = 8
_CONTENT = (int(SectionType.PROGBITS), int(SectionType.NOBITS))
_NOBITS = int(SectionType.NOBITS)
_CODE = frozenset({int(SymbolType.FUNC)})
_VARIABLES = frozenset({int(SymbolType.OBJECT), int(SymbolType.NOTYPE), int(SymbolType.TLS)})


def normalize(elf: ElfFile) -> Unit:
    """Cuts a relocatable object into atoms and rewrites its relocations onto them, once.

    Raises ElfError when the entries of a special section cannot be told apart, and for sizes,
    symbols and addends that no object has.
    """
    known = elf.derived.get("normalized")
    if not isinstance(known, Unit):
        known = elf.derived["normalized"] = _normalize(elf)
    return known


def _normalize(elf: ElfFile) -> Unit:
    relevant = [s for s in elf.sections if _is_relevant(s)]
    _check(elf, relevant)
    builder = _Builder(elf)
    for section in relevant:
        builder.add_section(section)
    active = [s for s in relevant if len(elf.relocations(s)) and not is_passive_section(s.name)]
    builder.cut_snippets(active)
    refs = {section.index: builder.references(section) for section in active}
    return Unit(elf, tuple(builder.atoms), refs)


def _is_relevant(section: Section) -> bool:
    return (
        section.is_alloc
        and section.type in _CONTENT
        and section.name not in COMPANIONS
        and not is_ignored_section(section.name)
    )


def _check(elf: ElfFile, relevant: list[Section]) -> None:
    """Raises ElfError for what would make no sense further on."""
    table = elf.symbols
    far = np.nonzero((table.value > _MAX_SIZE) & (table.shndx < RESERVED_BASE))[0]
    if len(far):
        raise ElfError(f"{elf.name}: symbol {_symbol(elf, int(far[0]))} is out of any range")
    sizes = np.zeros(len(elf.sections) + 1, np.uint64)
    for section in relevant:
        sizes[section.index] = section.size
        if section.size > _MAX_SIZE or (
            section.type == SectionType.NOBITS and section.size > _MAX_ZEROS
        ):
            raise ElfError(f"{elf.name}: section {section.label} has a size of {section.size}")
        if section.is_string_pool and section.entsize > _MAX_CHARACTER:
            raise ElfError(
                f"{elf.name}: the characters of {section.label} have {section.entsize} bytes"
            )
        addend = elf.relocations(section).addend
        if len(addend) and (addend.min() < -_MAX_SIZE or addend.max() > _MAX_SIZE):
            raise ElfError(f"{elf.name}: an addend of section {section.label} is out of any range")
    _check_places(elf, sizes, {s.index for s in relevant})


def _symbol(elf: ElfFile, index: int) -> str:
    """A symbol in a message: its number, and where the table is."""
    table = next(s for s in elf.sections if s.type == SectionType.SYMTAB)
    return f"{index} at offset {table.offset + index * SYM_SIZE:#x}"


def _check_places(elf: ElfFile, sizes: npt.NDArray[np.uint64], relevant: set[int]) -> None:
    """Raises ElfError for a symbol beyond its section."""
    table = elf.symbols
    shndx = np.minimum(table.shndx, len(elf.sections))
    for i in np.nonzero(table.value > sizes[shndx])[0].tolist():
        section = int(shndx[i])
        if section in relevant and i in elf.symbols_in_section.get(section, NOTHING):
            beyond = elf.sections[section].label
            raise ElfError(f"{elf.name}: symbol {_symbol(elf, i)} lies beyond section {beyond}")


class _Builder:
    """Collects atoms; those of pools and snippets come to be when something points at them."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self.atoms: list[Atom] = []
        self.of_symbol = np.full(max(len(elf.symbols), 1), NO_ATOM, np.int64)
        self._starts: dict[int, list[int]] = {}
        self._indices: dict[int, list[int]] = {}
        self._pooled: dict[tuple[int, int], int] = {}
        self._blobs: dict[int, bytes] = {}
        self._snippets: list[Section] = []

    def _new(
        self,
        kind: Kind,
        name: str,
        section: Section,
        start: int,
        end: int,
        symbols: tuple[int, ...] = (),
        prefix: int = 0,
    ) -> int:
        index = len(self.atoms)
        self.atoms.append(Atom(index, kind, name, section.index, start, end, symbols, prefix))
        for symbol in symbols:
            self.of_symbol[symbol] = index
        return index

    def add_section(self, section: Section) -> None:
        if section.name in TABLES:
            self._one_atom(section, Kind.TABLE)
        elif section.name in SNIPPET_SECTIONS or self._is_nameless_code(section):
            self._snippets.append(section)
        elif not (section.is_string_pool or section.is_constant_pool):
            self._cut_at_symbols(section)

    def _is_nameless_code(self, section: Section) -> bool:
        """Whether macros put parts of functions there, which the functions jump to."""
        inside = self.elf.symbols_in_section.get(section.index, NOTHING)
        return section.is_exec and section.size > 0 and not len(inside)

    def _one_atom(self, section: Section, kind: Kind) -> None:
        self._place(section, [self._new(kind, section.name, section, 0, section.size)])

    def _place(self, section: Section, indices: list[int]) -> None:
        self._indices[section.index] = indices
        self._starts[section.index] = [self.atoms[i].start for i in indices]

    def _cut_at_symbols(self, section: Section) -> None:
        kind, wanted = Kind.FUNCTION, _CODE
        if not section.is_exec:
            kind, wanted = Kind.DATA if section.is_write else Kind.RODATA, _VARIABLES
        table = self.elf.symbols
        inside = self.elf.symbols_in_section.get(section.index, NOTHING).tolist()
        heads = [i for i in inside if int(table.type[i]) in wanted] or inside
        if section.name == ".BTF_ids":  # the lists; the entries' names carry numbers
            heads = [i for i in heads if not is_btf_id(table.names[i])]
        prefixes = {
            int(table.value[i] + table.size[i]): int(table.size[i])
            for i in heads
            if section.is_exec and table.names[i].startswith(PADDING_NAME)
        }
        if prefixes:
            heads = [i for i in heads if not table.names[i].startswith(PADDING_NAME)]
        if not heads:
            if section.size:
                self._one_atom(section, kind)
            return
        by_start: dict[int, list[int]] = {}
        for i in heads:
            by_start.setdefault(int(table.value[i]), []).append(i)
        self._place(section, self._between(section, kind, by_start, prefixes))
        for i in inside:  # labels within an atom
            if self.of_symbol[i] == NO_ATOM:
                self.of_symbol[i] = self._covering(section.index, int(table.value[i]))

    def _between(
        self,
        section: Section,
        kind: Kind,
        by_start: dict[int, list[int]],
        prefixes: dict[int, int],
    ) -> list[int]:
        """The atoms of a section with symbols; what lies between them, unless it is padding, too.

        An atom has its symbol's size, so that no padding is compared: it changes when a neighbour
        comes or goes. `prefixes` are the sizes of named padding, by the place where it ends.
        """
        table = self.elf.symbols
        starts = sorted(by_start)
        indices: list[int] = []
        prefix = previous = 0
        if starts[0] > 0:
            if not self._is_padding(section, 0, starts[0]):
                indices.append(self._new(kind, section.name, section, 0, starts[0]))
            elif kind is Kind.FUNCTION:
                prefix = starts[0]
        for start, following in zip(starts, [*starts[1:], section.size], strict=True):
            symbols = self._primary_first(by_start[start])
            size = max(int(table.size[i]) for i in symbols)
            end = min(start + size, following) if size else following
            if not self._is_padding(section, end, following):
                end = following
            name = table.names[symbols[0]]
            before = prefixes.get(start, min(prefix, start - previous))
            indices.append(self._new(kind, name, section, start, end, symbols, before))
            previous = end
        return indices

    def _is_padding(self, section: Section, start: int, end: int) -> bool:
        if start == end or section.type == _NOBITS:
            return True
        relocs = self.elf.relocations(section)
        within = relocs.within(start, end)
        if within.start != within.stop:
            return False
        gap = section.data[start:end]
        return is_padding(gap) if section.is_exec else not any(gap)

    def _primary_first(self, symbols: list[int]) -> tuple[int, ...]:
        """Aliases at one address: global before local, then the file's order."""
        return tuple(sorted(symbols, key=lambda i: (self.elf.symbols.binding[i] != 1, i)))

    @cached_property
    def _named_starts(self) -> I64:
        """Where atoms start, of those that are not of a pool (which no symbol names)."""
        return np.array([a.start for a in self.atoms], np.int64)

    def cut_snippets(self, active: list[Section]) -> None:
        """Cuts symbol-less code where code, or the second field of a table's entry, leads into it.

        The first is a place, which may be anywhere: cut there, a snippet would lose its rest.
        """
        starts: dict[int, set[int]] = {s.index: {0} for s in self._snippets}
        if not starts:
            return
        value = self.elf.symbols.value
        shndx = np.minimum(self.elf.symbols.shndx, len(self.elf.sections))
        is_cut = np.zeros(len(self.elf.sections) + 1, np.bool_)
        is_cut[list(starts)] = True
        for section in active:
            relocs = self.elf.relocations(section)
            targets = shndx[relocs.symbol]
            hits = np.nonzero(is_cut[targets])[0]
            if len(hits) and section.name in TABLES:
                hits = hits[hits % entry_shape(self.elf, section, TABLES[section.name])[1] == 1]
            if section.name != ALTERNATIVES:
                hits = hits[[self._is_entered(int(t), section) for t in targets[hits]]]
            for p, trailing in self._with_ends(section, hits):
                place = int(value[relocs.symbol[p]]) + int(relocs.addend[p]) + trailing
                starts[int(targets[p])].add(place)
        for section in self._snippets:
            cuts = sorted(s for s in starts[section.index] if 0 <= s < section.size)
            ends = [*cuts[1:], section.size]
            self._place(
                section,
                [
                    self._new(Kind.SNIPPET, section.name, section, start, end)
                    for start, end in zip(cuts, ends, strict=False)
                ],
            )

    def _is_entered(self, snippets: int, user: Section) -> bool:
        """Whether what refers to code without symbols tells where a part of it begins.

        Replacements begin where alternatives say, and nowhere else.
        """
        name = self.elf.sections[snippets].name
        return name != ".altinstr_replacement" and user.index != snippets

    def _covering(self, section: int, offset: int) -> int:
        starts = self._starts.get(section)
        if not starts:
            return NO_ATOM
        at = max(bisect.bisect_right(starts, offset) - 1, 0)
        return self._indices[section][at]

    def _pool_atom(self, section: Section, offset: int) -> int:
        known = self._pooled.get((section.index, offset))
        if known is not None:
            return known
        if section.is_string_pool:
            blob = self._blobs.get(section.index)
            if blob is None:
                blob = self._blobs[section.index] = bytes(section.data)
            end = _string_end(blob, offset, max(section.entsize, 1))
            index = self._new(Kind.STRING, "", section, offset, end)
        else:
            start = offset - offset % section.entsize
            index = self._new(
                Kind.CONSTANT, "", section, start, min(start + section.entsize, section.size)
            )
        self._pooled[(section.index, offset)] = index
        return index

    def references(self, section: Section) -> Refs:
        relocs = self.elf.relocations(section)
        table = self.elf.symbols
        symbol = relocs.symbol.astype(np.int64)
        addend = relocs.addend.copy()
        atom = self.of_symbol[symbol].copy()
        shndx = table.shndx[symbol]
        named = atom != NO_ATOM
        values = table.value[symbol].astype(np.int64)
        addend[named] += values[named] - self._named_starts[atom[named]]
        anonymous = (~named) & (shndx != SHN_UNDEF) & (shndx < RESERVED_BASE)
        for position, trailing in self._with_ends(section, np.nonzero(anonymous)[0]):
            target = self.elf.sections[int(shndx[position])]
            value = int(values[position])
            true_offset = value + int(relocs.addend[position]) + trailing
            if target.is_string_pool or target.is_constant_pool:
                inside = 0 <= true_offset < target.size
                found = self._pool_atom(target, true_offset) if inside else NO_ATOM
            else:
                found = self._covering(target.index, true_offset)
            if found != NO_ATOM:
                atom[position] = found
                addend[position] += value - self.atoms[found].start
        if section.name == ALTERNATIVES:
            self._settle_empty(section, atom, addend)
        return Refs(
            relocs.offset.astype(np.int64), relocs.type.astype(np.int64), atom, symbol, addend
        )

    def _settle_empty(self, section: Section, atom: I64, addend: I64) -> None:
        """Replacements of no length refer to whatever follows; make them refer to their own place.

        The replacements lie in the order of the entries, so an empty one begins where the next
        does, or at the end of the section.
        """
        _, count = entry_shape(self.elf, section, TABLES[section.name])
        if count < 2:
            return
        second = slice(1, None, count)
        relocs = self.elf.relocations(section)
        shndx = self.elf.symbols.shndx[relocs.symbol[second]]
        places = self.elf.symbols.value[relocs.symbol[second]].astype(np.int64)
        places = places + relocs.addend[second]
        sizes = np.array([min(s.size, _MAX_SIZE) for s in self.elf.sections], np.int64)
        if (shndx >= len(sizes)).any() or len(set(shndx.tolist())) != 1:
            return
        if (np.diff(places) < 0).any():
            return
        empty = np.append(np.diff(places) == 0, False) | (places >= sizes[shndx])
        targets, addends = atom[second], addend[second]
        targets[empty], addends[empty] = atom[::count][empty], addend[::count][empty]
        atom[second], addend[second] = targets, addends

    def _with_ends(self, section: Section, positions: I64) -> list[tuple[int, int]]:
        """For relocations at `positions`: how far the PC that the CPU adds is past the field.

        Only PC-relative fields in code have one, and only where the target section holds more
        than one atom does it matter; there the instruction is decoded, since an immediate
        operand may follow the field.
        """
        relocs = self.elf.relocations(section)
        result: list[tuple[int, int]] = []
        decode: dict[int, list[int]] = {}
        shndx = self.elf.symbols.shndx
        for p in positions.tolist():
            if not section.is_exec or relocs.type[p] not in _PC_TYPES:
                result.append((p, 0))
                continue
            target = int(shndx[relocs.symbol[p]])
            if len(self._indices.get(target, ())) == 1:
                result.append((p, 4))
            else:
                owner = self._covering(section.index, int(relocs.offset[p]))
                decode.setdefault(owner, []).append(p)
        for owner, group in decode.items():
            start = self.atoms[owner].start if owner != NO_ATOM else 0
            end = self.atoms[owner].end if owner != NO_ATOM else section.size
            fields = [int(relocs.offset[p]) - start for p in group]
            ends = instruction_ends(bytes(section.data[start:end]), fields)
            for p, at, stop in zip(group, fields, ends, strict=True):
                result.append((p, int(stop) - at))
        return result


def _string_end(blob: bytes, offset: int, width: int) -> int:
    """The end, NUL included, of the string of `width`-byte characters at `offset`."""
    zero = bytes(width)
    at = blob.find(zero, offset)
    while at >= 0 and (at - offset) % width:
        at = blob.find(zero, at + 1)
    return at + width if at >= 0 else len(blob)
