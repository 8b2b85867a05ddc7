"""`rebootless status`: how the running kernel is patched."""

from __future__ import annotations

import click

from ..options import verb
from ..output import Facts, Output, Page


@verb
@click.option("-v", "--verbose", is_flag=True, help="With functions and blocking tasks.")
def command(out: Output, verbose: bool) -> None:
    """Show how the running kernel is patched, and which tasks hold a transition up."""
    from ... import pipeline

    out.show(pipeline.status(verbose=verbose), render)


def render(page: Page, facts: Facts) -> None:
    """The kernel, its patches, their functions, the tasks in the way."""
    patches = facts["livepatches"]
    page.pairs(
        [
            ("kernel", facts["release"]),
            ("build id", facts["build_id"]),
            ("live patching", "yes" if facts["supported"] else "this kernel has none"),
            ("taint", facts["taint"]["letters"]),
        ]
    )
    page.table(["patch", "state"], [(p["name"], p["state"]) for p in patches])
    page.table(
        ["patch", "object", "function"],
        [
            (p["name"], o["name"], f["name"])
            for p in patches
            for o in p["objects"]
            for f in o["functions"]
        ],
    )
    page.table(
        ["pid", "task", "holds the transition up in"],
        [(b["pid"], b["comm"], b["in_function"] or b["wchan"]) for b in facts["blockers"]],
    )
    if not patches:
        page.line("no live patch is applied")
