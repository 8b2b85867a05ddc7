"""Searches the shipped kernel for code that may hold an inlined copy of what a header said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.errors import RebootlessError
from ..base.fs import read_text
from ..compile.reach import HeaderReach
from ..compile.tree import Tree
from ..diff.names import cold_parent, source_name
from ..elf.constants import SymbolType
from ..elf.reader import read as read_elf
from ..match.users import users_of
from ..module.resolve import VMLINUX
from ..report import patchview
from ..safety.copies import FEW, Inline, Searched, changed_inlines
from .importers import importers, own_modules
from .job import Job

MOST = 4  # functions that are looked for, of one inline function; each takes 0.1 s


def search(job: Job, reach: HeaderReach, foreign: Mapping[str, Path]) -> tuple[Searched, ...]:
    """What shipped code tells of each inline function that the patch changes in its headers.

    `foreign` are modules that the kernel's package does not ship, by name. Units that were rebuilt
    are told by the names of their functions.
    """
    if job.tree is None:
        return ()
    inlines = [inline for path in reach.headers for inline in _changed(job, job.tree, path)]
    if not inlines:
        return ()
    searcher = _Searcher(job, _rebuilt(job), foreign, bool(reach.kept))
    own = searcher.own_copies({inline.name for inline in inlines})
    return tuple(replace(searcher.find(i), copies=own.get(i.name, 0)) for i in inlines)


def _changed(job: Job, tree: Tree, header: str) -> tuple[Inline, ...]:
    try:
        text = read_text(tree.orig / header)
    except RebootlessError:  # the patch adds it
        return ()
    view = patchview.read(job.patch.text.decode(errors="replace"))
    return changed_inlines(text, _old_lines(view, header))


def _old_lines(view: patchview.PatchView, path: str) -> Iterator[int]:
    """The lines before the patch that it removes, or after which it adds some."""
    for file in view.files:
        for hunk in file.hunks if file.path == path else ():
            before = 0
            for line in hunk.lines:
                before = line.old or before
                if line.mark != " ":
                    yield before


def _rebuilt(job: Job) -> Counter[str]:
    """The functions of all units that were compiled, as the source calls them."""
    found: Counter[str] = Counter()
    for pair in job.pairs:
        table = read_elf(pair.orig).symbols
        for name, kind in zip(table.names, table.type.tolist(), strict=True):
            if kind == SymbolType.FUNC and cold_parent(name) is None:
                found[source_name(name)] += 1
    return found


@dataclass(frozen=True)
class _Searcher:
    job: Job
    rebuilt: Counter[str]
    foreign: Mapping[str, Path]
    kept: bool  # whether anything of the kernel includes a header and was not rebuilt

    def find(self, inline: Inline) -> Searched:
        """The callers of the function that fewest call, of those that the old code calls."""
        kernel = self.job.kernel
        ordered = sorted(inline.calls, key=lambda name: name not in inline.declared)
        targets = [name for name in ordered if len(kernel.symbols.addresses(name)) == 1]
        found = {name: self._in_image(name) for name in targets[:MOST]}
        if not found:
            return Searched(inline.name)
        target = min(found, key=lambda name: (name not in inline.declared, len(found[name])))
        if len(found[target]) > FEW:
            return Searched(inline.name)
        callers: list[str] = []
        suspected = self.kept or target in inline.declared
        if suspected:
            others = (name for name in found[target] if source_name(name) not in self.rebuilt)
            callers += [f"'{name}'" for name in others]
        if target in kernel.exports:
            callers += self._in_modules(target, own=suspected)
        return Searched(inline.name, target, tuple(callers))

    def own_copies(self, names: Collection[str]) -> dict[str, int]:
        """Of how many functions of their own in vmlinux more there are than units have built.

        An inline function that gcc does not put into its callers is a local function of each unit.
        """
        symbols = self.job.kernel.symbols
        starts, ends = (symbols.addresses(f"__init_{which}") for which in ("begin", "end"))
        gone = range(starts[0], ends[0]) if starts and ends else range(0)
        shipped: Counter[str] = Counter()
        for place, name in enumerate(symbols.table.names):
            known = source_name(name) if "." in name else name
            if known in names and cold_parent(name) is None:
                is_local = chr(int(symbols.table.types[place])) == "t"
                shipped[known] += is_local and int(symbols.table.addresses[place]) not in gone
        return {name: max(0, number - self.rebuilt[name]) for name, number in shipped.items()}

    def _in_image(self, name: str) -> tuple[str, ...]:
        kernel = self.job.kernel
        (place,) = kernel.symbols.addresses(name)
        users = users_of(kernel.shipped(VMLINUX), place)
        return tuple(dict.fromkeys(user.name for user in users if user.calls))

    def _in_modules(self, target: str, *, own: bool) -> Iterator[str]:
        """The callers in modules of other origin, and in the kernel's `own`."""
        modules = {**(own_modules(self.job.kernel) if own else {}), **self.foreign}
        for _, caller, module in importers(modules, [target]):
            if module in self.foreign or source_name(caller) not in self.rebuilt:
                yield f"'{caller}' of {module}"
