"""Which entry of the changelog a changed part of the source is, and how sure that is.

A changelog names no files, only titles: `nfsd: fix nfsd_file leak on inter-server COPY setup
failure`. What stands before the last colon names a place, and words of the rest are found in names
of files, functions and changed lines. A word counts by how few parts of the update have it.

    certain   the update has one part and one entry, or the place fits and the title names a
              function, type or variable that this part changes and hardly another one does
    likely    the place fits, and by far most of what the title says is found here; or nothing
              that the update changes in that place has an effect on this kernel
    unknown   the place fits, and it is the best guess there is
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .model import Candidate, Confidence, Dropped, Entry, Outcome, Tied

NO_EFFECT = Outcome.NO_EFFECT
MANY = 4  # parts that have an identifier: more, and it tells none of them
LIKELY = 0.45  # share of a title's weight that is found
GUESS = 0.3
NEAR = 0.9  # parts this near to the best one are as likely
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\d+[A-Za-z]\w*")
_PLAIN = frozenset(
    """a an and are as at be before by can do don t dont during for from if in into is it its more
    not of on only or other s set so some than that the them then there this to too up use used
    uses using when where which while with without fix fixes fixed add adds avoid check checks
    remove drop handle make move prevent return error errors missing possible potential null
    pointer dereference free memory leak leaks value values bug after uaf overflow bounds out
    race condition correct correctly properly invalid wrong validate ensure allow revert update
    reject skip call calls function first c h""".split()  # noqa: SIM905
)
# Subsystems that titles call otherwise than folders are.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "alsa": ("sound",), "asoc": ("soc",), "wifi": ("wireless", "mac80211"), "smb": ("cifs", "smb"),
    "ksmbd": ("server",), "rdma": ("infiniband",), "ib": ("infiniband",), "sunrpc": ("sunrpc",),
    "netfilter": ("netfilter",), "tracing": ("trace",), "ftrace": ("trace",), "rv": ("rv",),
    "locking": ("locking",), "md": ("md",), "dm": ("md", "dm"), "input": ("input",),
    "pci": ("pci",), "x86": ("x86",), "kvm": ("kvm",), "dt": ("dts",), "arm64": ("arm64",),
    "vlan": ("8021q",), "sched": ("sched",), "cgroup": ("cgroup",), "nfsv4": ("nfs",),
    "tcp": ("tcp", "ipv4"), "bluetooth": ("bluetooth",), "l2cap": ("l2cap",), "vfs": ("fs",),
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A part of the update as words: of its paths, of the names that it changes, of its lines."""

    paths: frozenset[str]
    names: frozenset[str]
    words: frozenset[str]


def target(paths: Iterable[str], names: Iterable[str], said: Iterable[str]) -> Target:
    """A target of the paths, the symbols, and the identifiers of the changed lines."""
    path_words = _split(paths)
    every = frozenset(said) | frozenset(names)
    return Target(
        frozenset(path_words),
        frozenset(name.lower() for name in every),
        frozenset(path_words | _split(every)),
    )


def _split(texts: Iterable[str]) -> set[str]:
    found: set[str] = set()
    for text in texts:
        lower = text.lower()
        found.update(part for part in re.split(r"[^a-z0-9]+", lower) if part)
        found.update(part for part in re.split(r"[^a-z0-9_]+", lower) if part)
    return found


def tied(
    candidates: Sequence[Candidate],
    dropped: Sequence[Dropped],
    entries: Sequence[Entry],
    said: Mapping[str, frozenset[str]],
) -> tuple[tuple[Candidate, ...], tuple[Dropped, ...]]:
    """Candidates and dropped changes with the entries that they are taken to be.

    `said` has the identifiers of the changed lines: of candidates by key, of dropped ones by path.
    A candidate of which an entry is certain or likely gets the title of the first one.
    """
    places: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(dropped):
        places[one.path].append(number)
    targets = [target(c.paths, c.symbols, said.get(c.key, ())) for c in candidates]
    targets += [target((path,), (), said.get(path, ())) for path in places]
    idle = {d.path for d in dropped} - {d.path for d in dropped if d.outcome is not NO_EFFECT}
    inert = {n for n, path in enumerate(places, len(candidates)) if path in idle}
    found = assign(targets, entries, frozenset(inert))
    made = tuple(
        _named(candidate, tuple(found.get(number, ())))
        for number, candidate in enumerate(candidates)
    )
    rest = list(dropped)
    for number, path in enumerate(places, len(candidates)):
        for at in places[path]:
            rest[at] = replace(rest[at], tied=tuple(found.get(number, ())))
    return made, tuple(rest)


def _named(candidate: Candidate, ties: tuple[Tied, ...]) -> Candidate:
    order = list(Confidence)
    ties = tuple(sorted(ties, key=lambda t: (order.index(t.confidence), not t.cves)))
    sure = [t.title for t in ties if t.confidence is not Confidence.UNKNOWN]
    more = f" (and {len(sure) - 1} more)" if len(sure) > 1 else ""
    return replace(candidate, tied=ties, title=sure[0] + more if sure else candidate.title)


def assign(
    targets: Sequence[Target], entries: Sequence[Entry], inert: frozenset[int] = frozenset()
) -> dict[int, list[Tied]]:
    """What each target is taken to be, by its number; `inert` are those without any effect."""
    if len(targets) == 1 and len(entries) == 1:
        why = "it is all that the update changes, and all that the changelog says"
        return {0: [Tied(entries[0].title, entries[0].cves, Confidence.CERTAIN, why)]}
    table = _Table(targets, inert)
    found: dict[int, list[Tied]] = defaultdict(list)
    for entry in entries:
        for number, tie in table.ties(entry):
            found[number].append(tie)
    return found


class _Table:
    """The targets by their words, so that each title looks only at those that have some of it."""

    def __init__(self, targets: Sequence[Target], inert: frozenset[int]) -> None:
        self.targets, self.inert = targets, inert
        self.by_word: dict[str, set[int]] = defaultdict(set)
        self.by_path: dict[str, set[int]] = defaultdict(set)
        for number, one in enumerate(targets):
            for word in one.words:
                self.by_word[word].add(number)
            for word in one.paths:
                self.by_path[word].add(number)
        self.users = Counter(name for one in targets for name in one.names)

    def ties(self, entry: Entry) -> list[tuple[int, Tied]]:
        """The targets that a title may be of."""
        place, rest = _parts(entry.title)
        fitting, exact = self._fitting(place - _PLAIN)
        identifiers = {w for w in rest if "_" in w and len(w) > 4 and self.users[w] <= MANY}
        certain = [
            (number, sorted(hits)[0])
            for number in sorted(fitting & self._having(identifiers))
            if (hits := identifiers & self.targets[number].names)
        ]
        if certain:
            return [
                (n, _tie(entry, Confidence.CERTAIN, f"it changes {name}, which the title names"))
                for n, name in certain
            ]
        weights = {w: self._weight(w) for w in {*place, *rest} - _PLAIN}
        scores: dict[int, float] = defaultdict(float)
        for word, weight in weights.items():
            for number in self.by_word.get(word, set()) & fitting:
                scores[number] += weight
        if not scores:
            return []
        if exact and exact <= self.inert:
            number = max(exact, key=lambda n: (scores.get(n, 0.0), -n))
            why = "nothing that the update changes in that place has an effect on this kernel"
            return [(number, _tie(entry, Confidence.LIKELY, why))]
        return self._best(entry, scores, weights)

    def _best(
        self, entry: Entry, scores: Mapping[int, float], weights: Mapping[str, float]
    ) -> list[tuple[int, Tied]]:
        """The targets in which most of a title is found; none if it is little, or in too many."""
        best = max(scores.values())
        near = sorted(n for n, score in scores.items() if score >= NEAR * best)
        share = best / sum(weights.values())
        if share < GUESS or len(near) > MANY:
            return []
        confidence = Confidence.LIKELY if share >= LIKELY and len(near) <= 2 else Confidence.UNKNOWN
        ties = []
        for number in near:
            words = sorted(
                weights.keys() & self.targets[number].words, key=lambda w: (-weights[w], w)
            )
            why = f"{share:.0%} of the title is found in it: {', '.join(words[:4])}"
            ties.append((number, _tie(entry, confidence, why)))
        return ties

    def _fitting(self, place: frozenset[str]) -> tuple[set[int], set[int]]:
        """The targets that half of a place's words fit, and those that all fit (if it has any)."""
        if not place:
            return set(range(len(self.targets))), set()
        hits = Counter(
            number
            for word in place
            for number in set[int]().union(
                *(self.by_path.get(w, set()) for w in (word, *_ALIASES.get(word, ())))
            )
        )
        half = {number for number, count in hits.items() if count * 2 >= len(place)}
        return half, {number for number, count in hits.items() if count == len(place)}

    def _having(self, words: Iterable[str]) -> set[int]:
        return set[int]().union(*(self.by_word.get(word, set()) for word in words))

    def _weight(self, word: str) -> float:
        return math.log((len(self.targets) + 1) / (len(self.by_word.get(word, ())) + 1)) + 0.1


def _tie(entry: Entry, confidence: Confidence, why: str) -> Tied:
    return Tied(entry.title, entry.cves, confidence, why)


def _parts(title: str) -> tuple[frozenset[str], frozenset[str]]:
    """The words before the last colon that is followed by a blank, and those after it."""
    place, colon, rest = title.rpartition(": ")
    words = frozenset(w for w in _words(place) if w != "revert") if colon else frozenset[str]()
    return words, frozenset(_words(rest))


def _words(text: str) -> set[str]:
    found = set()
    for word in _WORD.findall(text.lower()):
        found.add(word)
        if "_" in word:
            found.update(part for part in word.split("_") if part)
    return found
