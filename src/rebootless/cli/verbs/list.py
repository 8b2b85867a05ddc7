"""`rebootless list`: applied and installed patches."""

from __future__ import annotations

from ..options import verb
from ..output import Facts, Output, Page


@verb
def command(out: Output) -> None:
    """List applied and installed patches."""
    from ... import pipeline

    out.show({"patches": pipeline.list_patches()}, render)


def render(page: Page, facts: Facts) -> None:
    """One line per patch."""
    rows = [(p["name"], p["state"], p["installed"]) for p in facts["patches"]]
    page.table(["patch", "state", "installed"], rows)
    if not rows:
        page.line("no live patch is applied or installed")
