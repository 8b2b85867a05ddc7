"""`Module.symvers`: what the kernel and its modules export, with the CRCs of modversions.

0xf9a482f9	msleep	vmlinux	EXPORT_SYMBOL
0x15ba50a6	jiffies	vmlinux	EXPORT_SYMBOL	NAMESPACE
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ..base.errors import PatchInputError


@dataclass(frozen=True)
class Export:
    """One exported symbol. `owner` is "vmlinux" or a module's path like "fs/jbd2/jbd2"."""

    name: str
    crc: int
    owner: str
    gpl: bool
    namespace: str


@dataclass(frozen=True)
class Exports(Mapping[str, Export]):
    """The exports by name."""

    by_name: MappingProxyType[str, Export] = field(repr=False)

    def __getitem__(self, name: str) -> Export:
        return self.by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)

    def __len__(self) -> int:
        return len(self.by_name)


def parse(text: str) -> Exports:
    """Reads a Module.symvers. Raises PatchInputError naming the line that is not one."""
    found: dict[str, Export] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        fields = line.split("\t")
        try:
            crc, name, owner, kind = fields[:4]
            namespace = fields[4].strip() if len(fields) > 4 else ""
            export = Export(name, int(crc, 16), owner, kind.endswith("_GPL"), namespace)
        except ValueError as exc:
            raise PatchInputError(
                f"Module.symvers line {number} is not an export: {line[:80]!r}",
                hint="the file may be truncated; fetch the kernel's headers again",
            ) from exc
        found[name] = export
    return Exports(MappingProxyType(found))
