"""How the entries of the kernel's tables are laid out: told by the kernel's own BTF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..kernel.image import KernelImage
from ..types import btf

WANTED = ("alt_instr", "paravirt_patch_site", "jump_entry", "static_call_site",
          "static_call_tramp_key")  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A struct: its size, and the offset in bytes of each named member."""

    size: int
    offsets: Mapping[str, int]


# What they are where the kernel carries no BTF; these have never changed since they are relative
# (jump_entry: 4.19, static calls: 5.10).
FIXED = {
    "paravirt_patch_site": Layout(16, {"instr": 0, "type": 8, "len": 9}),
    "jump_entry": Layout(16, {"code": 0, "target": 4, "key": 8}),
    "static_call_site": Layout(8, {"addr": 0, "key": 4}),
    "static_call_tramp_key": Layout(8, {"tramp": 0, "key": 4}),
}

# Of struct alt_instr there have been three since it is relative: the newest has 32 bits of feature
# and flags, the oldest a length of padding at its end.
_FIRST = {"instr_offset": 0, "repl_offset": 4, "cpuid": 8}
ALTERNATIVES = (
    Layout(12, {**_FIRST, "instrlen": 10, "replacementlen": 11}),
    Layout(14, {**_FIRST, "instrlen": 12, "replacementlen": 13}),
    Layout(13, {**_FIRST, "instrlen": 10, "replacementlen": 11, "padlen": 12}),
)


def layouts(image: KernelImage) -> dict[str, Layout]:
    """The layouts of the tables' structs, by the struct's name.

    Without BTF that of `alt_instr` is the one with which the table makes sense, or missing. Raises
    ElfError for damaged BTF.
    """
    section = image.elf.section_by_name.get(".BTF")
    found = dict(FIXED)
    if section is None or not len(section.data):
        sizes = [layout for layout in ALTERNATIVES if fits(image, layout)]
        return found | ({"alt_instr": sizes[0]} if sizes else {})
    types = btf.parse(section.data, name=f"{image.path} .BTF")
    for kind, name, number in types.named(functions=False):
        if name in WANTED and kind == btf.Kind.STRUCT:
            members = {m.name: m.offset // 8 for m in types.members(number)}
            found[name] = Layout(types.size(number), members)
    return found


def fits(image: KernelImage, layout: Layout) -> bool:
    """Whether every replacement that `.altinstructions` names lies where replacements are."""
    table = image.elf.section_by_name.get(".altinstructions")
    codes = image.elf.section_by_name.get(".altinstr_replacement")
    if table is None or codes is None or table.size % layout.size:
        return False
    rows = np.frombuffer(table.data, np.uint8).reshape(-1, layout.size).astype(np.int64)
    offset = layout.offsets["repl_offset"]
    fields = np.ascontiguousarray(rows[:, offset : offset + 4].astype(np.uint8))
    own = table.addr - codes.addr + offset + layout.size * np.arange(len(rows))
    starts = own + fields.view("<i4").ravel()
    ends = starts + rows[:, layout.offsets["replacementlen"]]
    return bool(((starts >= 0) & (ends <= codes.size)).all())
