"""`rebootless new`: a C file to start a hand-written live patch from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import NotFoundError, PatchInputError, RefusedError
from ..base.events import Monitor, NullMonitor, stage
from ..base.fs import atomic_write, read_text
from ..bundle import naming
from ..compile.kbuild import Membership
from ..compile.locate import defines, defining_unit, owner_of
from ..compile.originals import Variant
from ..compile.preprocess import preprocess
from ..compile.tree import Tree, prepare
from ..compile.unit import build_originals
from ..diff.delta import Finding
from ..diff.kept import KeptStatics
from ..diff.names import fold, is_init_text, source_name
from ..elf.constants import RESERVED_BASE, SHN_UNDEF, SymbolType
from ..elf.model import ElfFile
from ..elf.reader import read as read_elf
from ..extract.closure import extract
from ..extract.scaffold import Draft
from ..extract.scaffold import scaffold as draft_of
from ..extract.toplevel import split
from ..match import match_unit
from ..provider.base import GivenKernel
from .from_source import wanted_of
from .kernel import ShippedKernel, find

SCHEMA = 1
_C_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Scaffold:
    """A C file that was written: where it is, and what it replaces."""

    path: Path
    kernel: str
    unit: str
    object: str
    functions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "schema": SCHEMA,
            "file": str(self.path),
            "kernel": self.kernel,
            "unit": self.unit,
            "object": self.object,
            "functions": list(self.functions),
        }


def scaffold(
    name: str,
    functions: Sequence[str],
    *,
    kernel: str | None = None,
    local: GivenKernel | None = None,
    output: Path | None = None,
    suites: Sequence[str] = (),
    monitor: Monitor | None = None,
) -> Scaffold:
    """Writes a C file that replaces `functions` by themselves, for an author to change.

    A function is named as it is in the source, or as OBJECT:FUNCTION or UNIT:FUNCTION
    ("loop:loop_queue_rq", "drivers/block/loop.c:loop_queue_rq"). The file is `output`, by default
    NAME.c here. Raises NotFoundError (no such function), PatchInputError (several; the file
    exists), RefusedError (it cannot be replaced), CompileError, ResourceError.
    """
    monitor = monitor or NullMonitor()
    short = naming.short_name(naming.check_name(naming.name_from(name)))
    path = output or Path(f"{short}.c")
    if path.exists():
        raise PatchInputError(
            f"{path} exists already", hint="choose another name, or move the file away"
        )
    files = find(kernel, local=local, suites=suites, monitor=monitor)
    shipped = ShippedKernel(files)
    tree = prepare(files, monitor)
    with stage(monitor, "find", "Looking for the functions") as report:
        unit = _unit_of(tree, functions)
        report.result = unit.source
    names = tuple(dict.fromkeys(f.rpartition(":")[2] for f in functions))
    objects = build_originals(tree, [unit.source], monitor, variant=Variant())
    orig = read_elf(objects[unit.source])
    for function in names:
        _check(orig, function, unit, tree)
    with stage(monitor, "extract", "Copying what they need"):
        match = match_unit(orig, shipped.shipped(owner_of(unit)))
        text = split(preprocess(tree, None, [unit.source], NullMonitor())[unit.source])
        wanted = wanted_of(orig, match, KeptStatics(orig, orig, names), names)
        found = extract(text, wanted, whole_types=True)
        draft = Draft(path.name, unit.source, owner_of(unit), files.release)
        source = read_text(tree.orig / unit.source)
        atomic_write(path, draft_of(text, found, wanted, source, draft))
    return Scaffold(path, files.release, unit.source, owner_of(unit), names)


def _unit_of(tree: Tree, functions: Sequence[str]) -> Membership:
    """The one unit that defines all the functions."""
    found: dict[str, Membership] = {}
    for given in functions:
        where, _, name = given.rpartition(":")
        if not _C_NAME.fullmatch(name):
            raise PatchInputError(
                f"'{given}' does not name a function",
                hint="say FUNCTION, OBJECT:FUNCTION or UNIT:FUNCTION, such as "
                "drivers/block/loop.c:loop_queue_rq",
            )
        in_unit = where if where.endswith(".c") else ""
        owner = "" if in_unit else where.replace("-", "_")
        unit = defining_unit(tree, name, unit=in_unit, owner=owner)
        if owner and owner_of(unit) != owner:
            raise PatchInputError(
                f"'{name}' belongs to {owner_of(unit)}, not to {owner}",
                hint=f"say {owner_of(unit)}:{name}",
            )
        found[unit.source] = unit
    if len(found) > 1:
        raise PatchInputError(
            f"the functions are in {len(found)} units: {', '.join(found)}",
            hint="write a file for each; `rebootless build` takes several",
        )
    return next(iter(found.values()))


def _check(orig: ElfFile, function: str, unit: Membership, tree: Tree) -> None:
    """Raises RefusedError for a function without code of its own, NotFoundError for none."""
    table = orig.symbols
    sections = {
        table.names[i]: orig.sections[int(table.shndx[i])].name
        for i in range(len(table))
        if table.type[i] == SymbolType.FUNC and SHN_UNDEF < int(table.shndx[i]) < RESERVED_BASE
    }
    if function not in sections:
        clones = sorted(n for n in sections if source_name(n) == function and fold(n) != function)
        if not clones and not defines(read_text(tree.orig / unit.source), function):
            raise NotFoundError(
                f"{unit.source} does not define a function '{function}'",
                hint="without the file's name, the whole source of the kernel is searched",
            )
        why = (
            f"the compiler made {clones[0]} of it, which is called in a way of its own"
            if clones
            else "the compiler has put it into the functions that call it"
        )
        raise _refused(
            "not-in-unit",
            function,
            f"'{function}' of {unit.source} has no code of its own: {why}",
        )
    if is_init_text(sections[function]):
        raise _refused(
            "init-function",
            function,
            f"'{function}' is in {sections[function]}: it runs at boot, load or exit only, and "
            "replacing it has no effect",
        )


def _refused(code: str, function: str, message: str) -> RefusedError:
    return RefusedError(
        f"[{code}] {message}",
        hint="replace a function that calls it, or does its work later",
        refusals=[Finding(code, function, message)],
    )
