"""`rebootless apply`: a bundle into the running kernel."""

from __future__ import annotations

from pathlib import Path

import click

from ...engine.restored import Comparison
from ..options import FILE, engine_option, transition_options, verb
from ..output import Facts, Output, Page


@verb
@click.argument("bundle", type=FILE)
@engine_option
@transition_options
@click.option("--force", is_flag=True, help="Short for --on-timeout force.")
def command(
    out: Output,
    bundle: Path,
    engine: str,
    wait: float,
    signal_after: float | None,
    on_timeout: str,
    force: bool,
) -> None:
    """Apply BUNDLE to the running kernel, and follow the transition to its end.

    The kernel's build id must be the one that the bundle was built for.
    """
    from ... import pipeline

    applied = pipeline.apply(
        bundle,
        engine=engine,
        wait=wait,
        signal_after=signal_after,
        on_timeout=on_timeout,
        force=force,
        monitor=out.monitor,
    )
    out.show(applied, render)


def render(page: Page, facts: Facts) -> None:
    """The patch and how its transition went; of an undo also how the code is now."""
    transition = facts["transition"] or {}
    compared = facts.get("compared")
    page.pairs(
        [
            ("patch", facts["name"]),
            ("engine", facts.get("engine")),
            ("chosen", facts.get("why")),
            ("transition", transition.get("outcome")),
            ("seconds", transition.get("seconds")),
            ("tasks woken", "yes" if transition.get("signalled") else None),
            ("replaced", facts.get("replaced")),
            ("modules not loaded yet", facts.get("waiting")),
            ("remains", facts.get("remains")),
            ("still redirected", facts.get("still_redirected")),
            ("all code", Comparison(**compared).text if compared else None),
        ]
    )
