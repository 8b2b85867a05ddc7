"""`rebootless install`: a bundle at every boot."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import DIRECTORY, FILE, engine_option, verb
from ..output import Facts, Output, Page


@verb
@click.argument("bundle", type=FILE)
@engine_option
@click.option("--root", type=DIRECTORY, default=Path("/"), help="Install into this root directory.")
def command(out: Output, bundle: Path, engine: str, root: Path) -> None:
    """Have BUNDLE applied at every boot of the kernel that it is for."""
    from ... import pipeline

    out.show(pipeline.install(bundle, root, engine=engine), render)


def render(page: Page, facts: Facts) -> None:
    """Every fact."""
    page.pairs([(name, value) for name, value in facts.items() if name != "schema"])
