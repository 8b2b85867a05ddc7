"""`rebootless diff`: what differs between two object files of one source file."""

from __future__ import annotations

from pathlib import Path

import click

from ...base.errors import NoChangeError, RefusedError
from ..options import FILE, verb
from ..output import Facts, Output, Page


@verb
@click.argument("orig", type=FILE)
@click.argument("patched", type=FILE)
def command(out: Output, orig: Path, patched: Path) -> None:
    """Compare two object files function by function: ORIG and PATCHED.

    The exit code is 0 if something changed, 2 if the change cannot be live-patched, 3 if both do
    the same.
    """
    from ... import pipeline

    facts = out.show(pipeline.diff_objects(orig, patched), render)
    if facts["refused"]:
        raise click.exceptions.Exit(RefusedError.exit_code)
    if not facts["changed"] and not facts["new"]:
        raise click.exceptions.Exit(NoChangeError.exit_code)


def render(page: Page, facts: Facts) -> None:
    """Changed and new functions, then what stands against them."""
    functions = [
        (kind, f["name"], f["size_old"], f["size_new"], f["reason"])
        for kind in ("changed", "new")
        for f in facts[kind]
    ]
    page.table(["change", "function", "old size", "new size", "why"], functions)
    for title in ("removed", "new_data"):
        if facts.get(title):
            page.line(f"{title.replace('_', ' ')}: {', '.join(map(str, facts[title]))}")
    for title in ("refused", "warnings"):
        for finding in facts[title]:
            word = "warning" if title == "warnings" else title
            page.line(": ".join(t for t in (word, finding["symbol"], finding["message"]) if t))
    if not functions and not facts["refused"]:
        page.line("no change")
