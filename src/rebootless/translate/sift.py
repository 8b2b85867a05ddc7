"""Which changed files matter to one kernel: by their names, by kbuild, and by who includes them.

kbuild is asked once per directory. A header matters when a compiled unit can include it; that is
looked for along the include lines until the first such unit is found.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ..base.events import StageReport
from ..base.fs import read_bytes, read_text
from ..compile import headers
from ..compile.kbuild import Fate, Kbuild, Membership
from ..compile.tree import Tree, left_out_of
from ..patch.units import BUILD_NAMES, Classified, Kind, classify
from .model import Cause, Change, Dropped, Outcome

ASSEMBLY = (".S", ".s")
MAX_VISITED = 6000  # include lines followed for one header
COUNTED = 50


@dataclass(frozen=True)
class Sifted:
    """The changed files that matter, those that do not, and what kbuild makes of the units.

    `units` has the compiled units; `included` are .c files that only other .c files include.
    """

    changes: tuple[Change, ...]
    dropped: tuple[Dropped, ...]
    units: dict[str, Membership]
    included: frozenset[str] = frozenset()


class Sieve:
    """Asks about the files of one prepared tree."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.kbuild = Kbuild(tree.orig)
        self.left_out = tuple(f"{folder}/" for folder in left_out_of(tree))
        self._index: headers.IncludeIndex | None = None
        self._built: dict[str, Membership | None] = {}
        text = read_text(tree.orig / "include/config/auto.conf")
        self.enabled = frozenset(re.findall(r"^(CONFIG_\w+)=", text, re.MULTILINE))

    @property
    def index(self) -> headers.IncludeIndex:
        """The include lines of the tree, read when they are first asked for."""
        if self._index is None:
            self._index = headers.index(self.tree.orig, self.tree.root / "includes")
        return self._index

    def built(self, source: str) -> Membership | None:
        """What a compiled unit belongs to; None for what is not compiled."""
        if source not in self._built:
            found = (self.tree.orig / source).is_file()
            self._built[source] = self.kbuild.membership_if_built(source) if found else None
        return self._built[source]

    def text(self, path: str) -> str:
        """A file of the old source, "" when there is none. Raises ResourceError."""
        file = self.tree.orig / path
        return read_bytes(file).decode(errors="surrogateescape") if file.is_file() else ""

    def reached(self, header: str) -> bool:
        """Whether a compiled unit (may) include a header, or a .c file that is included."""
        if header in headers.EVERYWHERE:
            return True
        seen = {header}
        waiting = [header]
        while waiting:
            near = sorted(self.index.includers(waiting.pop()) - seen)
            seen.update(near)
            if any(self.built(path) for path in near if path.endswith((".c", *ASSEMBLY))):
                return True
            if len(seen) > MAX_VISITED:
                return True
            waiting += near
        return False

    def has_compiled_neighbour(self, path: str) -> bool:
        """Whether this kernel compiles any unit in the directory of `path`."""
        folder = self.tree.orig / PurePosixPath(path).parent
        names = sorted(f.name for f in folder.glob("*.c")) if folder.is_dir() else []
        return any(self.built(str(PurePosixPath(path).parent / name)) for name in names)


def sift(sieve: Sieve, changes: Sequence[Change], report: StageReport) -> Sifted:
    """Takes out what has no effect on this kernel, or cannot be changed in it while it runs."""
    kept: list[Change] = []
    dropped: list[Dropped] = []
    units: dict[str, Membership] = {}
    included: set[str] = set()
    for number, change in enumerate(changes):
        if number % COUNTED == 0:
            report.progress(number, len(changes), "changed files")
        verdict = _verdict(sieve, change)
        if isinstance(verdict, Dropped):
            dropped.append(verdict)
            continue
        kept.append(change)
        if isinstance(verdict, Membership):
            units[change.path] = verdict
        elif change.path.endswith(".c") and change.change != "added":
            included.add(change.path)
    return Sifted(tuple(kept), tuple(dropped), units, frozenset(included))


def _verdict(sieve: Sieve, change: Change) -> Dropped | Membership | None:
    """Why a file is dropped, or the unit that it is; None for what others include."""
    path = change.path
    entry = classify(path)
    if entry.kind is Kind.IGNORED:
        other = entry.reason.startswith("code of another architecture")
        cause = Cause.OTHER_ARCHITECTURE if other else Cause.NOT_KERNEL
        return drop(change, Outcome.NO_EFFECT, cause, entry.reason)
    if path.startswith(sieve.left_out) and change.change != "added":
        message = "this kernel's configuration leaves the directory out"
        return drop(change, Outcome.NO_EFFECT, Cause.CONFIG_OFF, message)
    if entry.kind is Kind.REFUSED:
        return _refused(sieve, change, entry)
    if entry.kind is Kind.HEADER:
        if change.change == "added" or sieve.reached(path):
            return None
        message = "no unit that this kernel compiles includes it"
        return drop(change, Outcome.NO_EFFECT, Cause.NOT_INCLUDED, message)
    return _unit(sieve, change)


def _unit(sieve: Sieve, change: Change) -> Dropped | Membership | None:
    path = change.path
    if change.change == "added":
        if sieve.has_compiled_neighbour(path):
            return None
        message = "this kernel compiles nothing in its directory"
        return drop(change, Outcome.NO_EFFECT, Cause.CONFIG_OFF, message)
    member = sieve.built(path)
    if member is not None:
        return member
    options = options_of(sieve, path)
    if not options and sieve.reached(path):
        return None
    message = "this kernel does not compile it"
    if options:
        message += f": {' or '.join(options[:3])} is off"
    return drop(change, Outcome.NO_EFFECT, Cause.CONFIG_OFF, message)


def _refused(sieve: Sieve, change: Change, entry: Classified) -> Dropped:
    path = change.path
    name = PurePosixPath(path)
    if name.name in BUILD_NAMES or name.name.startswith("Kconfig"):
        message = "it changes how a kernel is built; the running one is built already"
        return drop(change, Outcome.NO_EFFECT, Cause.NOT_KERNEL, message)
    if path.startswith("arch/x86/boot/"):
        return drop(change, Outcome.NO_EFFECT, Cause.INIT_ONLY, entry.reason)
    if name.suffix in ASSEMBLY and not path.startswith("arch/x86/") and not sieve.built(path):
        message = "this kernel does not compile it"
        return drop(change, Outcome.NO_EFFECT, Cause.CONFIG_OFF, message)
    if name.suffix in ASSEMBLY and sieve.built(path) is None and change.change != "added":
        closed = options_of(sieve, path)
        if closed:
            message = f"this kernel does not compile it: {' or '.join(closed[:3])} is off"
            return drop(change, Outcome.NO_EFFECT, Cause.CONFIG_OFF, message)
    return drop(change, Outcome.REBOOT, Cause.NOT_C, entry.reason)


def drop(change: Change, outcome: Outcome, cause: Cause, message: str) -> Dropped:
    """A whole file that is in no candidate."""
    lines = sum(len(block.old) + len(block.new) for block in change.blocks)
    return Dropped(change.path, outcome, cause, message, lines)


def options_of(sieve: Sieve, path: str) -> tuple[str, ...]:
    """The options that are off in the lines of Makefiles that name a unit and its directories."""
    return tuple(dict.fromkeys(o for o in _options(sieve, path) if o not in sieve.enabled))


def _options(sieve: Sieve, path: str) -> Iterator[str]:
    name = PurePosixPath(path)
    wanted = name.stem + ".o"
    composite = ""
    for folder in name.parents:
        for makefile in ("Kbuild", "Makefile"):
            text = sieve.text(f"{folder}/{makefile}") if str(folder) != "." else ""
            for line in text.replace("\\\n", " ").split("\n"):
                words = line.replace(":=", " ").replace("+=", " ").split()
                if wanted not in words[1:] and (not composite or composite not in words[1:]):
                    continue
                yield from (f"CONFIG_{o}" for o in re.findall(r"\$\(CONFIG_(\w+)\)", words[0]))
                if found := re.match(r"([\w-]+?)-(?:objs|y|\$\(CONFIG_\w+\))$", words[0]):
                    composite = f"{found[1]}.o"
        wanted, composite = f"{folder.name}/", ""


def is_patchable(member: Membership) -> bool:
    """Whether a unit goes into one object from which nothing is left out."""
    return member.fate is not Fate.LIBRARY and len(member.modules) < 2
