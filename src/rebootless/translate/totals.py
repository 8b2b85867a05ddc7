"""How much of an update is covered: by files, parts, units, functions and CVEs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .model import Cause, Confidence, Outcome, Result, Tied, Totals, TranslationPlan

# When parts of one fix come out differently, the fix is as good as the worst of them.
WORST_FIRST = (Outcome.FAILED, Outcome.REBOOT, Outcome.LIVE_PATCH, Outcome.NO_EFFECT)
NOT_COMPILED = (
    Cause.NOT_KERNEL,
    Cause.OTHER_ARCHITECTURE,
    Cause.CONFIG_OFF,
    Cause.NOT_INCLUDED,
)


@dataclass(frozen=True)
class CveFate:
    """One CVE: its title, what becomes of it, how sure that is, and by which candidates (keys).

    The outcome is "" when no change could be tied to it; the candidates are guesses then.
    """

    cve: str
    title: str
    outcome: str
    confidence: Confidence
    keys: tuple[str, ...]


def cve_fates(plan: TranslationPlan, results: Iterable[Result]) -> tuple[CveFate, ...]:
    """Every CVE of the changelog, in its order."""
    outcomes = {result.key: result.outcome for result in results}
    ties: dict[str, list[tuple[Tied, Outcome | None, str]]] = defaultdict(list)
    for candidate in plan.candidates:
        for tie in candidate.tied:
            for cve in tie.cves:
                ties[cve].append((tie, outcomes.get(candidate.key), candidate.key))
    for dropped in plan.dropped:
        for tie in dropped.tied:
            for cve in tie.cves:
                ties[cve].append((tie, dropped.outcome, ""))
    titles = {cve: entry.title for entry in plan.entries for cve in entry.cves}
    return tuple(_fate(cve, title, ties.get(cve, [])) for cve, title in titles.items())


def _fate(cve: str, title: str, ties: list[tuple[Tied, Outcome | None, str]]) -> CveFate:
    for confidence in (Confidence.CERTAIN, Confidence.LIKELY):
        sure = [t for t in ties if t[0].confidence is confidence]
        if not sure:
            continue
        found = {outcome for _, outcome, _ in sure}
        worst = next((o.value for o in WORST_FIRST if o in found), "")
        keys = tuple(dict.fromkeys(key for _, _, key in sure if key))
        return CveFate(cve, title, worst, confidence, keys)
    guesses = tuple(dict.fromkeys(key for _, _, key in ties if key))
    return CveFate(cve, title, "", Confidence.UNKNOWN, guesses)


def totals(plan: TranslationPlan, results: Sequence[Result]) -> Totals:
    """The totals of a plan whose candidates came out like this."""
    by_key = {result.key: result for result in results}
    outcomes = Counter(result.outcome.value for result in results)
    units: dict[str, set[str]] = defaultdict(set)
    for candidate in plan.candidates:
        result = by_key.get(candidate.key)
        if result is not None:
            units[result.outcome.value].update(result.units or candidate.units)
    fates = Counter(fate.outcome for fate in cve_fates(plan, results))
    off = {d.path for d in plan.dropped if d.cause in NOT_COMPILED}
    used = {path for candidate in plan.candidates for path in candidate.paths}
    functions = {f for r in results if r.outcome is Outcome.LIVE_PATCH for f in r.functions}
    return Totals(
        files=plan.files,
        files_compiled=plan.files - len(off - used),
        candidates=len(plan.candidates),
        candidates_by_outcome=_all(outcomes),
        units=len(set[str]().union(*units.values())),
        units_by_outcome=_all({name: len(found) for name, found in units.items()}),
        functions=len(functions),
        cves=sum(fates.values()),
        cves_covered=fates[Outcome.LIVE_PATCH.value],
        cves_unaffected=fates[Outcome.NO_EFFECT.value],
        cves_reboot=fates[Outcome.REBOOT.value],
        cves_failed=fates[Outcome.FAILED.value],
        cves_unplaced=fates[""],
        seconds_compile=round(sum(r.seconds_compile for r in results), 3),
        seconds_ours=round(sum(r.seconds_ours for r in results), 3),
    )


def _all(found: Mapping[str, int]) -> dict[str, int]:
    return {outcome.value: found.get(outcome.value, 0) for outcome in Outcome}
