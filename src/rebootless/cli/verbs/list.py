"""`rebootless list`: applied and installed patches."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import DIRECTORY, verb
from ..output import Facts, Output, Page


@verb
@click.option(
    "--root", type=DIRECTORY, default=Path("/"), help="What is installed in this root directory."
)
def command(out: Output, root: Path) -> None:
    """List applied and installed patches."""
    from ... import pipeline

    out.show({"patches": pipeline.list_patches(root=root)}, render)


def render(page: Page, facts: Facts) -> None:
    """One line per patch."""
    rows = [(p["name"], p["state"], p["engine"], p["installed"]) for p in facts["patches"]]
    page.table(["patch", "state", "engine", "installed"], rows)
    if not rows:
        page.line("no live patch is applied or installed")
