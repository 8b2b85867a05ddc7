"""Keeps the line numbers of everything that a patch does not touch.

A line added near the top of a file moves every `__LINE__` below it; WARN and BUG put that number
into instructions and tables, so functions that nobody changed would differ. `keep_numbers`
inserts `#line N` after each change, which gives the lines that follow their old numbers back.

A directive is allowed only where the preprocessor is between tokens of no consequence. For each
line a small scanner tells whether its beginning is such a place: not inside a block comment, a
continued line (backslash) or parentheses (the arguments of a macro), nor before a line that
starts with the parenthesis of a macro call.
"""

from __future__ import annotations

import bisect
import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

TOKEN = re.compile(
    rb"""(?P<comment>/\*.*?(?:\*/|\Z))
    |(?P<line_comment>//(?:\\\r?\n|[^\n])*)
    |(?P<string>"(?:\\\r?\n|\\[^\n]|[^"\\\n])*"?|'(?:\\\r?\n|\\[^\n]|[^'\\\n])*'?)
    |(?P<continued>\\[ \t]*\r?\n)
    |(?P<newline>\n)
    |(?P<directive>\#[ \t]*\w*)
    |(?P<open>[(\[])
    |(?P<close>[)\]])
    |(?P<other>[^\s])""",
    re.DOTALL | re.VERBOSE,
)
LINE_DIRECTIVE = re.compile(rb"^[ \t]*#[ \t]*(?:line[ \t]+)?\d", re.MULTILINE)
STARTS_WITH_PAREN = re.compile(rb"[ \t]*\(")
CONDITION_STARTS = (b"if", b"ifdef", b"ifndef")
CONDITION_MIDDLES = (b"else", b"elif", b"elifdef", b"elifndef")


@dataclass(frozen=True)
class LineStart:
    """The state at the beginning of a line.

    `condition` is the directive on the line, if it is one of the conditional ones ("if", "else",
    "endif"), else "".
    """

    safe: bool
    condition: str = ""


@dataclass
class _Group:
    """An open #if: parentheses open before it, and after each branch; `#if 0` holds prose."""

    before: int
    prose: bool
    after: list[int] = field(default_factory=list)


@dataclass
class _Scanner:
    """The state of the walk through one file."""

    safe: list[bool] = field(default_factory=lambda: [True])
    conditions: dict[int, str] = field(default_factory=dict)
    depth: int = 0
    in_directive: bool = False
    fresh: bool = True  # nothing but blanks and comments on this logical line so far
    groups: list[_Group] = field(default_factory=list)

    def newlines(self, count: int, *, joined: bool) -> None:
        """Passes `count` line ends; `joined` ones are inside a token or a continued line."""
        for _ in range(count):
            self.safe.append(not joined and self.depth == 0)

    def directive(self, word: bytes, rest: bytes) -> None:
        """A `#word` at the beginning of a line: parentheses are counted per branch of an #if."""
        self.in_directive = True
        line = len(self.safe) - 1
        if word in CONDITION_STARTS:
            self.groups.append(_Group(self.depth, prose=rest.split()[:1] == [b"0"]))
            self.conditions[line] = "if"
        elif word in CONDITION_MIDDLES or word == b"endif":
            self.conditions[line] = "endif" if word == b"endif" else "else"
            if not self.groups:
                return
            group = self.groups[-1]
            if not group.prose:
                group.after.append(self.depth)
            group.prose = False
            self.depth = group.before
            if word == b"endif":
                self.groups.pop()
                # Branches that disagree: one is never compiled. Too small a count does no harm
                # (gcc takes directives within arguments), one that stays up hides all later places.
                self.depth = min(group.after, default=group.before)


def scan(text: bytes) -> tuple[LineStart, ...]:
    """The state at the beginning of each line of C source (a last, unended line included)."""
    state = _Scanner()
    for match in TOKEN.finditer(text):
        kind, token = match.lastgroup, match.group()
        match kind:
            case "newline":
                state.in_directive = False
                state.fresh = True
                state.newlines(1, joined=False)
            case "comment" | "line_comment" | "continued":
                state.newlines(token.count(b"\n"), joined=True)
            case "string":
                state.newlines(token.count(b"\n"), joined=True)
                state.fresh = False
            case "directive" if state.fresh:
                state.fresh = False
                end = text.find(b"\n", match.end())
                rest = text[match.end() : end if end >= 0 else len(text)]
                state.directive(token[1:].strip(), rest)
            case "open" | "close" if not state.in_directive:
                state.fresh = False
                state.depth = max(0, state.depth + (1 if kind == "open" else -1))
            case _:
                state.fresh = False
    return tuple(
        LineStart(safe and not STARTS_WITH_PAREN.match(line), state.conditions.get(number, ""))
        for number, (safe, line) in enumerate(zip(state.safe, text.split(b"\n"), strict=True))
    )


def keep_numbers(original: bytes, patched: bytes) -> bytes:
    """`patched` with `#line N` after each change, so that unchanged lines keep their numbers.

    Lines within a change may get any numbers, and so may the few unchanged lines after it up to
    the next place where a directive is safe. Files that number their lines themselves (output of
    parser generators) are returned as they are.
    """
    if original == patched or LINE_DIRECTIVE.search(original):
        return patched
    old, new = original.split(b"\n"), patched.split(b"\n")
    wanted = original_numbers(old, new)
    starts = scan(patched)
    # How far the compiler's number may be from the physical one: several values are possible
    # after a conditional group, whose #line counts only if the group is compiled.
    drifts: set[int] = {0}
    groups: list[tuple[frozenset[int], set[int]]] = []
    result: list[bytes] = []
    for index, line in enumerate(new):
        want = wanted[index]
        last_empty = index == len(new) - 1 and not line
        if want is not None and starts[index].safe and not last_empty:
            drift = want - (index + 1)
            if drifts != {drift}:
                result.append(b"#line %d" % want)
                drifts = {drift}
        result.append(line)
        drifts = _after(starts[index].condition, drifts, groups)
    return b"\n".join(result)


def _after(
    condition: str, drifts: set[int], groups: list[tuple[frozenset[int], set[int]]]
) -> set[int]:
    """The possible drifts after a line, given that it may be a conditional directive."""
    if condition == "if":
        groups.append((frozenset(drifts), set()))
    elif condition and groups:
        entry, branches = groups[-1]
        branches |= drifts
        if condition == "endif":
            groups.pop()
            return branches | entry
        return set(entry)
    return drifts


def original_numbers(old: Sequence[bytes], new: Sequence[bytes]) -> list[int | None]:
    """For each new line its 1-based number among the old lines; None when it is not there."""
    numbers: list[int | None] = [None] * len(new)
    for old_index, new_index, size in _equal_blocks(old, new):
        for i in range(size):
            numbers[new_index + i] = old_index + i + 1
    return numbers


def _equal_blocks(old: Sequence[bytes], new: Sequence[bytes]) -> Iterator[tuple[int, int, int]]:
    """Runs of equal lines (old index, new index, length), in order.

    Lines that occur once in either version anchor the alignment (patience diff); what lies
    between two anchors is short, and is left to difflib.
    """
    old_at, new_at = 0, 0
    for a, b in [*_anchors(old, new), (len(old), len(new))]:
        matcher = difflib.SequenceMatcher(None, old[old_at:a], new[new_at:b], autojunk=False)
        for block in matcher.get_matching_blocks():
            if block.size:
                yield old_at + block.a, new_at + block.b, block.size
        if a < len(old) and b < len(new):
            yield a, b, 1
        old_at, new_at = a + 1, b + 1


def _anchors(old: Sequence[bytes], new: Sequence[bytes]) -> list[tuple[int, int]]:
    """The longest increasing chain of lines that are unique in both versions."""
    old_places, new_places = _unique(old), _unique(new)
    pairs = sorted((a, new_places[line]) for line, a in old_places.items() if line in new_places)
    tails: list[int] = []
    tail_index: list[int] = []
    previous = [-1] * len(pairs)
    for index, (_, b) in enumerate(pairs):
        slot = bisect.bisect_left(tails, b)
        if slot:
            previous[index] = tail_index[slot - 1]
        if slot == len(tails):
            tails.append(b)
            tail_index.append(index)
        else:
            tails[slot] = b
            tail_index[slot] = index
    chain = []
    at = tail_index[-1] if tail_index else -1
    while at >= 0:
        chain.append(pairs[at])
        at = previous[at]
    return chain[::-1]


def _unique(lines: Sequence[bytes]) -> dict[bytes, int]:
    places: dict[bytes, int] = {}
    repeated = set()
    for index, line in enumerate(lines):
        if line in places:
            repeated.add(line)
        places[line] = index
    return {line: index for line, index in places.items() if line not in repeated}
