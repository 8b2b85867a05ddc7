"""The pieces of an object file that are looked for in the shipped code.

A *block* is a function, or a whole data section. Its bytes are compared except for the fields
that relocations fill in. What each field refers to becomes a *key*:

    section index                 anything in an ordinary section: the linker keeps it in one piece,
                                  so all references to it tell where that piece starts
    SYMBOL | symbol index         an undefined symbol, or a weak one that another unit may override
    (pool fields)                 mergeable strings and constants: the linker moves each on its own,
                                  so their *content* is compared instead
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ..base.errors import ElfError
from ..elf.constants import (
    PADDING_NAME,
    RELOC_WIDTH,
    RESERVED_BASE,
    SHN_UNDEF,
    Binding,
    Reloc,
    SymbolType,
)
from ..elf.insn import instruction_ends
from ..elf.model import ElfFile, Section

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

PC32, PLT32 = int(Reloc.PC32), int(Reloc.PLT32)
SYMBOL = 1 << 32
NO_KEY = -1

# Tables that the linker sorts, or tools rewrite; none of our references depends on them.
_TABLES = (
    ".discard", ".rela", ".note", ".comment", ".modinfo", ".orc_", ".altinstr", "__mcount_loc",
    "__bug_table", "__ex_table", "__jump_table", ".smp_locks", ".parainstructions", ".init_array",
    ".retpoline_sites", ".return_sites", ".call_sites", ".ibt_endbr_seal", ".static_call_sites",
    ".static_call_tramp_key", "__ksymtab", "___ksymtab", "__kcrctab", ".export_symbol", ".initcall",
    ".con_initcall", "__tracepoints_ptrs", "_ftrace_events", "__syscalls_metadata", ".BTF",
    "__patchable_function_entries", ".eh_frame", ".debug", ".stab", "__bpf_raw_tp_map",
    "runtime_",
)  # fmt: skip


@dataclass(frozen=True)
class Fields:
    """The relocated fields of a block, as parallel arrays; offsets are within the block.

    `pool` marks references into mergeable sections: `pool_offset` is where in the section the
    string or constant is, `pool_delta` what to add to S + A to get the place where it is shipped
    (an instruction's operand is relative to the instruction's end).
    """

    offset: I64
    type: U32
    addend: I64
    key: I64
    base: I64  # what to take off S so that it becomes the key's place
    pool: Bool
    pool_section: I64
    pool_offset: I64
    pool_delta: I64
    symbol: I64


@dataclass(frozen=True)
class JumpSite:
    """One struct jump_entry of the object: a branch that a static key switches.

    `offset` and `target` are offsets in sections; `key` is a key (see above) or NO_KEY, and
    `key_offset` what to take off the entry's key field (flags included) to get its place.
    """

    offset: int
    target_section: int
    target: int
    key: int
    key_offset: int


@dataclass(frozen=True)
class Block:
    """A function or a data section: where it is in the object, and what it looks like."""

    name: str
    section: Section
    start: int
    size: int
    symbols: tuple[int, ...]  # symbol indices at its start (aliases), or in the data section
    is_code: bool
    code: U8 = field(repr=False)
    compared: Bool = field(repr=False)
    fields: Fields = field(repr=False)
    sites: tuple[JumpSite, ...]  # jump labels
    jump_labels: tuple[int, ...]  # their offsets in the block
    fentry: int | None  # offset of `call __fentry__`
    unsupported: int | None  # offset of a relocation whose type is not known

    @cached_property
    def has_content(self) -> bool:
        """Whether the file has bytes for it (NOBITS sections have none)."""
        return len(self.code) == self.size


class BlockBuilder:
    """Cuts one object file into blocks."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self.widths = np.zeros(256, np.int64)
        for kind, width in RELOC_WIDTH.items():
            self.widths[kind] = width

    def functions(self) -> list[Block]:
        """A block for every function, aliases in one; sections and offsets ascending.

        Padding before functions is none, though objtool gives it a symbol like a function's.
        """
        table = self.elf.symbols
        wanted = (table.type == SymbolType.FUNC) & (table.shndx != SHN_UNDEF)
        wanted &= table.shndx < RESERVED_BASE
        starts: dict[tuple[int, int], list[int]] = {}
        for index in np.nonzero(wanted)[0].tolist():
            if table.names[index].startswith(PADDING_NAME):
                continue
            section = self.elf.sections[int(table.shndx[index])]
            if section.is_exec and section.is_alloc and not section.name.startswith(".discard"):
                starts.setdefault((section.index, int(table.value[index])), []).append(index)
        places = sorted(starts)
        following = {a: b for a, b in pairwise(places) if a[0] == b[0]}
        return [self._function(p, starts[p], following.get(p)) for p in places]

    def _function(
        self, where: tuple[int, int], symbols: list[int], following: tuple[int, int] | None
    ) -> Block:
        section, start = self.elf.sections[where[0]], where[1]
        size = max(int(self.elf.symbols.size[i]) for i in symbols)
        if size == 0:  # assembler code may not tell
            size = (following[1] if following else section.size) - start
        # A global name first: it is the better one to report and to look for.
        symbols.sort(key=lambda i: (self.elf.symbols.binding[i] != Binding.GLOBAL, i))
        return self._block(section, start, size, tuple(symbols), is_code=True)

    def data(self, section: Section) -> Block:
        """The block of a whole data section."""
        symbols = self.elf.symbols_in_section.get(section.index, np.empty(0, np.int64))
        named = tuple(i for i in symbols.tolist() if not self.elf.symbols.names[i].startswith(".L"))
        return self._block(section, 0, section.size, named, is_code=False)

    def data_sections(self) -> list[Section]:
        """The sections of data that have a place of their own in the shipped file."""
        return [
            s
            for s in self.elf.sections
            if s.is_alloc and not s.is_exec and s.size and is_plain(s)
            and not s.name.startswith(_TABLES)
        ]  # fmt: skip

    def _block(
        self, section: Section, start: int, size: int, symbols: tuple[int, ...], *, is_code: bool
    ) -> Block:
        if start + size > (len(section.data) if is_code else section.size):
            raise ElfError(
                f"{self.elf.name}: {size:#x} bytes from {start:#x} on reach beyond the content of "
                f"section {section.label}"
            )
        raw = section.data[start : start + size]
        code = np.frombuffer(raw, np.uint8)
        fields = self._fields(section, start, size, bytes(raw), is_code=is_code)
        compared = np.ones(len(code), np.bool_)
        widths = self.widths[np.minimum(fields.type, 255)]
        strange = np.nonzero(widths == 0)[0]
        unsupported = int(fields.offset[strange[0]]) if len(strange) else None
        for step in range(8):
            hit = fields.offset[widths > step] + step
            compared[hit[hit < len(code)]] = False
        name = self.elf.symbols.names[symbols[0]] if symbols else section.name
        sites = self._jump_sites.get(section.index, []) if is_code else []
        inside = tuple(s for s in sites if start <= s.offset < start + size)
        labels = tuple(s.offset - start for s in inside)
        fentry = self._fentry_site(fields) if is_code else None
        return Block(
            name, section, start, size, symbols, is_code, code, compared, fields, inside, labels,
            fentry, unsupported,
        )  # fmt: skip

    def _fields(
        self, section: Section, start: int, size: int, raw: bytes, *, is_code: bool
    ) -> Fields:
        table = self.elf.symbols
        found = self.elf.relocations(section)
        part = found.within(start, start + size)
        kinds = found.type[part]
        real = kinds != Reloc.NONE
        kinds = kinds[real]
        offset = found.offset[part][real].astype(np.int64) - start
        symbol = found.symbol[part][real].astype(np.int64)
        addend = found.addend[part][real]
        shndx = table.shndx[symbol].astype(np.int64)
        value = table.value[symbol].astype(np.int64)
        plain = self._plain[np.minimum(shndx, len(self.elf.sections))]
        plain &= (shndx != SHN_UNDEF) & (shndx < RESERVED_BASE)
        pool = self._pools[np.minimum(shndx, len(self.elf.sections))]
        tied = plain & (table.binding[symbol] != Binding.WEAK)
        key = np.where(tied, shndx, SYMBOL | symbol)
        key[pool] = NO_KEY
        pool_delta = np.zeros(len(offset), np.int64)
        relative = pool & ((kinds == PC32) | (kinds == PLT32)) & is_code
        if relative.any():
            at = offset[relative]
            ends = np.array(instruction_ends(raw, at.tolist()), np.int64)
            pool_delta[relative] = ends - at
        pool_offset = value + addend + pool_delta
        # The linker moves what a section symbol plus addend points to, but with another symbol
        # (gcc's .LC) what the symbol itself points to: `.LC4 + 10` may be the end of the string.
        named = pool & (table.type[symbol] != SymbolType.SECTION)
        pool_offset[named], pool_delta[named] = value[named], -addend[named]
        return Fields(
            offset=offset,
            type=kinds,
            addend=addend,
            key=key,
            base=np.where(tied, value, 0),
            pool=pool,
            pool_section=shndx,
            pool_offset=pool_offset,
            pool_delta=pool_delta,
            symbol=symbol,
        )

    @cached_property
    def _plain(self) -> Bool:
        """Per section (and one beyond): whether the linker keeps it in one piece."""
        return np.array([is_plain(s) for s in self.elf.sections] + [False])

    @cached_property
    def _pools(self) -> Bool:
        """Per section (and one beyond): whether it is a pool of strings or constants."""
        return np.array([not is_plain(s) for s in self.elf.sections] + [False])

    @cached_property
    def _jump_sites(self) -> dict[int, list[JumpSite]]:
        """Section index -> its jump labels.

        A struct jump_entry is 16 bytes with three relocations: code (+0), target (+4), key (+8).
        """
        found: dict[int, list[JumpSite]] = {}
        table = self.elf.symbols
        for section in self.elf.sections_named("__jump_table"):
            entries = self._fields(section, 0, section.size, b"", is_code=False)
            at = {int(o): k for k, o in enumerate(entries.offset.tolist())}
            for start in range(0, section.size - 15, 16):
                if not {start, start + 4, start + 8} <= at.keys():
                    continue
                code, target, key = at[start], at[start + 4], at[start + 8]
                owners = [int(table.shndx[int(entries.symbol[k])]) for k in (code, target)]
                values = [
                    int(table.value[int(entries.symbol[k])]) + int(entries.addend[k])
                    for k in (code, target)
                ]
                offset = int(entries.addend[key]) + int(entries.base[key])
                site = JumpSite(values[0], owners[1], values[1], int(entries.key[key]), offset)
                found.setdefault(owners[0], []).append(site)
        return found

    def _fentry_site(self, fields: Fields) -> int | None:
        """Where the block calls `__fentry__`: the opcode before the first such field."""
        names = self.elf.symbols.names
        first = zip(fields.offset[:4].tolist(), fields.symbol[:4].tolist(), strict=True)
        for offset, symbol in first:
            if names[symbol] == "__fentry__":
                return int(offset) - 1
        return None


def is_plain(section: Section) -> bool:
    """Whether the linker keeps the section in one piece (it is no pool of strings, constants)."""
    return not (section.is_string_pool or section.is_constant_pool)
