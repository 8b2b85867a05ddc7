"""From a source difference to the plan: what is dropped, what the candidates are, what they fix.

    diff ──sift──▶ files that matter ──facts──▶ pieces ──split──▶ parts ──readers──▶ candidates

It only reads: the prepared tree of the old source, and its Makefiles through make.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ..base.events import Monitor, stage
from ..base.words import counted
from ..compile.tree import Tree
from . import blocks, csource, facts, readers
from .facts import Piece
from .model import (
    Block,
    Candidate,
    Cause,
    Change,
    Dropped,
    Entry,
    Outcome,
    TranslationPlan,
    Update,
    key_of,
)
from .readers import Mentioning
from .sift import Sieve, Sifted, sift
from .split import EVERYWHERE, Part, split
from .tie import tied

MAX_REASONS = 12
MAX_SYMBOLS = 40


def plan(
    tree: Tree, update: Update, diff: str, entries: Sequence[Entry], monitor: Monitor
) -> TranslationPlan:
    """The plan of an update for the kernel of a prepared tree.

    `diff` is the whole difference of the two source packages (-p1), `entries` what the new
    package's changelog says since the old one. Raises PatchInputError for a diff that is not one
    of this source, ResourceError.
    """
    sieve = Sieve(tree)
    with stage(monitor, "sift", "Dropping what this kernel does not compile") as report:
        changes = blocks.read_diff(diff, {})
        sifted = sift(sieve, changes, report)
        report.result = f"{len(sifted.changes)} of {counted(len(changes), 'file')} matter"
    with stage(monitor, "split", "Splitting the update into independent parts") as report:
        files = []
        for number, change in enumerate(sifted.changes):
            report.progress(number, len(sifted.changes), change.path)
            files.append(_examined(sieve, change))
        parts = split(files)
        report.result = counted(len(parts), "part")
    with stage(monitor, "readers", "Looking for who uses what changes in headers") as report:
        names = frozenset(name for part in parts for name in readers.changed_names(part))
        found = readers.read_names(sieve, names, lambda some: readers.mentioning(sieve, some))
        report.result = counted(len(names), "name")
    with stage(monitor, "tie", "Comparing the parts with the changelog") as report:
        candidates, dropped = _Maker(sieve, sifted, files, update.build_id, found).made(parts)
        every = (*sifted.dropped, *_idle(files), *dropped)
        candidates, every = tied(candidates, every, entries, _said(changes, candidates))
        report.result = counted(len(candidates), "part") + " to build"
    lines = sum(len(b.old) + len(b.new) for c in changes for b in c.blocks)
    return TranslationPlan(update, len(changes), lines, candidates, every, tuple(entries))


def _said(changes: Sequence[Change], candidates: Sequence[Candidate]) -> dict[str, frozenset[str]]:
    """The identifiers of changed lines: of candidates by key, of all files by path."""
    said = {change.path: _names(change.blocks) for change in changes}
    for one in candidates:
        parts = blocks.blocks_of(one.diff).values()
        said[one.key] = frozenset[str]().union(*map(_names, parts))
    return said


def _names(some: Iterable[Block]) -> frozenset[str]:
    return csource.names("".join(line for b in some for line in (*b.old, *b.new)))


def _examined(sieve: Sieve, change: Change) -> facts.File:
    old = sieve.text(change.path)
    return facts.examine(change, old, blocks.applied(old, change.blocks))


def _idle(files: Iterable[facts.File]) -> list[Dropped]:
    """The blocks that change no code: comments and blanks."""
    return [
        Dropped(
            file.path,
            Outcome.NO_EFFECT,
            Cause.COMMENT_ONLY,
            "only comments and blanks change",
            sum(len(block.old) + len(block.new) for block in file.idle),
        )
        for file in files
        if file.idle
    ]


class _Maker:
    """Turns parts into candidates, or says why there is nothing to build."""

    def __init__(
        self,
        sieve: Sieve,
        sifted: Sifted,
        files: Sequence[facts.File],
        build_id: str,
        mentions: Mentioning,
    ) -> None:
        self.sieve, self.sifted, self.build_id, self.mentions = sieve, sifted, build_id, mentions
        self.kinds = {change.path: change.change for change in sifted.changes}
        self.old_of = {change.path: sieve.text(change.path) for change in sifted.changes}
        self.reach: dict[str, frozenset[str]] = {}
        self.includes: dict[str, list[Block]] = defaultdict(list)
        for file in files:
            for piece in file.pieces:
                if piece.is_include:
                    self.includes[file.path].append(piece.block)

    def made(self, parts: Sequence[Part]) -> tuple[tuple[Candidate, ...], list[Dropped]]:
        """The candidates by their first path, and what became of the other parts."""
        candidates: list[Candidate] = []
        dropped: list[Dropped] = []
        for part in parts:
            made = self._candidate(part)
            if isinstance(made, Candidate):
                candidates.append(made)
            else:
                dropped += made
        touched = {path for candidate in candidates for path in candidate.paths}
        for path in self.includes.keys() - touched:
            lines = sum(len(block.new) for block in self.includes[path])
            message = "only #include lines are added"
            dropped.append(Dropped(path, Outcome.NO_EFFECT, Cause.SAME_CODE, message, lines))
        candidates.sort(key=lambda c: (c.paths, c.key))
        return tuple(candidates), dropped

    def _candidate(self, part: Part) -> Candidate | list[Dropped]:
        units, read = self._units(part)
        fixed = [p for p in part.paths if p.endswith(".c") and self.kinds[p] != "modified"]
        if fixed and units:
            what = "is a new source file" if self.kinds[fixed[0]] == "added" else "is removed"
            message = f"{fixed[0]} {what}, and the set of a running kernel's files is fixed"
            return _dropped(part, Outcome.REBOOT, Cause.NEW_FILE, message)
        if not units:
            message = "no unit that this kernel compiles uses what changes"
            return _dropped(part, Outcome.NO_EFFECT, Cause.NOT_INCLUDED, message)
        diff = self._diff(part)
        symbols = tuple(dict.fromkeys(n for piece in part.pieces for n in piece.symbols))
        return Candidate(
            key_of(diff, self.build_id),
            title_of(part.paths, symbols),
            part.paths,
            (*units, *read),
            diff,
            symbols[:MAX_SYMBOLS],
            _told(part.reasons),
            readers=read,
        )

    def _units(self, part: Part) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The compiled units of a part: touched ones (or all, if none is), and those that read."""
        touched = [path for path in part.paths if path in self.sifted.units]
        read = set[str]()
        for piece in part.pieces:
            if not piece.path.endswith(".c") and self.kinds[piece.path] != "deleted":
                read |= self._readers(piece)
        for path in set(part.paths) & self.sifted.included:
            read |= {p for p in self.sieve.index.reach([path]) if p.endswith(".c")}
        built = sorted(p for p in read - set(touched) if self.sieve.built(p) is not None)
        return (tuple(touched), tuple(built)) if touched else (tuple(built), ())

    def _readers(self, piece: Piece) -> set[str]:
        """The files that may have code of what a piece of a header changes."""
        names = readers.names_of(piece)
        found = {path for name in names for path in self.mentions.get(name, ())}
        if not found or piece.path.startswith(EVERYWHERE):
            return found
        if piece.path not in self.reach:
            self.reach[piece.path] = self.sieve.index.reach([piece.path])
        return found & self.reach[piece.path]

    def _diff(self, part: Part) -> str:
        by_path: dict[str, list[Block]] = defaultdict(list)
        for piece in part.pieces:
            by_path[piece.path].append(piece.block)
        for path in by_path:
            by_path[path] += self.includes.get(path, [])
        return blocks.write_diff(by_path, self.old_of, self.kinds)


def _dropped(part: Part, outcome: Outcome, cause: Cause, message: str) -> list[Dropped]:
    return [
        Dropped(
            path,
            outcome,
            cause,
            message,
            sum(len(p.block.old) + len(p.block.new) for p in part.pieces if p.path == path),
        )
        for path in part.paths
    ]


def _told(reasons: Sequence[str]) -> tuple[str, ...]:
    """The reasons that say most: those between files first."""
    ordered = sorted(reasons, key=lambda r: (" used in " not in r, ": both are in " in r))
    more = len(ordered) - MAX_REASONS
    return (
        (*ordered[:MAX_REASONS], f"and {counted(more, 'reason')} more")
        if more > 0
        else tuple(ordered)
    )


def title_of(paths: Sequence[str], symbols: Sequence[str]) -> str:
    """What a candidate is called when no changelog entry names it."""
    more = f" and {counted(len(paths) - 1, 'file')} more" if len(paths) > 1 else ""
    what = f": {', '.join(symbols[:2])}" if symbols else ""
    return f"{paths[0]}{more}{what}"
