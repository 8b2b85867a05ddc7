"""`rebootless translate`: the distribution's own update as live patches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from ...base.words import counted
from ..options import DIRECTORY, verb
from ..output import Facts, Output, Page

SHOWN = 25
CVES = {  # the counter of CVEs for each outcome
    "live-patch": "cves_covered",
    "no-effect": "cves_unaffected",
    "reboot": "cves_reboot",
    "failed": "cves_failed",
}


@verb
@click.option("--from", "release", metavar="RELEASE", help="Default: the running kernel.")
@click.option("--to", metavar="VERSION", help="Of the source package. Default: the newest.")
@click.option("--only", multiple=True, metavar="PATH-GLOB",
              help="Only parts that touch such a path, as 'fs/ext4/*'.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the first N parts.")
@click.option("--jobs", type=click.IntRange(min=1), metavar="N",
              help="Workers on this machine. Default: as cores and memory allow.")  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS",
              help="A Dask scheduler whose workers do it, as tcp://HOST:8786.")  # fmt: skip
@click.option("--max-units", type=click.IntRange(min=1), default=60, show_default=True,
              help="Leave parts alone that reach more units.")  # fmt: skip
@click.option("--test/--no-test", default=True, show_default=True,
              help="Try the bundle in a virtual machine.")  # fmt: skip
@click.option("-o", "--output", type=DIRECTORY, default=Path("out/translate"), show_default=True,
              metavar="DIR", help="Where bundle and report go.")  # fmt: skip
@click.option("--results", type=DIRECTORY, metavar="DIR",
              help="Keep the single results here. Default: in the cache.")  # fmt: skip
@click.option("--suite", "suites", multiple=True, help="Also look in this suite of the archive.")
def command(
    out: Output,
    release: str | None,
    to: str | None,
    only: Sequence[str],
    limit: int | None,
    jobs: int | None,
    scheduler: str | None,
    max_units: int,
    test: bool,
    output: Path,
    results: Path | None,
    suites: Sequence[str],
) -> None:
    """Turn an update of the kernel's source package into live patches for a kernel before it.

    The update is split into its smallest independent parts. Each is built and proven alone; all
    that can be applied live go into one bundle, which is tested. Interrupted at any time, the same
    command goes on where it was. Whatever becomes of single parts, the exit code is 0: the report
    tells.
    """
    from ... import pipeline
    from ...pipeline.cluster import Where
    from ...pipeline.translation import Settings

    if jobs and scheduler:
        raise click.UsageError("--jobs is for workers of this machine, not of a --scheduler")
    where = Where(jobs or 0, scheduler or "")
    result = pipeline.translate(
        release,
        to,
        only=only,
        limit=limit,
        folder=output,
        settings=Settings(where, tuple(suites), max_units, test, results),
        monitor=out.monitor,
    )
    out.show(result, render)


def render(page: Page, facts: Facts) -> None:
    """The totals, the causes, then the parts that need a person or a reboot."""
    update, found = facts["plan"]["update"], facts["totals"]
    page.pairs(
        [
            ("update", f"{update['old_version']} -> {update['new_version']}"),
            ("kernel", update["release"]),
            ("files", f"{found['files']} changed, {found['files_compiled']} for this kernel"),
            ("functions", found["functions"]),
            ("known before", facts["known_before"]),
            ("bundle", facts["bundle"]),
            ("tested together", facts["tested_together"]),
            ("report", facts["page"]),
        ]
    )
    parts, units = found["candidates_by_outcome"], found["units_by_outcome"]
    rows = [(o, parts[o], units[o], found[counter]) for o, counter in CVES.items()]
    page.table(["outcome", "parts", "units", "CVEs"], rows)
    if found["cves_unplaced"]:
        page.line(f"{counted(found['cves_unplaced'], 'CVE')} could not be tied to a part")
    causes = Counter((r["outcome"], r["cause"]) for r in facts["results"] if r["cause"])
    page.table(["cause", "outcome", "parts"], [(c, o, n) for (o, c), n in causes.most_common()])
    titles = {c["key"]: c["title"] for c in facts["plan"]["candidates"]}
    open_ones = [
        (titles[r["key"]], r["outcome"], r["cause"], r["message"].partition("\n")[0])
        for r in facts["results"]
        if r["outcome"] in ("reboot", "failed")
    ]
    page.table(["part", "outcome", "cause", "why"], open_ones[:SHOWN])
    if len(open_ones) > SHOWN:
        page.line(f"and {len(open_ones) - SHOWN} more: see the report")
