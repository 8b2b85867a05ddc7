"""What became of an update, as one HTML page, and the diffs that it links to."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ..base import pages
from ..base.words import counted
from .model import Candidate, Cause, Dropped, Outcome, Result, Totals, TranslationPlan
from .totals import CveFate, cve_fates, totals

DIFFS = "diffs"
EMBEDDED = 60  # lines of a diff that are on the page itself
WORDS = {
    Outcome.LIVE_PATCH: "live patch",
    Outcome.NO_EFFECT: "no effect",
    Outcome.REBOOT: "needs a reboot",
    Outcome.FAILED: "failed",
}
STYLES = {
    Outcome.LIVE_PATCH: "good",
    Outcome.NO_EFFECT: "",
    Outcome.REBOOT: "bad",
    Outcome.FAILED: "warn",
}
CAUSES = {
    Cause.NOT_KERNEL: "documentation, tools and build files",
    Cause.OTHER_ARCHITECTURE: "another architecture",
    Cause.CONFIG_OFF: "not compiled: an option is off",
    Cause.NOT_INCLUDED: "a header that no compiled unit uses",
    Cause.COMMENT_ONLY: "comments and blanks",
    Cause.SAME_CODE: "the compiled code is the same",
    Cause.UNUSED_CODE: "only adds code that nothing calls",
    Cause.INIT_ONLY: "runs at boot, or when a module is loaded",
    Cause.LAYOUT: "the layout of a type changes",
    Cause.CHANGED_DATA: "initial values of data change",
    Cause.INTERFACE: "an interface between objects changes",
    Cause.NOT_TRACEABLE: "a function cannot be redirected",
    Cause.NEW_FILE: "a source file is new or gone",
    Cause.NOT_C: "not compiled from C",
    Cause.TOO_FAR: "a header that reaches too many units",
    Cause.UNSAFE: "refused for another reason",
    Cause.NOT_COMPILING: "does not compile alone",
    Cause.MISMATCH: "the build is not what the kernel ships",
    Cause.TEST_FAILED: "the test failed",
    Cause.ERROR: "another error",
}
ORDER = (Outcome.REBOOT, Outcome.FAILED, Outcome.LIVE_PATCH, Outcome.NO_EFFECT)


@dataclass(frozen=True)
class Report:
    """All that the page tells.

    `bundle` is the name of the cumulative bundle ("" for none), `tested` whether it passed its
    test, `excluded` why candidates are not in it, by key.
    """

    plan: TranslationPlan
    results: tuple[Result, ...]
    bundle: str
    tested: bool
    excluded: Mapping[str, str]
    tool_version: str = ""


def render(report: Report) -> str:
    """The page."""
    style = (resources.files("rebootless") / "report/template/style.css").read_text()
    folder = resources.files(__package__) / "template"
    style += (folder / "update.css").read_text()
    script = (folder / "update.js").read_text()
    text = pages.render(folder, "update.html.j2", _context(report), style=style, script=script)
    return text.encode(errors="surrogateescape").decode(errors="replace")


def diffs(plan: TranslationPlan) -> dict[str, bytes]:
    """The diff of each candidate by its path beside the page."""
    return {
        f"{DIFFS}/{c.key}.diff": c.diff.encode(errors="surrogateescape") for c in plan.candidates
    }


def _context(report: Report) -> dict[str, Any]:
    plan = report.plan
    found = totals(plan, report.results)
    fates = cve_fates(plan, report.results)
    by_key = {result.key: result for result in report.results}
    numbers = {c.key: f"p{number}" for number, c in enumerate(plan.candidates, 1)}
    parts = [
        _part(report, candidate, by_key[candidate.key], numbers[candidate.key])
        for candidate in plan.candidates
        if candidate.key in by_key
    ]
    return {
        "update": plan.update,
        "bundle": report.bundle,
        "tested": report.tested,
        "tool_version": report.tool_version,
        "tiles": _tiles(found),
        "bars": _bars(found),
        "properties": _properties(report, found),
        "causes": _causes(report),
        "fates": [_fate(fate, numbers) for fate in fates],
        "groups": [
            (WORDS[o], STYLES[o], o.value, [p for p in parts if p["outcome"] == o.value])
            for o in ORDER
        ],
        "dropped": _dropped(plan.dropped),
    }


def _tiles(found: Totals) -> list[dict[str, str]]:
    live = found.candidates_by_outcome[Outcome.LIVE_PATCH.value]
    reboot = found.candidates_by_outcome[Outcome.REBOOT.value]
    failed = found.candidates_by_outcome[Outcome.FAILED.value]
    rows = [
        ("good", live, "parts are live patches"),
        ("bad" if reboot else "good", reboot, "parts need a reboot"),
        ("warn" if failed else "good", failed, "parts failed"),
        ("", found.functions, "functions redirected"),
        ("", found.units, "units compiled twice"),
        ("", found.files, f"files changed, {found.files_compiled:,} of them for this kernel"),
    ]
    return [{"css": css, "value": f"{value:,}", "text": text} for css, value, text in rows]


def _bars(found: Totals) -> list[dict[str, Any]]:
    """Shares as bars: of the parts with an effect, and of the CVEs."""
    parts = found.candidates_by_outcome
    return [
        _bar("Parts of the update", [(o, WORDS[o], parts[o.value]) for o in ORDER[::-1]]),
        _bar(
            "CVEs",
            [
                (Outcome.LIVE_PATCH, "covered", found.cves_covered),
                (Outcome.NO_EFFECT, "not affected", found.cves_unaffected),
                (Outcome.REBOOT, "need a reboot", found.cves_reboot),
                (Outcome.FAILED, "failed", found.cves_failed),
                (None, "not tied to a change", found.cves_unplaced),
            ],
        ),
    ]


def _bar(title: str, shares: Sequence[tuple[Outcome | None, str, int]]) -> dict[str, Any]:
    order = {Outcome.LIVE_PATCH: 0, Outcome.NO_EFFECT: 1, Outcome.REBOOT: 2, Outcome.FAILED: 3}
    total = sum(count for _, _, count in shares)
    rows, at = [], 0.0
    for outcome, word, count in sorted(shares, key=lambda s: order.get(s[0], 4) if s[0] else 4):
        if count:
            width = 1000 * count / total
            css = outcome.value if outcome else "unplaced"
            rows.append({"css": css, "word": word, "count": f"{count:,}", "x": at, "width": width})
            at += width
    return {"title": title, "total": f"{total:,}", "rows": rows}


def _properties(report: Report, found: Totals) -> list[tuple[str, str]]:
    update = report.plan.update
    rows = [
        ("Kernel", update.release),
        ("Build-id", update.build_id),
        ("Source", f"{update.old_version} → {update.new_version}"),
        ("Lines", f"{report.plan.lines:,} added or removed"),
        ("Bundle", report.bundle or "none"),
        (
            "Compiler",
            f"{found.seconds_compile:,.0f} s of its work, {found.seconds_ours:,.0f} s ours",
        ),
    ]
    return [(name, value) for name, value in rows if value]


def _causes(report: Report) -> list[dict[str, Any]]:
    """Parts by cause, the most frequent first within each outcome; then what was left out."""
    parts = Counter((r.outcome, r.cause) for r in report.results if r.cause is not Cause.NONE)
    return [
        {
            "outcome": WORDS[outcome],
            "css": STYLES[outcome],
            "cause": cause.value,
            "text": CAUSES.get(cause, ""),
            "count": count,
        }
        for outcome in (Outcome.REBOOT, Outcome.FAILED, Outcome.NO_EFFECT)
        for (of, cause), count in parts.most_common()
        if of is outcome
    ]


def _fate(fate: CveFate, numbers: Mapping[str, str]) -> dict[str, Any]:
    outcome = Outcome(fate.outcome) if fate.outcome else None
    word = {
        Outcome.LIVE_PATCH: "covered",
        Outcome.NO_EFFECT: "not affected",
        Outcome.REBOOT: "reboot",
        Outcome.FAILED: "failed",
    }
    return {
        "cve": fate.cve,
        "title": fate.title,
        "word": word[outcome] if outcome else "not tied",
        "css": STYLES[outcome] if outcome else "",
        "filter": outcome.value if outcome else "unplaced",
        "confidence": fate.confidence.value if outcome else "guess" if fate.keys else "",
        "parts": [numbers[key] for key in fate.keys if key in numbers],
    }


def _part(report: Report, candidate: Candidate, result: Result, anchor: str) -> dict[str, Any]:
    lines = candidate.diff.split("\n")
    effect = [counted(len(result.functions), "function")] if result.functions else []
    cause = CAUSES.get(result.cause, "")
    return {
        "anchor": anchor,
        "outcome": result.outcome.value,
        "css": STYLES[result.outcome],
        "word": WORDS[result.outcome],
        "title": candidate.title,
        "short": ", ".join([*([cause] if cause else []), *effect]),
        "message": result.message,
        "advice": result.advice,
        "left_out": report.excluded.get(candidate.key, ""),
        "test": result.test,
        "paths": candidate.paths,
        "units": result.units or candidate.units,
        "functions": [f"{f.name}" for f in result.functions],
        "objects": result.objects,
        "reasons": candidate.reasons,
        "findings": result.findings,
        "ties": candidate.tied,
        "cves": candidate.cves,
        "diff": [(_mark(line), line) for line in lines] if len(lines) <= EMBEDDED else [],
        "lines": len(lines) - 1,
        "href": f"{DIFFS}/{candidate.key}.diff",
    }


def _mark(line: str) -> str:
    if line.startswith(("---", "+++", "@@")):
        return "hunk"
    return {"+": "added", "-": "removed"}.get(line[:1], "")


def _dropped(dropped: Sequence[Dropped]) -> list[dict[str, Any]]:
    """What is in no candidate, by cause, the largest group first."""
    groups: dict[tuple[Outcome, Cause], list[Dropped]] = defaultdict(list)
    for one in dropped:
        groups[one.outcome, one.cause].append(one)
    ordered = sorted(groups.items(), key=lambda g: (g[0][0] is not Outcome.REBOOT, -len(g[1])))
    return [
        {
            "word": WORDS[outcome],
            "css": STYLES[outcome],
            "cause": cause.value,
            "text": CAUSES.get(cause, ""),
            "count": counted(len({d.path for d in group}), "file"),
            "rows": [
                {
                    "path": d.path,
                    "message": d.message,
                    "cves": tuple(dict.fromkeys(c for t in d.tied for c in t.cves)),
                }
                for d in group
            ],
        }
        for (outcome, cause), group in ordered
    ]
