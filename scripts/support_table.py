"""The support table: what was tried on which kernel, as JSON to go on from and a page to read.

One `Row` is one kernel with one engine. `docs/support.json` holds all rows, `docs/support.md` is
made from them; neither is written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 1
SERIES = ("5.10", "6.1", "6.12", "7")
FLAVOURS = ("amd64", "cloud-amd64", "rt-amd64")
ENGINES = ("livepatch", "per-task", "atomic")
STEPS = ("build", "match", "apply", "check", "undo", "verify")
PASSED, FAILED, REFUSED, MISSING = "passed", "failed", "refused", "not to be had"
SIGNS = {PASSED: "✔", FAILED: "✘", REFUSED: "–", MISSING: "–"}
TITLES = {"5.10": "Debian 11", "6.1": "Debian 12", "6.12": "Debian 13", "7": "newest 7.x"}

HEAD = """\
# Which kernels are supported

This page is made by `make matrix` from what really ran; do not edit it. For each kernel a small
patch (`src/rebootless/examples/proc_version.patch`) was built, proven to fit the shipped code,
applied in QEMU while the guest was busy, seen to work, taken out again, and the kernel's code
compared with what it was before.

✔ all of this passed · ✘ something failed · – not possible here; the reasons are below ·
empty: not tried yet.
"""
STEPS_TEXT = """\
**build**: only the file that the patch touches was compiled. **match**: how many functions of that
file are, byte for byte, what the kernel ships. **apply**, **check**, **undo**: in QEMU, under load.
**verify**: the patched functions' code is as it was before, and the kernel's log is clean.
Times of apply and undo are the transition's as the guest's kernel tells them. QEMU emulates every
instruction, and other work may have kept the machine busy: they tell that it went well, not how
quick it is ([engines.md](engines.md) compares).
"""


@dataclass(frozen=True)
class Row:
    """One kernel with one engine.

    `steps` maps the names in STEPS to "ok", "failed" or "". `seconds` are wall times (build, boot,
    test) and the guest's own for apply and undo. `matched` is (identical, all) functions of the
    unit. `reason` tells why it did not pass. `date` is UTC, ISO 8601.
    """

    series: str
    flavour: str
    engine: str
    outcome: str
    date: str
    release: str = ""
    version: str = ""
    compiler: str = ""
    steps: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    matched: tuple[int, int] = (0, 0)
    reason: str = ""

    @property
    def key(self) -> tuple[int, int, int]:
        """Its place in the table."""
        return (
            SERIES.index(self.series),
            FLAVOURS.index(self.flavour),
            ENGINES.index(self.engine),
        )


def load(path: Path) -> dict[tuple[int, int, int], Row]:
    """The rows of a file by their place; none when there is no file, or of another schema."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text())
    if document.get("schema") != SCHEMA:
        return {}
    rows = [Row(**{**r, "matched": tuple(r["matched"])}) for r in document["rows"]]
    return {row.key: row for row in rows}


def document(rows: Iterable[Row], tools: dict[str, str]) -> dict[str, Any]:
    """All rows as JSON values; `tools` are the versions of what ran them."""
    ordered = sorted(rows, key=lambda row: row.key)
    return {"schema": SCHEMA, "tools": tools, "rows": [asdict(row) for row in ordered]}


def page(rows: Sequence[Row], tools: dict[str, str]) -> str:
    """The rows as a Markdown page: a glance, each row in full, and the reasons."""
    ordered = sorted(rows, key=lambda row: row.key)
    parts = [HEAD, _glance(ordered), "## Each row\n", STEPS_TEXT, _details(ordered)]
    if reasons := _reasons(ordered):
        parts += ["## What did not pass, and why\n", reasons]
    ran = ", ".join(f"{name} {version}" for name, version in tools.items())
    parts.append(f"Run with {ran}. The same facts for programs: [support.json](support.json).\n")
    return "\n".join(parts)


def _glance(rows: Sequence[Row]) -> str:
    """One line per kernel, one column per engine."""
    cells = {row.key: row for row in rows}
    lines = [_line("kernel", "flavour", *ENGINES, "tried with"), _line(*["---"] * 6)]
    for s, series in enumerate(SERIES):
        for f, flavour in enumerate(FLAVOURS):
            mine = [cells.get((s, f, e)) for e in range(len(ENGINES))]
            signs = [SIGNS[row.outcome] if row else "" for row in mine]
            shown = next((row for row in mine if row and row.release), None)
            name = f"{series} ({TITLES[series]})" if series != "7" else TITLES[series]
            tried = f"{shown.release} ({shown.date[:10]})" if shown else ""
            lines.append(_line(name, flavour, *signs, tried))
    return "\n".join(lines) + "\n"


def _details(rows: Sequence[Row]) -> str:
    """Every row that came as far as a build."""
    heads = ("kernel", "package", "engine", *STEPS, "build s", "boot s", "apply ms", "undo ms")
    lines = [_line(*heads, "date"), _line(*["---"] * (len(heads) + 1))]
    for row in rows:
        if not row.steps:
            continue
        steps = [{"ok": "✔", "failed": "✘"}.get(row.steps.get(s, ""), "") for s in STEPS]
        if row.matched[1]:
            steps[STEPS.index("match")] += f" {row.matched[0]}/{row.matched[1]}"
        times = [f"{row.seconds[n]:.1f}" if n in row.seconds else "" for n in ("build", "boot")]
        times += [
            f"{row.seconds[n] * 1000:.0f}" if n in row.seconds else "" for n in ("apply", "undo")
        ]
        lines.append(_line(row.release, row.version, row.engine, *steps, *times, row.date[:10]))
    return "\n".join(lines) + "\n"


def _reasons(rows: Sequence[Row]) -> str:
    """Each reason once, with the rows that it is about."""
    about: dict[str, list[str]] = {}
    for row in rows:
        if row.outcome != PASSED:
            kernel = row.release or f"{row.series} {row.flavour}"
            about.setdefault(f"{row.outcome}: {row.reason}", []).append(f"{kernel} {row.engine}")
    lines = []
    for reason, whom in about.items():
        kernels: dict[str, list[str]] = {}
        for item in whom:
            kernel, _, engine = item.rpartition(" ")
            kernels.setdefault(kernel, []).append(engine)
        shown = "; ".join(
            k if len(e) == len(ENGINES) else f"{k} ({', '.join(e)})" for k, e in kernels.items()
        )
        lines.append(f"- **{shown}**: {reason}")
    return "\n".join(lines) + ("\n" if lines else "")


def _line(*cells: str) -> str:
    return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"
