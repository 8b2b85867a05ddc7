"""Who has to be compiled anew when a header changes: those who mention what changes in it.

Thousands of units include skbuff.h, and few of them call the one inline function that changes. So
the tree is searched for the names, and, as other headers may use them, for the names of what uses
them there. Names that a macro puts together (`##`) are not found; what the shipped kernel holds of
inlined copies is searched for when the patch is judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

from ..base import proc
from ..compile.headers import TOPS
from . import csource
from .csource import What
from .facts import Piece
from .sift import Sieve
from .split import Part

ROUNDS = 3
MAX_FILES = 1500  # that mention one name: it is of everybody's
HEADERS = (".h", ".inc", ".def")
Mentioning = Mapping[str, frozenset[str]]


def mentioning(sieve: Sieve, names: Iterable[str]) -> dict[str, frozenset[str]]:
    """The files of the old source that mention each name, in one pass over the tree."""
    wanted = sorted(set(names))
    if not wanted:
        return {}
    orig = sieve.tree.orig
    argv = ["grep", "-rowIF", "-f", "-", "--include=*.c", "--include=*.h"]
    tops = [top for top in TOPS if (orig / top).is_dir()]
    text = proc.run([*argv, *tops], cwd=orig, check=False, input="\n".join(wanted)).stdout
    found: dict[str, set[str]] = defaultdict(set)
    for line in set(text.splitlines()):
        path, _, name = line.rpartition(":")
        found[name].add(path)
    return {name: frozenset(found[name]) for name in wanted}


def changed_names(part: Part) -> frozenset[str]:
    """The names of headers that a part changes for who includes them."""
    return frozenset(name for piece in part.pieces for name in names_of(piece))


def names_of(piece: Piece) -> frozenset[str]:
    """The functions, macros and variables that a piece of a header changes for who includes it.

    Members are not among them: who uses a new one is changed with it, and a type that is laid out
    anew is refused wherever it is reached.
    """
    if piece.path.endswith(".c"):
        return frozenset()
    found = {name for _, name in piece.own if name.isidentifier()}
    return frozenset(found | (piece.takes | piece.alters) - piece.inner.keys() - piece.local)


def read_names(
    sieve: Sieve, wanted: Iterable[str], search: Callable[[Iterable[str]], Mentioning]
) -> dict[str, frozenset[str]]:
    """For each name the .c files that mention it, directly or by what other headers make of it."""
    known: dict[str, frozenset[str]] = {}
    leads: dict[str, set[str]] = defaultdict(set)
    parsed: dict[str, csource.Source] = {}
    new = frozenset(wanted)
    for _ in range(ROUNDS):
        known |= search(sorted(new))
        following: set[str] = set()
        for name in new:
            if len(known[name]) > MAX_FILES:
                continue
            for path in known[name]:
                if path.endswith(HEADERS):
                    if path not in parsed:
                        parsed[path] = csource.read(sieve.text(path))
                    leads[name] |= _users(parsed[path], name)
            following |= leads[name]
        new = frozenset(following - known.keys())
        if not new:
            break
    return {name: _reached(name, known, leads) for name in wanted}


def _users(source: csource.Source, name: str) -> set[str]:
    """The inline functions and macros of a header in which a name is."""
    found = set()
    for number, line in enumerate(source.code, 1):
        if name in line and name in csource.names(line):
            for item in source.touching(number, 1):
                if item.what in (What.FUNCTION, What.MACRO):
                    found |= set(item.names) - {name}
    return found


def _reached(name: str, known: Mentioning, leads: Mapping[str, set[str]]) -> frozenset[str]:
    seen: set[str] = set()
    waiting = [name]
    files: set[str] = set()
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            files |= known.get(at, frozenset())
            waiting += leads.get(at, ())
    return frozenset(path for path in files if path.endswith(".c"))
