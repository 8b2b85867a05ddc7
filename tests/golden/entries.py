"""An independent reading of special sections, to check the differ and the emitter against.

It shares no code with the differ: `struct`, the entry sizes of Linux 6.1, and symbol sizes. An
entry is told in terms that are the same in any object: its bytes, and per relocation the offset in
the entry and what it refers to, as (name, offset) or the content of a string.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

PC = (2, 4)
SIZES = {
    "__bug_table": 12,
    "__ex_table": 12,
    "__jump_table": 16,
    ".static_call_sites": 8,
    ".altinstructions": 12,
    ".parainstructions": 16,
    ".smp_locks": 4,
    ".retpoline_sites": 4,
    ".return_sites": 4,
    ".orc_unwind_ip": 4,
    "__mcount_loc": 8,
    "_kprobe_blacklist": 8,
}
ORC_SIZE = 6
KLP = ".rebootless.klp"


@dataclass(frozen=True)
class Header:
    name: str
    type: int
    flags: int
    data: bytes
    size: int
    link: int
    info: int


@dataclass(frozen=True)
class Sym:
    name: str
    value: int
    size: int
    kind: int
    binding: int
    section: int


def text_at(blob: bytes, offset: int) -> str:
    return blob[offset : blob.index(b"\0", offset)].decode()


class Object:
    """A relocatable object, read with nothing but struct."""

    def __init__(self, blob: bytes) -> None:
        (shoff,) = struct.unpack_from("<Q", blob, 40)
        count, names_at = struct.unpack_from("<HH", blob, 60)
        raw = [struct.unpack_from("<IIQQQQIIQQ", blob, shoff + 64 * i) for i in range(count)]
        names = blob[raw[names_at][4] : raw[names_at][4] + raw[names_at][5]]
        self.sections = [
            Header(
                text_at(names, h[0]),
                h[1],
                h[2],
                b"" if h[1] == 8 else blob[h[4] : h[4] + h[5]],
                h[5],
                h[6],
                h[7],
            )
            for h in raw
        ]
        table = next(s for s in self.sections if s.type == 2)
        strings = self.sections[table.link].data
        self.symbols = [
            Sym(text_at(strings, n), value, size, info & 15, info >> 4, shndx)
            for n, info, _, shndx, value, size in struct.iter_unpack("<IBBHQQ", table.data)
        ]
        self.relocs: dict[int, list[tuple[int, int, str, int]]] = {}
        for s in self.sections:
            if s.type == 4:
                code = bool(self.sections[s.info].flags & 4)
                self.relocs[s.info] = [
                    (offset, kind, *self.target(info >> 32, addend, 4 * (code and kind in PC)))
                    for offset, info, addend in struct.iter_unpack("<QQq", s.data)
                    for kind in [info & 0xFFFFFFFF]
                ]
        self._add_livepatch_records()

    def index(self, name: str) -> int:
        return next((i for i, s in enumerate(self.sections) if s.name == name), 0)

    def place(self, symbol: int, addend: int) -> tuple[int, int]:
        return self.symbols[symbol].section, self.symbols[symbol].value + addend

    def target(self, symbol: int, addend: int, after: int) -> tuple[str, int]:
        """What `symbol` + `addend` is: a name and an offset, or a string's content.

        `after` is how far the end of the instruction, which an address in code is relative to, is
        beyond the field.
        """
        named = self.symbols[symbol]
        if named.section == 0 or named.section >= len(self.sections):
            return named.name, addend
        section, offset = self.place(symbol, addend + after)
        header = self.sections[section]
        if header.flags & 0x30 == 0x30 or header.name.startswith(".rodata.str"):
            return f'"{text_at(self.sections[section].data + bytes(1), max(offset, 0))}"', 0
        found = self.named_at(section, offset)
        name, distance = found or (self.sections[section].name, offset)
        return name, distance - after

    def named_at(self, section: int, offset: int) -> tuple[str, int] | None:
        found = [
            s
            for s in self.symbols
            if s.section == section
            and s.kind in (0, 1, 2)
            and s.value <= offset <= s.value + s.size
            and not s.name.startswith("__rebootless_entry_")
        ]
        if not found:
            return None
        best = max(found, key=lambda s: (s.value, s.size > 0, s.name))
        name = re.sub(r"\.(isra|constprop|part|cold)\.\d+", r".\1", best.name)
        return re.sub(r"\.\d+$", "", name), offset - best.value

    def _add_livepatch_records(self) -> None:
        index = self.index(KLP)
        if not index:
            return
        rela = next(s for s in self.sections if s.type == 4 and s.info == index)
        fields = {
            offset: self.place(info >> 32, addend)
            for offset, info, addend in struct.iter_unpack("<QQq", rela.data)
        }
        for at in range(0, self.sections[index].size, 32):
            kind, _, addend = struct.unpack_from("<IIq", self.sections[index].data, at + 16)
            section, offset = fields[at]
            name_section, name_at = fields[at + 8]
            text = text_at(self.sections[name_section].data, name_at)
            name = text.partition("|")[2].partition(".")[2].rpartition(",")[0]
            name = re.sub(r"\.(isra|constprop|part|cold)\.\d+", r".\1", name)
            name = re.sub(r"\.\d+$", "", name)
            self.relocs.setdefault(section, []).append((offset, kind, name, addend))

    def within(self, section: int, start: int, end: int) -> Iterator[tuple[int, int, str, int]]:
        for offset, kind, name, addend in sorted(self.relocs.get(section, ())):
            if start <= offset < end:
                yield offset - start, kind, name, addend


Entry = tuple[str, bytes, tuple[object, ...]]


def entries(obj: Object, functions: set[str] | None) -> Counter[tuple[str, Entry]]:
    """All entries of special sections that begin in one of `functions` (None: in any).

    An alternative is told with the bytes and references of its replacement.
    """
    found: Counter[tuple[str, Entry]] = Counter()
    for index, section in enumerate(obj.sections):
        size = SIZES.get(section.name)
        if size is None or section.size == 0:
            continue
        orc = obj.sections[obj.index(".orc_unwind")].data
        for n in range(-(-section.size // size)):
            relocs = list(obj.within(index, n * size, (n + 1) * size))
            assert relocs and relocs[0][0] == 0, f"{section.name}[{n}] has no place"
            owner = relocs[0][2]
            data = section.data[n * size : (n + 1) * size].ljust(size, b"\0")
            if section.name == ".orc_unwind_ip":
                data += orc[n * ORC_SIZE : (n + 1) * ORC_SIZE]
            if owner.startswith(".altinstr") or (functions is not None and owner not in functions):
                continue
            told: list[object] = [*relocs]
            if section.name == ".altinstructions":
                told[1] = replacement(obj, index, n * size + 4, data[11])
            found[(section.name, (owner, data, tuple(told)))] += 1
    return found


def functions(obj: Object, names: set[str]) -> dict[str, tuple[bytes, tuple[object, ...]]]:
    """The code of functions and what it refers to, in the same terms."""
    found = {}
    for s in obj.symbols:
        if s.kind == 2 and s.section and s.size:
            name, offset = obj.named_at(s.section, s.value) or ("", 0)
            if name in names and offset == 0:
                code = obj.sections[s.section].data[s.value : s.value + s.size]
                found[name] = code, tuple(obj.within(s.section, s.value, s.value + s.size))
    return found


def replacement(obj: Object, section: int, at: int, length: int) -> object:
    rela = next(s for s in obj.sections if s.type == 4 and s.info == section)
    for offset, info, addend in struct.iter_unpack("<QQq", rela.data):
        if offset == at:
            target, start = obj.place(info >> 32, addend)
            code = obj.sections[target].data[start : start + length]
            return code, tuple(obj.within(target, start, start + length))
    raise AssertionError("an alternative without a replacement")
