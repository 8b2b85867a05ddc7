"""`rebootless boot`: what the systemd unit calls."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import DIRECTORY, verb
from ..output import Facts, Output, Page


@verb
@click.option("--root", type=DIRECTORY, default=Path("/"))
def command(out: Output, root: Path) -> None:
    """Apply the installed bundles that are for the running kernel."""
    from ... import pipeline

    out.show({"patches": pipeline.boot(root, monitor=out.monitor)}, render)


def render(page: Page, facts: Facts) -> None:
    """One line per patch."""
    page.table(["patch", "state"], [(p["name"], p["state"]) for p in facts["patches"]])
