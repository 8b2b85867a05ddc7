"""`rebootless kernels`: which kernels there are, and getting what a build needs of one."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..options import verb
from ..output import Facts, Output, Page


@verb
@click.option("--fetch", metavar="RELEASE", help="Download all that a build needs of this kernel.")
@click.option("--suite", "suites", multiple=True, help="Also look in this suite of the archive.")
@click.option("--all", "everything", is_flag=True, help="Also those that cannot be built.")
def command(out: Output, fetch: str | None, suites: Sequence[str], everything: bool) -> None:
    """List the kernels that can be patched, oldest first; fetch what a build needs."""
    from ... import pipeline

    if fetch is not None:
        out.show(pipeline.fetch(fetch, suites=suites, monitor=out.monitor), render_files)
        return
    found = pipeline.kernels(suites=suites, monitor=out.monitor)
    shown = [kernel for kernel in found if kernel.buildable or kernel.states or everything]
    out.show({"kernels": shown}, render)


def render(page: Page, facts: Facts) -> None:
    """One line per kernel."""
    page.table(
        ["release", "version", "state", "suite", "buildable"],
        [
            (k["release"], k["version"], k["states"], k["origin"], k["buildable"])
            for k in facts["kernels"]
        ],
    )


def render_files(page: Page, facts: Facts) -> None:
    """Where the files of one kernel are."""
    page.pairs([(name, value) for name, value in facts.items() if isinstance(value, str)])
