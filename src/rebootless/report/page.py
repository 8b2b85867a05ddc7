"""The facts of `explain` as one HTML page that needs nothing else.

The texts come from a patch and from a bundle, that is from anyone: the template escapes all of
them, and the page's own policy lets no script run but ours.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from ..base import pages
from ..base.errors import BundleError
from ..base.words import counted
from .panels import Panels, ways
from .patchview import MALFORMED, PatchView, begins, read

OPEN_ROWS = 700  # listings together; beyond, they begin closed
KINDS = {"changed": "redirected", "carried": "comes along with its callers", "new": "new"}
NOTHING = (
    "There is no compiled function to show: both objects do the same.",
    "This bundle carries no explanation of its functions: an earlier version built it.",
)
_STEP = re.compile(r"^(ok|failed|skipped)\s+(\d+\.\d+) s  (.*?)(?:  (.*))?$")
_GOOD = {"matched": "good", "absent": "", "ok": "good", "passed": "good", "skipped": ""}


def render(facts: Mapping[str, Any]) -> str:
    """The page. Raises BundleError for facts that are not of the form of `explain`."""
    folder = resources.files(__package__) / "template"
    style, script = ((folder / name).read_text() for name in ("style.css", "script.js"))
    try:
        return pages.render(folder, "page.html.j2", _context(facts), style=style, script=script)
    except (*MALFORMED, jinja2.UndefinedError) as exc:
        raise BundleError(f"the explanation is not of the form that is read here: {exc}") from exc


def _context(facts: Mapping[str, Any]) -> dict[str, Any]:
    is_bundle = facts["kind"] == "bundle"
    view = read(facts.get("patch", ""))
    manifest = facts.get("manifest", {})
    findings = _findings(facts)
    verdict = facts.get("verdict", "")
    panels = _panels(facts, view, findings)
    return {
        "is_bundle": is_bundle,
        "title": facts["title"] or manifest.get("name", "") or "Live patch",
        "kernel": manifest.get("kernel"),
        "cves": manifest.get("cves", []),
        "replaces": manifest.get("replace", False),
        "tool_version": manifest.get("tool_version", ""),
        "verdict_class": {"passed": "good", "failed": "bad"}.get(verdict, "warn"),
        "verdict_text": f"test {verdict}" if verdict else "not tested",
        "sections": _sections(is_bundle, bool(findings)),
        "message": view.message,
        "message_short": len(view.message) < 700,
        "tiles": _tiles(facts, findings),
        "properties": _properties(facts),
        "findings": findings,
        "finding_groups": _grouped(findings),
        "panels": panels,
        "nothing": NOTHING[is_bundle],
        "new_data": [d for unit in facts["units"] for d in unit["new_data"]],
        "removed": [d for unit in facts["units"] for d in unit["removed"]],
        "view": view,
        "evidence": [_evidence(unit) for unit in facts.get("match", [])],
        **_test(facts.get("test_log", "")),
        "console": facts.get("console", ""),
    }


def _sections(is_bundle: bool, has_findings: bool) -> list[tuple[str, str]]:
    found = [("summary", "Summary"), ("findings", "Findings"), ("functions", "Functions")]
    if is_bundle:
        return [*found, ("patch", "Patch"), ("evidence", "Evidence"), ("test", "Test")]
    return [s for s in found if has_findings or s[0] != "findings"]


def _findings(facts: Mapping[str, Any]) -> list[dict[str, str]]:
    """Refusals, warnings, and warnings that the patch's author accepted."""
    order = {"bad": 0, "warn": 1, "known": 2}
    found = [
        {
            "css": css if not f.get("accepted") else "known",
            "word": word if not f.get("accepted") else "accepted",
            "code": str(f["code"]),
            "symbol": str(f["symbol"]),
            "message": str(f["message"]),
        }
        for key, css, word in (("refused", "bad", "refused"), ("warnings", "warn", "warning"))
        for f in facts[key]
    ]
    return sorted(found, key=lambda f: order[f["css"]])


def _grouped(findings: Sequence[Mapping[str, str]]) -> list[list[Mapping[str, str]]]:
    """The findings by kind and code, in order: many of one code are folded."""
    groups: dict[tuple[str, str], list[Mapping[str, str]]] = {}
    for finding in findings:
        groups.setdefault((finding["css"], finding["code"]), []).append(finding)
    return list(groups.values())


def _tiles(facts: Mapping[str, Any], findings: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    kinds = Counter(f["kind"] for unit in facts["units"] for f in unit["functions"])
    functions = [f for unit in facts["units"] for f in unit["functions"] if f["kind"] == "changed"]
    objects = facts.get("manifest", {}).get("objects", [])
    changed = kinds["changed"] or sum(len(o["functions"]) for o in objects)
    tiles = [_tile(changed, "function redirected", "functions redirected")]
    if along := kinds["carried"] + kinds["new"]:
        tiles.append(_tile(along, "function comes along", "functions come along"))
    old = sum(f["size_old"] for f in functions)
    new = sum(f["size_new"] for f in functions)
    if functions:
        grown = f"{new - old:+d}".replace("-", "−")
        tiles.append({"css": "", "value": grown, "text": f"bytes of code, {old} → {new}"})
    if facts["kind"] == "bundle" and facts["files"]:
        added = sum(f["added"] for f in facts["files"])
        removed = sum(f["removed"] for f in facts["files"])
        text = f"lines in {counted(len(facts['files']), 'source file')}"
        tiles.append({"css": "", "value": f"+{added} −{removed}", "text": text})
    if facts["kind"] == "bundle":
        tiles.append(_match_tile(facts["match"]))
    kinds_of = {f["css"] for f in findings}
    css = next((css for css in ("bad", "warn") if css in kinds_of), "good")
    tiles.append({**_tile(len(findings), "finding", "findings"), "css": css})
    return tiles


def _tile(count: int, one: str, many: str) -> dict[str, str]:
    return {"css": "", "value": str(count), "text": one if count == 1 else many}


def _match_tile(units: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    functions = [f for unit in units for f in unit["functions"]]
    good = sum(f["status"] == "matched" for f in functions)
    expected = sum(f["status"] != "absent" for f in functions)
    css = "good" if functions and good == expected else "warn"
    return {
        "css": css,
        "value": f"{good} / {expected}",
        "text": "functions identical to the shipped kernel",
    }


def _properties(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    if facts["kind"] != "bundle":
        return []
    manifest = facts["manifest"]
    kernel = manifest["kernel"]
    rows = [
        ("Module", f"{manifest['name']} (version {manifest['version']})"),
        ("Kernel", f"{kernel['release']}, source {kernel['source_version']}"),
        ("Build-id", kernel["build_id"]),
        ("Compiler", manifest["toolchain"]),
        ("Objects", ", ".join(o["name"] for o in manifest["objects"])),
        ("Bundle id", facts["id"]),
    ]
    return [(name, str(value)) for name, value in rows if value]


def _panels(
    facts: Mapping[str, Any], view: PatchView, findings: Sequence[Mapping[str, str]]
) -> list[dict[str, Any]]:
    maker = Panels(facts["units"], view)
    rows = 0
    found: list[dict[str, Any]] = []
    for unit in facts["units"]:
        for function in unit["functions"]:
            rows += sum(len(part["rows"]) for part in function["listings"])
            panel = _panel(maker, unit, function, len(found) + 1, is_open=rows <= OPEN_ROWS)
            panel["findings"] = [f for f in findings if f["symbol"] == function["name"]]
            found.append(panel)
    return found


def _panel(
    maker: Panels,
    unit: Mapping[str, Any],
    function: Mapping[str, Any],
    number: int,
    *,
    is_open: bool,
) -> dict[str, Any]:
    has_old = function["kind"] != "new"
    wide, narrow = maker.drawings(function)
    before, after = function["relocations_old"], function["relocations_new"]
    callers = [c["name"] for c in function["callers"]]
    calls = [r["name"] for r in function["references"] if r["is_called"]]
    first = function["first"]
    causes = function.get("causes", [])
    return {
        "anchor": f"f{number}",
        "name": function["name"],
        "kind": KINDS[function["kind"]],
        "css": "redirected" if function["kind"] == "changed" else "along",
        "source": unit["source"],
        "object": unit["object"],
        "has_old": has_old,
        "sizes": f"{function['size_old']} → {function['size_new']}"
        if has_old
        else str(function["size_new"]),
        "why": _why(unit, function),
        "first": _first(maker, first) if first else None,
        "begins": begins(function, causes),
        "causes": [{**c, "through": _through(c["chain"])} for c in causes],
        "wide": Markup(wide),
        "narrow": Markup(narrow),
        "any_along": "along" in maker.roles.values(),
        "described": f"{function['name']} is called by {_listed(callers)}; it calls "
        f"{_listed(calls)}.",
        "ways": list(ways(function)),
        "gone": function["gone"],
        "relocations": [(k, before.get(k, 0), after.get(k, 0)) for k in sorted({*before, *after})],
        "special": sorted(function["special"].items()),
        "listings": [_listing(maker, function, part, is_open) for part in function["listings"]],
    }


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "nothing that is known here"
    rest = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + rest


def _why(unit: Mapping[str, Any], function: Mapping[str, Any]) -> str:
    reason = str(function["reason"]).replace("->", "→")
    if function["kind"] == "new":
        return "The patch adds this function."
    if function["first"] is None:
        return f"Its instructions are the same; {reason}."
    text = f"Its compiled code differs: {reason}."
    if not unit["has_lines"]:
        text += " The objects do not know their source lines: they were compiled without -g."
    return text


def _first(maker: Panels, first: Mapping[str, Any]) -> dict[str, Any]:
    def at(offset: int | None) -> str:
        return "" if offset is None else f"+{offset:#x}"

    side = "old" if first["offset_new"] is None else "new"
    return {
        "old": first["old"],
        "new": first["new"],
        "at_old": at(first["offset_old"]),
        "at_new": at(first["offset_new"]),
        "frames": maker.frames(first["chain"], side),
    }


def _through(chain: Sequence[Sequence[Any]]) -> str:
    """The functions that a line was inlined through, from itself outwards."""
    names = [f"{frame[0]}()" for frame in chain[:-1]]
    return ", ".join(names)


def _listing(
    maker: Panels, function: Mapping[str, Any], part: Mapping[str, Any], is_open: bool
) -> dict[str, Any]:
    rows = part["rows"]
    differ = sum(row[0] in "~+-" for row in rows)
    total = sum(int(row[1]) if row[0] == "." else 1 for row in rows)
    text = f"{total} instructions"
    if function["kind"] != "new":
        text = f"{differ} of {total} rows differ"
    return {
        "name": part["name"],
        "part": part["name"] if part["name"] != function["name"] else "",
        "text": text,
        "is_open": is_open,
        "groups": maker.groups(function, part),
    }


def _evidence(unit: Mapping[str, Any]) -> dict[str, Any]:
    """One unit's table: what is not simply identical comes first."""
    counts = Counter(f["status"] for f in unit["functions"])
    explained = sum(bool(f["explained"]) for f in unit["functions"])
    text = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    if explained:
        text += f" ({explained} with a known difference)"
    rows = [
        {
            "name": f["name"],
            "status": f["status"],
            "css": _GOOD.get(f["status"], "bad"),
            "address": "" if f["address"] is None else f"{f['address']:x}",
            "size": f["size"],
            "why": "; ".join([*([f["reason"]] if f["reason"] else []), *f["explained"]]),
        }
        for f in sorted(
            unit["functions"],
            key=lambda f: (f["status"] == "matched", not f["explained"], f["name"]),
        )
    ]
    return {"source": unit["source"], "text": f"in {unit['object']}: {text}", "rows": rows}


def _test(log: str) -> dict[str, Any]:
    """The steps and the reason in a test's log (lab.report.TestReport.text)."""
    steps = [
        {
            "outcome": match[1],
            "css": _GOOD.get(match[1], "bad"),
            "seconds": match[2],
            "name": match[3],
            "detail": match[4] or "",
        }
        for line in log.splitlines()
        if (match := _STEP.match(line))
    ]
    verdicts = re.findall(r"^verdict: \w+: (.*)$", log, re.MULTILINE)
    return {"steps": steps, "test_log": log, "test_reason": verdicts[-1] if verdicts else ""}
