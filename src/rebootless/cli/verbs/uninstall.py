"""`rebootless uninstall`: the opposite of install."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import DIRECTORY, verb
from ..output import Facts, Output, Page


@verb
@click.argument("name")
@click.option("--root", type=DIRECTORY, default=Path("/"), help="Of this root directory.")
def command(out: Output, name: str, root: Path) -> None:
    """Take back what install did for the patch NAME. A patch that is applied stays applied."""
    from ... import pipeline

    out.show(pipeline.uninstall(name, root), render)


def render(page: Page, facts: Facts) -> None:
    """Every fact."""
    page.pairs([(name, value) for name, value in facts.items() if name != "schema"])
