"""What a relocation of an object points at, named for people."""

from __future__ import annotations

from dataclasses import dataclass

from ..diff.names import cold_parent, fold, static_local_base
from ..elf.constants import PC_RELATIVE, RESERVED_BASE, SHN_UNDEF, Reloc, SymbolType
from ..elf.model import ElfFile, Section

SHOWN_STRING = 48  # characters
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\\": "\\\\", '"': '\\"', "\x01": "\\1"}


@dataclass(frozen=True)
class Target:
    """A relocation's target: `name` and how far into it; `symbol` is its index, None if unnamed.

    `kind` is function, data, string, code, or symbol (defined elsewhere). `key` is equal for
    targets that mean the same in two builds: names without the compiler's numbers, the content of
    strings and constants.
    """

    name: str
    offset: int
    kind: str
    key: str
    symbol: int | None

    @property
    def text(self) -> str:
        """The target as an operand."""
        if not self.offset:
            return self.name
        return f"{self.name}{'+' if self.offset > 0 else '-'}{abs(self.offset):#x}"


@dataclass(frozen=True)
class Use:
    """One relocation of a function: `offset` from its start, the kind's name, what it points at."""

    offset: int
    kind: str
    target: Target
    is_call: bool


def kind_name(kind: int) -> str:
    """A relocation type without its R_X86_64_: "PLT32", "64"."""
    try:
        return Reloc(kind).name.removeprefix("R")
    except ValueError:
        return str(kind)


def resolve(elf: ElfFile, symbol: int, kind: int, addend: int, trailing: int) -> Target:
    """The target of a relocation to `symbol`.

    `trailing` is how many bytes lie between a PC-relative field's start and the end of its
    instruction (0 in data): the CPU counts from there.
    """
    table = elf.symbols
    shift = trailing if kind in PC_RELATIVE else 0
    place = addend + shift
    shndx = int(table.shndx[symbol])
    defined = SHN_UNDEF < shndx < RESERVED_BASE and shndx < len(elf.sections)
    if int(table.type[symbol]) != SymbolType.SECTION:
        name = table.names[symbol]
        if not defined:
            return Target(name, place, "symbol", _key(name, place), symbol)
        return _named(elf, name, symbol, place)
    if not defined:
        return Target("", place, "data", "", None)
    section = elf.sections[shndx]
    at = int(table.value[symbol]) + place
    if section.is_string_pool:
        text = _string(section, at)
        shown = text if len(text) <= SHOWN_STRING else text[:SHOWN_STRING] + "…"
        return Target(f'"{shown}"', 0, "string", f'"{text}"', None)
    if section.is_constant_pool:
        data = bytes(section.data[at : at + section.entsize]).hex()
        return Target(f"{section.name}+{at:#x}", 0, "data", data, None)
    found = elf.symbol_at(shndx, at)
    if found is None:
        kind_word = "code" if section.is_exec else "data"
        return Target(section.name, at, kind_word, fold(section.name), None)
    return _named(elf, found.name, found.index, at - found.value)


def _named(elf: ElfFile, name: str, symbol: int, offset: int) -> Target:
    code = elf.sections[int(elf.symbols.shndx[symbol])].is_exec
    kind = "function" if code else "data"
    # Offsets into code move with every edit.
    return Target(name, offset, kind, _key(name, 0 if code else offset), symbol)


def _key(name: str, offset: int) -> str:
    parent = cold_parent(name)
    folded = fold(parent) + ".cold" if parent else static_local_base(fold(name)) or fold(name)
    return f"{folded}+{offset}"


def _string(section: Section, at: int) -> str:
    if not 0 <= at < section.size:
        return ""
    raw = bytes(section.data[at : at + 512]).split(b"\0", 1)[0]
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(_ESCAPES.get(c, c if c.isprintable() else f"\\x{ord(c):02x}") for c in text)
