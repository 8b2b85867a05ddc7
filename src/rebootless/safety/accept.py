"""Which findings the author of a patch has judged and accepts, by lines in the patch's header.

`Rebootless-Accept: CODE [SYMBOL[, SYMBOL...]]` accepts every warning of that code, and those
refusals that are a judgement and no impossibility (`ACCEPTABLE`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..diff.delta import Finding
from ..patch.source import Acceptance

# What can be built, works, and is safe or not by facts that only the author knows.
ACCEPTABLE = frozenset(
    {
        "crc-changed",  # modules may never see what changes
        "enum-changed",  # no object and no code that is not patched may have the value
        "layout-changed",  # the type's objects may never be seen by code that is not patched
        "layout-not-shipped",  # the kernel's description of itself may be at fault
        "prototype-changed",  # the old callers may pass what the new code takes
        "static-local-removed",  # the value that is lost may not matter
    }
)


def judged(finding: Finding, accepts: Iterable[Acceptance]) -> Finding:
    """The finding with `accepted` set."""
    return replace(finding, accepted=any(_covers(a, finding) for a in accepts))


def split(
    refused: Iterable[Finding], accepts: Sequence[Acceptance]
) -> tuple[list[Finding], list[Finding]]:
    """Refusals that stand, and those that are accepted and become warnings; each once."""
    stand: list[Finding] = []
    taken: list[Finding] = []
    for finding in dict.fromkeys(refused):
        answer = judged(finding, accepts)
        accepted = answer.accepted and finding.code in ACCEPTABLE
        (taken if accepted else stand).append(answer if accepted else finding)
    return stand, taken


def unused(accepts: Iterable[Acceptance], warnings: Iterable[Finding]) -> list[Finding]:
    """A warning for each accepted code, or symbol, that none of `warnings` is about."""
    symbols: dict[str, set[str]] = {}
    for warning in warnings:
        symbols.setdefault(warning.code, set()).add(warning.symbol)
    found = []
    for accept in accepts:
        known = symbols.get(accept.code, set())
        missing = [s for s in accept.symbols if s not in known]
        if not accept.symbols and not known:
            missing = [""]
        for symbol in missing:
            what = f"{accept.code} {symbol}".strip()
            found.append(
                Finding(
                    "accept-unused",
                    symbol,
                    f"the patch's header accepts '{what}', which the build does not find: drop "
                    "the line, or mend its code or symbol",
                )
            )
    return found


def _covers(accept: Acceptance, finding: Finding) -> bool:
    return accept.code == finding.code and (not accept.symbols or finding.symbol in accept.symbols)
