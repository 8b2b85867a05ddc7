"""`rebootless undo`: an applied patch out of the running kernel."""

from __future__ import annotations

import click

from ...base.errors import MismatchError
from ..options import transition_options, verb
from ..output import Output
from .apply import render


@verb
@click.argument("name")
@transition_options
def command(
    out: Output, name: str, wait: float, signal_after: float | None, on_timeout: str
) -> None:
    """Take the patch NAME out of the running kernel, and remove its module.

    The code of its functions is looked at afterwards: the exit code is 7 if one of them still leads
    to the patch.
    """
    from ... import pipeline

    undone = pipeline.undo(
        name, wait=wait, signal_after=signal_after, on_timeout=on_timeout, monitor=out.monitor
    )
    facts = out.show(undone, render)
    if facts["still_redirected"]:
        raise click.exceptions.Exit(MismatchError.exit_code)
