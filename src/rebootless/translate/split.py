"""The smallest parts of an update that stand for themselves: pieces joined by what ties them.

Two pieces belong together when
  1. they are in the same function or macro, of either version;
  2. one opens a brace, parenthesis or #if that another of the file closes;
  3. one gives, takes or alters a name that the changed lines of the other use (a new function, a
     removed field, another prototype); a call may begin on a line that stays, and a pointer to a
     function gets the prototype of those that initializers store in it;
  4. one reworks the body of a function that the changed lines of the other use, near to it, or
     that is the file's own, and the changed function of the other calls: what the two of them do
     together may matter;
  5. both change how one file uses a variable of its own, or a member: a lock that is no longer
     taken here, because something else is done there.
Of 4 and 5 only what few pieces have in common counts: what many use is a common tool.

Examples: a new member in a header and the assignment to it; a function that gets a parameter, and
its callers. A name that stands for something else in the other file ties nothing: the text tells as
far as it can, and what it gets wrong shows when a part does not compile (`merged`).
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .csource import What
from .facts import File, Piece

MAX_USERS = 6
EVERYWHERE = ("include/", "arch/x86/include/")


@dataclass(frozen=True)
class Part:
    """Pieces that belong together, and why."""

    pieces: tuple[Piece, ...]
    reasons: tuple[str, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The files that it changes, in order."""
        return tuple(sorted({piece.path for piece in self.pieces}))


class _Joined:
    """Union-find over pieces by number, with the reasons for each join."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = pieces
        self.parent = list(range(len(pieces)))
        self.reasons: list[tuple[int, str]] = []

    def root(self, number: int) -> int:
        while self.parent[number] != number:
            self.parent[number] = self.parent[self.parent[number]]
            number = self.parent[number]
        return number

    def join(self, one: int, other: int, why: str) -> None:
        a, b = self.root(one), self.root(other)
        if a != b:
            self.parent[b] = a
            if why:
                self.reasons.append((one, why))

    def join_all(self, numbers: Sequence[int], why: str = "") -> None:
        for number in numbers[1:]:
            self.join(numbers[0], number, why)

    def parts(self) -> tuple[Part, ...]:
        members: dict[int, list[Piece]] = defaultdict(list)
        why: dict[int, list[str]] = defaultdict(list)
        for number, piece in enumerate(self.pieces):
            members[self.root(number)].append(piece)
        for number, reason in self.reasons:
            why[self.root(number)].append(reason)
        return tuple(
            Part(tuple(found), tuple(dict.fromkeys(why[root]))) for root, found in members.items()
        )


def split(files: Iterable[File]) -> tuple[Part, ...]:
    """The parts of an update, in the order of their first file.

    Pieces that only add #include lines are in no part: they go along with each of their file.
    """
    by_path = {file.path: file for file in files}
    pieces = [p for file in by_path.values() for p in file.pieces if not p.is_include]
    joined = _Joined(pieces)
    _within_files(pieces, joined)
    _by_names(pieces, by_path, joined)
    _by_behaviour(pieces, by_path, joined)
    return joined.parts()


def _within_files(pieces: Sequence[Piece], joined: _Joined) -> None:
    """Rules 1 and 2."""
    same: dict[tuple[str, object], list[int]] = defaultdict(list)
    for number, piece in enumerate(pieces):
        for own in piece.own:
            same[piece.path, own].append(number)
        if piece.opens:
            same[piece.path, "opens"].append(number)
        if piece.conditions:
            same[piece.path, "conditions"].append(number)
    for (path, key), numbers in same.items():
        what = f"both are in {key[1]}" if isinstance(key, tuple) else "one opens what one closes"
        joined.join_all(numbers, f"{path}: {what}")


def _by_names(pieces: Sequence[Piece], files: Mapping[str, File], joined: _Joined) -> None:
    """Rule 3."""
    wanted = frozenset(name for p in pieces for name in p.defined)
    old_users: dict[str, list[int]] = defaultdict(list)
    new_users: dict[str, list[int]] = defaultdict(list)
    takers: dict[str, list[int]] = defaultdict(list)
    calls: dict[str, list[int]] = defaultdict(list)
    for number, piece in enumerate(pieces):
        for name in piece.continues & wanted:
            calls[name].append(number)
        for name in piece.says_old & wanted:
            old_users[name].append(number)
        for name in piece.says_new & wanted:
            new_users[name].append(number)
        for name in piece.takes:
            takers[name].append(number)
    for number, piece in enumerate(pieces):
        for names, users, what in (
            (piece.gives, (new_users,), "is new"),
            (piece.takes, (old_users,), "is gone"),
            (piece.alters, (old_users, new_users, calls), "is declared otherwise"),
        ):
            for name in sorted(names):
                for user in sorted({u for table in users for u in table[name]} - {number}):
                    if _is_meant(name, piece, pieces[user], files):
                        joined.join(number, user, _why(name, what, piece, pieces[user]))
        for name in sorted(piece.gives):
            for taker in takers[name]:
                if _is_moved(name, piece, pieces[taker]):
                    joined.join(number, taker, _why(name, "moves", piece, pieces[taker]))
    _by_pointers(pieces, files, joined)


def _by_pointers(pieces: Sequence[Piece], files: Mapping[str, File], joined: _Joined) -> None:
    """Rule 3 for members that point to functions: who stores a function that changes, too."""
    members: dict[str, list[int]] = defaultdict(list)
    for number, piece in enumerate(pieces):
        for name in piece.inner.keys() & piece.alters:
            members[name].append(number)
    for number, piece in enumerate(pieces):
        for member, function in sorted(files[piece.path].stored):
            if function not in piece.alters:
                continue
            for owner in members[member]:
                known = files[piece.path].old_names
                if pieces[owner].inner[member] in known and _is_seen(
                    pieces[owner].path, piece.path
                ):
                    why = _why(member, "is declared otherwise", pieces[owner], piece)
                    joined.join(owner, number, why)


def _by_behaviour(pieces: Sequence[Piece], files: Mapping[str, File], joined: _Joined) -> None:
    """Rules 4 and 5."""
    wanted = frozenset(name for p in pieces for name in p.reworks)
    callers: dict[str, list[int]] = defaultdict(list)
    users: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, piece in enumerate(pieces):
        for name in (piece.says_old | piece.says_new | piece.around) & wanted:
            callers[name].append(number)
        for name in piece.uses:
            users[piece.path, name].append(number)
    for number, piece in enumerate(pieces):
        for name in sorted(piece.reworks):
            found = [n for n in callers[name] if n != number and _follows(name, piece, pieces[n])]
            if len(found) <= MAX_USERS:
                for user in found:
                    if _is_meant(name, piece, pieces[user], files):
                        joined.join(number, user, _why(name, "is changed", piece, pieces[user]))
    for (path, name), found in sorted(users.items()):
        if len(found) <= MAX_USERS:
            joined.join_all(found, f"{path}: what is done with '{name}' changes in both")


def _follows(name: str, piece: Piece, user: Piece) -> bool:
    """Whether a piece may depend on how a function works that another piece changes."""
    if name in piece.local and piece.path == user.path:
        return True
    is_said = name in user.says_old or name in user.says_new
    return is_said and posixpath.dirname(piece.path) == posixpath.dirname(user.path)


def _is_meant(name: str, piece: Piece, user: Piece, files: Mapping[str, File]) -> bool:
    """Whether `name` in the lines of `user` can be what `piece` defines."""
    if piece.path == user.path:
        return True
    if name in piece.local or (What.FUNCTION, name) in user.own:
        return False
    if not _is_seen(piece.path, user.path):
        return False
    file = files[user.path]
    if name in piece.inner:
        knows_type = piece.inner[name] in file.old_names | file.new_names
        is_unusual = "_" in name and name not in file.old_names
        return sum((is_unusual, knows_type, name in user.accesses)) > 1
    return name not in piece.gives or name not in file.old_names


def _is_moved(name: str, piece: Piece, taker: Piece) -> bool:
    """Whether a name that one piece gives is what the other takes away."""
    if name in piece.inner or name in taker.inner:
        return False
    return piece.path == taker.path or name not in piece.local | taker.local


def _is_seen(path: str, user: str) -> bool:
    """Whether what a file declares can be seen from another: a header near to it, or a common one.

    What a .c file defines is seen wherever its header is.
    """
    if path.startswith(EVERYWHERE) or user.startswith(EVERYWHERE):
        return True
    one, other = posixpath.dirname(path), posixpath.dirname(user)
    shared = posixpath.commonpath([one, other]) if one and other else ""
    return path.endswith(".c") or shared.count("/") >= min(1, one.count("/"))


def _why(name: str, what: str, piece: Piece, user: Piece) -> str:
    if piece.path == user.path:
        return f"{piece.path}: '{name}' {what}, and used"
    return f"'{name}' {what} in {piece.path} and used in {user.path}"
