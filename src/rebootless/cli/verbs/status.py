"""`rebootless status`: how the running kernel is patched."""

from __future__ import annotations

import click

from ..options import verb
from ..output import Facts, Output, Page


@verb
@click.option("-v", "--verbose", is_flag=True, help="With the functions of each patch.")
def command(out: Output, verbose: bool) -> None:
    """Show how the running kernel is patched, and which tasks hold a transition up."""
    from ... import pipeline

    out.show(pipeline.status(verbose=verbose), render)


def render(page: Page, facts: Facts) -> None:
    """The kernel, its patches, their functions, the tasks in the way."""
    patches = facts["patches"]
    page.pairs(
        [
            ("kernel", facts["release"]),
            ("build id", facts["build_id"]),
            ("its own livepatch", "yes" if facts["supported"] else "this kernel has none"),
            ("taint", facts["taint"]["letters"]),
        ]
    )
    page.table(
        ["patch", "engine", "state", "tasks left"],
        [(p["name"], p["engine"], p["state"], p.get("left")) for p in patches],
    )
    page.table(
        ["patch", "object", "function"],
        [(p["name"], f["object"], f["name"]) for p in patches for f in p.get("functions", ())],
    )
    page.table(
        ["patch", "held up by pid", "task", "in"],
        [
            (p["name"], b["pid"], b["comm"], b["where"])
            for p in patches
            for b in p.get("blockers", ())
        ],
    )
    for name in facts["leftovers"]:
        page.line(f"the module {name} is loaded and not in force; `undo {name}` removes it")
    if not patches:
        page.line("no live patch is applied")
