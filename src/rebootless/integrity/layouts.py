"""How the entries of the kernel's tables are laid out: told by the kernel's own BTF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..kernel.image import KernelImage
from ..types import btf

WANTED = ("alt_instr", "paravirt_patch_site", "jump_entry", "static_call_site",
          "static_call_tramp_key")  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A struct: its size, and the offset in bytes of each named member."""

    size: int
    offsets: Mapping[str, int]

    def width(self, name: str) -> int:
        """The distance from a member to what follows it."""
        start = self.offsets[name]
        return min((o for o in self.offsets.values() if o > start), default=self.size) - start


# What they are where the kernel carries no BTF; these have never changed since they are relative
# (jump_entry: 4.19, static calls: 5.10). Of struct alt_instr there are many.
FIXED = {
    "paravirt_patch_site": Layout(16, {"instr": 0, "type": 8, "len": 9}),
    "jump_entry": Layout(16, {"code": 0, "target": 4, "key": 8}),
    "static_call_site": Layout(8, {"addr": 0, "key": 4}),
    "static_call_tramp_key": Layout(8, {"tramp": 0, "key": 4}),
}


def layouts(image: KernelImage) -> dict[str, Layout]:
    """The layouts of the tables' structs, by the struct's name.

    Without BTF `alt_instr` is missing. Raises ElfError for damaged BTF.
    """
    section = image.elf.section_by_name.get(".BTF")
    found = dict(FIXED)
    if section is None or not len(section.data):
        return found
    types = btf.parse(section.data, name=f"{image.path} .BTF")
    for kind, name, number in types.named(functions=False):
        if name in WANTED and kind == btf.Kind.STRUCT:
            members = {m.name: m.offset // 8 for m in types.members(number)}
            found[name] = Layout(types.size(number), members)
    return found
