"""A shipped kernel module: `.ko`, `.ko.xz`, `.ko.zst` or `.ko.gz`, and where to find it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from ..base.errors import ElfError, NotFoundError, RefusedError
from ..base.fs import os_failure, read_bytes
from ..elf import reader
from ..elf.constants import MAGIC, RESERVED_BASE, SHN_UNDEF, FileType, SymbolType
from ..elf.model import ElfFile
from .image import build_id, decompress

SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


@dataclass(frozen=True)
class ModuleImage:
    """One module file. `name` is what the kernel calls it (underscores)."""

    path: Path
    name: str
    elf: ElfFile
    build_id: str
    vermagic: str
    modinfo: MappingProxyType[str, tuple[str, ...]] = field(repr=False)

    @property
    def depends(self) -> tuple[str, ...]:
        """The names of the modules that this one needs (underscores)."""
        listed = ",".join(self.modinfo.get("depends", ()))
        return tuple(normal_name(n) for n in listed.split(",") if n)

    @cached_property
    def _namesakes(self) -> dict[str, tuple[int, ...]]:
        """Defined symbols by name in symbol table order, as livepatch counts them."""
        symbols = self.elf.symbols
        found: dict[str, list[int]] = {}
        for index, name in enumerate(symbols.names):
            if (
                name
                and symbols.shndx[index] != SHN_UNDEF
                and (symbols.type[index] not in (SymbolType.SECTION, SymbolType.FILE))
            ):
                found.setdefault(name, []).append(index)
        return {name: tuple(indices) for name, indices in found.items()}

    def namesakes(self, name: str) -> tuple[int, ...]:
        """The indices of the defined symbols called `name`, in symbol table order."""
        return self._namesakes.get(name, ())

    def sympos(self, name: str, symbol_index: int) -> int:
        """Livepatch's position of a symbol: 0 when its name is unique, else counted from 1.

        While a module is being loaded the kernel counts all its symbols, later only those in the
        sections that stay (linux, is_core_symbol() in kernel/module/kallsyms.c); RefusedError
        when the two counts give different positions, and NotFoundError when the symbol has
        another name.
        """
        everyone = self.namesakes(name)
        if symbol_index not in everyone:
            raise NotFoundError(f"{self.name}: symbol {symbol_index} is not called '{name}'")
        if len(everyone) == 1:
            return 0
        position = everyone.index(symbol_index) + 1
        lasting = [i for i in everyone if self._lasts(i)]
        if symbol_index in lasting and lasting.index(symbol_index) + 1 != position:
            raise RefusedError(
                f"{self.name}: '{name}' is also the name of an init-time symbol before it, so "
                "no single position names it both while the module loads and afterwards"
            )
        return position

    def is_read_only(self, name: str) -> bool:
        """Whether a symbol is data that is read-only once the module is loaded."""
        table, sections = self.elf.symbols, self.elf.sections
        return any(
            sections[int(table.shndx[i])].name.startswith(".data..ro_after_init")
            for i in self.namesakes(name)
            if table.shndx[i] < min(len(sections), RESERVED_BASE)
        )

    def directories(self, sources: Iterable[str]) -> Iterator[str]:
        """Where the module was built, as far as it says: what stands before `sources` in strings.

        An out-of-tree module carries the whole paths of its files (`__FILE__`).
        """
        names = b"|".join(re.escape(name.encode()) for name in sources)
        pattern = re.compile(rb"([^\0]{0,4096}?)/(?:" + names + rb")\0")
        for section in self.elf.sections:
            if section.is_alloc and not section.is_exec:
                for match in pattern.finditer(bytes(section.data)):
                    yield match.group(1).decode(errors="replace")

    def _lasts(self, index: int) -> bool:
        shndx = int(self.elf.symbols.shndx[index])
        if shndx >= RESERVED_BASE:
            return False
        section = self.elf.sections[shndx]
        return section.is_alloc and not section.name.startswith(".init")


def load_module(path: Path) -> ModuleImage:
    """Reads a module, compressed or not. Raises NotFoundError, ResourceError or ElfError."""
    blob = read_bytes(path)
    if blob[:4] != MAGIC:
        blob = decompress(blob, name=str(path))
    elf = reader.parse(blob, name=str(path))
    if elf.type != FileType.REL:
        raise ElfError(f"{path}: not a relocatable file (offset 16), so not a kernel module")
    info = parse_modinfo(elf)
    named = info.get("name")
    name = normal_name(named[0] if named else module_name(path))
    vermagic = info.get("vermagic", ("",))[0]
    return ModuleImage(path, name, elf, build_id(elf), vermagic, info)


def parse_modinfo(elf: ElfFile) -> MappingProxyType[str, tuple[str, ...]]:
    """The `key=value` strings of `.modinfo`; a key may occur many times."""
    section = elf.section_by_name.get(".modinfo")
    found: dict[str, tuple[str, ...]] = {}
    for item in bytes(section.data).split(b"\0") if section else ():
        key, equals, value = item.decode(errors="replace").partition("=")
        if equals:
            found[key] = (*found.get(key, ()), value)
    return MappingProxyType(found)


def normal_name(name: str) -> str:
    """A module's name as the kernel shows it: dashes become underscores."""
    return name.replace("-", "_")


def module_name(path: Path) -> str:
    """The module name that a file name stands for ("nf-tables.ko.xz" -> "nf_tables")."""
    return normal_name(path.name.partition(".ko")[0])


def find_module(modules_dir: Path, name: str) -> Path | None:
    """The file of module `name` below `.../lib/modules/RELEASE`, or None.

    Dashes and underscores are equal, as for modprobe. `updates/` wins over `kernel/`.
    """
    wanted = normal_name(name)
    found = [p for p in module_files(modules_dir) if module_name(p) == wanted]
    found.sort(key=lambda p: ("updates" not in p.parts, str(p)))
    return found[0] if found else None


def foreign_modules(modules_dir: Path) -> Iterator[Path]:
    """The modules below `modules_dir` that the kernel's package does not ship.

    It ships `kernel/`; what is built by others goes beside it (`updates/`, `extra/`, `misc/`).
    """
    if modules_dir.is_dir():
        for path in module_files(modules_dir):
            if path.relative_to(modules_dir).parts[0] not in ("kernel", "build", "source"):
                yield path


def module_files(modules_dir: Path) -> Iterator[Path]:
    """Every module file below `modules_dir`; raises NotFoundError when that is not there."""
    if not modules_dir.is_dir():
        raise NotFoundError(f"no such directory of modules: {modules_dir}")
    try:
        for path in modules_dir.rglob("*.ko*"):
            if path.name.endswith(SUFFIXES):
                yield path
    except OSError as exc:
        raise os_failure("list", modules_dir, exc) from exc
