"""What a build's end says of a candidate: live patch, no effect, or a reboot; why, and what to do.

The single findings keep their codes; here they are put together by cause. When several stand
against a candidate, the first cause in the order below is told, since it is the hardest to mend.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..base.errors import RebootlessError
from ..base.words import counted
from ..diff.delta import Finding
from .model import Candidate, Cause, Function, Outcome, Result, Told

# By cause, hardest first: the codes of refusals (docs/findings.md).
CAUSES: tuple[tuple[Cause, frozenset[str]], ...] = (
    (Cause.LAYOUT, frozenset({"layout-changed", "layout-not-shipped", "enum-changed"})),
    (
        Cause.INTERFACE,
        frozenset(
            "alias-changed crc-changed prototype-changed symbol-moved".split()  # noqa: SIM905
        ),
    ),
    (Cause.NOT_C, frozenset({"file", "lib-a"})),
    (Cause.NEW_FILE, frozenset({"new-unit", "deleted-unit"})),
    (
        Cause.CHANGED_DATA,
        frozenset(
            """ambiguous-static-local anonymous-data btf-ids data-changed init-data initcall-added
            percpu-data section-entry-added state-copied static-local-removed tracepoint-added
            unsupported-section""".split()  # noqa: SIM905
        ),
    ),
    (Cause.NOT_TRACEABLE, frozenset({"no-fentry", "no-room", "not-traceable"})),
    (Cause.TOO_FAR, frozenset({"too-many-units"})),
)
# What has run when the system is up, or when a module was loaded.
AT_INIT = frozenset({"init-function", "init-data"})
ADVICE = {
    Cause.LAYOUT: "a person can keep the new members in a shadow variable, or in bytes that are "
    "free (docs/patch-author-guide.md, docs/layout-safety.md)",
    Cause.INTERFACE: "a person can leave the old interface in place and add a new function that "
    "patched callers use",
    Cause.NOT_C: "a person can change the C functions that call it",
    Cause.NEW_FILE: "a person can put the new functions into a file that the kernel has",
    Cause.CHANGED_DATA: "a person can set the running kernel's data from a callback, or change the "
    "code that reads it (docs/patch-author-guide.md)",
    Cause.NOT_TRACEABLE: "a person can patch a function that calls it",
    Cause.TOO_FAR: "--max-units raises the limit; or the change can be made in the .c files that "
    "need it",
    Cause.UNSAFE: "the findings say what to change in the source patch",
    Cause.INIT_ONLY: "nothing: a module that is loaded from now on still runs the old code once",
    Cause.MISMATCH: "the build is not what the kernel ships; its source or compiler is another one",
    Cause.NOT_COMPILING: "it needs another part of the update with it",
}
NO_CHANGE = (
    ("only adds code", Cause.UNUSED_CODE),
    ("compiles nothing", Cause.CONFIG_OFF),
    ("compiles reads", Cause.NOT_INCLUDED),
)


def judged(
    candidate: Candidate,
    failure: RebootlessError | None,
    warnings: Sequence[Finding],
    functions: tuple[Function, ...],
) -> Result:
    """What becomes of a candidate whose build ended with `failure`, or with these functions."""
    refusals = getattr(failure, "refusals", ())
    told = tuple(Told(f.code, f.symbol, f.message, True) for f in refusals)
    told += tuple(Told(f.code, f.symbol, f.message) for f in warnings)
    if failure is None:
        objects = tuple(dict.fromkeys(f.object for f in functions))
        return Result(
            candidate.key,
            Outcome.LIVE_PATCH,
            Cause.NONE,
            functions=functions,
            objects=objects,
            findings=told,
        )
    outcome, cause = _cause(failure)
    message, symbol = _why(failure, cause)
    advice = ADVICE.get(cause, "")
    if outcome is Outcome.FAILED and not advice:
        advice = failure.hint or ""
    return Result(candidate.key, outcome, cause, message, advice, symbol, findings=told)


def _cause(failure: RebootlessError) -> tuple[Outcome, Cause]:
    match failure.code:
        case "no-change":
            found = (cause for words, cause in NO_CHANGE if words in failure.message)
            return Outcome.NO_EFFECT, next(found, Cause.SAME_CODE)
        case "refused":
            return _refused({f.code for f in getattr(failure, "refusals", ())})
        case "mismatch":
            return Outcome.FAILED, Cause.MISMATCH
        case "compile":
            return Outcome.FAILED, Cause.NOT_COMPILING
        case _:
            return Outcome.FAILED, Cause.ERROR


def _refused(codes: set[str]) -> tuple[Outcome, Cause]:
    if codes and codes <= AT_INIT:
        return Outcome.NO_EFFECT, Cause.INIT_ONLY
    for cause, known in CAUSES:
        if (codes - AT_INIT) & known:
            return Outcome.REBOOT, cause
    return Outcome.REBOOT, Cause.UNSAFE


def cause_of(code: str) -> Cause:
    """The cause that a single refusal belongs to."""
    return Cause.INIT_ONLY if code in AT_INIT else _refused({code})[1]


def _why(failure: RebootlessError, cause: Cause) -> tuple[str, str]:
    """One sentence on the refusal that the cause is of, and its symbol."""
    refusals = getattr(failure, "refusals", ())
    if not refusals:
        return _first_line(failure.message), ""
    of_cause = [f for f in refusals if cause_of(f.code) is cause] or list(refusals)
    first = of_cause[0]
    more = len(refusals) - 1
    also = f" (and {counted(more, 'more reason')})" if more else ""
    return _first_line(str(first.message)).rstrip(":") + also, str(first.symbol)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
