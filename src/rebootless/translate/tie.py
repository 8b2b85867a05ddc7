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
    index: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(targets):
        for word in one.words:
            index[word].append(number)
    users = Counter(name for one in targets for name in one.names)
    found: dict[int, list[Tied]] = defaultdict(list)
    for entry in entries:
        for number, tie in _ties(entry, targets, index, users, inert):
            found[number].append(tie)
    return found


def _ties(
    entry: Entry,
    targets: Sequence[Target],
    index: Mapping[str, Sequence[int]],
    users: Mapping[str, int],
    inert: frozenset[int],
) -> list[tuple[int, Tied]]:
    place, rest = _parts(entry.title)
    identifiers = {w for w in rest if "_" in w and len(w) > 4}
    weights = {w: _weight(w, index, len(targets)) for w in {*place, *rest} - _PLAIN}
    total = sum(weights.values())
    scores: Counter[int] = Counter()
    for word, weight in weights.items():
        for number in index.get(word, ()):
            scores[number] += weight  # type: ignore[assignment]
    fitting = [n for n in scores if _fits(place, targets[n])]
    if not fitting or not total:
        return []
    certain = [
        (number, sorted(hits)[0])
        for number in fitting
        if (hits := {w for w in identifiers & targets[number].names if users[w] <= MANY})
    ]
    if certain:
        return [
            (n, _tie(entry, Confidence.CERTAIN, f"it changes {name}, which the title names"))
            for n, name in certain
        ]
    exact = [n for n in fitting if _fits(place, targets[n], exactly=True)]
    if place and exact and inert.issuperset(exact):
        number = max(exact, key=lambda n: (scores[n], -n))
        why = "nothing that the update changes in that place has an effect on this kernel"
        return [(number, _tie(entry, Confidence.LIKELY, why))]
    best = max(scores[n] for n in fitting)
    near = [n for n in sorted(fitting) if scores[n] >= NEAR * best]
    share = best / total
    if share < GUESS or len(near) > MANY:
        return []
    confidence = Confidence.LIKELY if share >= LIKELY and len(near) <= 2 else Confidence.UNKNOWN
    ties = []
    for number in near:
        words = sorted(weights.keys() & targets[number].words, key=lambda w: -weights[w])
        why = f"{share:.0%} of the title is found in it: {', '.join(words[:4])}"
        ties.append((number, _tie(entry, confidence, why)))
    return ties


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


def _weight(word: str, index: Mapping[str, Sequence[int]], count: int) -> float:
    return math.log((count + 1) / (len(index.get(word, ())) + 1)) + 0.1


def _fits(place: frozenset[str], one: Target, *, exactly: bool = False) -> bool:
    """Whether the place that a title names is where the target is; titles without one fit all.

    Half of its words are enough, unless it is to fit exactly.
    """
    if not place:
        return True
    wanted = [w for w in place if w not in _PLAIN]
    hits = [w for w in wanted if w in one.paths or any(a in one.paths for a in _ALIASES.get(w, ()))]
    return len(hits) == len(wanted) if exactly else len(hits) * 2 >= len(wanted)
