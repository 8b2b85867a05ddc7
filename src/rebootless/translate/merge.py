"""The second level of splitting: a candidate that does not compile alone takes in what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from . import blocks, csource
from .model import Candidate, key_of
from .planning import MAX_SYMBOLS

MAX_NEIGHBOURS = 4


def merged(
    candidates: Sequence[Candidate],
    failed: Candidate,
    missing: Iterable[str],
    old_of: Callable[[str], str],
    build_id: str,
) -> Candidate | None:
    """A candidate that did not compile alone, with the neighbours that define what it lacks.

    `missing` are the identifiers of the compiler's messages. Neighbours are those whose added
    lines have one of them and that define it; of too many, those that change a type or function
    which a message names as well ("'struct nf_hook_ops' has no member named 'rcu'"). None when
    there is none, or there are more than four.
    """
    wanted = frozenset(missing)
    neighbours = [c for c in candidates if c.key != failed.key and wanted & _defines(c)]
    if len(neighbours) > MAX_NEIGHBOURS:
        neighbours = [c for c in neighbours if wanted & frozenset(c.symbols)]
    if not neighbours or len(neighbours) > MAX_NEIGHBOURS:
        return None
    group = (failed, *neighbours)
    paths = tuple(sorted({path for c in group for path in c.paths}))
    diff = blocks.joined((c.diff for c in group), _Texts(old_of))
    given = wanted & frozenset[str]().union(*map(_defines, neighbours))
    where = f"was missing when {failed.paths[0]} was compiled alone"
    reasons = tuple(f"'{name}' {where}" for name in sorted(given))
    readers_of = {u for c in group for u in c.readers}
    units = tuple(dict.fromkeys(u for c in group for u in c.units))
    touched = {u for c in group for u in c.units if u not in c.readers}
    return Candidate(
        key_of(diff, build_id),
        failed.title,
        paths,
        units,
        diff,
        tuple(dict.fromkeys(s for c in group for s in c.symbols))[:MAX_SYMBOLS],
        (*reasons, *(r for c in group for r in c.reasons)),
        tuple(dict.fromkeys(t for c in group for t in c.tied)),
        tuple(sorted(readers_of - touched)),
    )


def _defines(candidate: Candidate) -> frozenset[str]:
    """The identifiers that the added lines of a candidate have and its removed ones do not."""
    names: set[str] = set()
    for parts in blocks.blocks_of(candidate.diff).values():
        for block in parts:
            old, new = ("".join(side) for side in (block.old, block.new))
            added = csource.names(csource.without_comments(new))
            names |= added - csource.names(csource.without_comments(old))
    return frozenset(names)


class _Texts(Mapping[str, str]):
    """Old texts, read when they are asked for."""

    def __init__(self, read: Callable[[str], str]) -> None:
        self._read = read

    def __getitem__(self, path: str) -> str:
        return self._read(path)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
