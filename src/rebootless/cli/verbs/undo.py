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
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Compare all code with the shipped image afterwards, where that is at hand.",
)
def command(
    out: Output,
    name: str,
    wait: float,
    signal_after: float | None,
    on_timeout: str,
    verify: bool,
) -> None:
    """Take the patch NAME out of the running kernel, and remove its module.

    The code of its functions is looked at afterwards, and all code is compared with the shipped
    image, as `verify` does, where that is installed or cached. The exit code is 7 if a function
    still leads to the patch, or code differs that nothing accounts for.
    """
    from ... import pipeline

    undone = pipeline.undo(
        name,
        wait=wait,
        signal_after=signal_after,
        on_timeout=on_timeout,
        verify=verify,
        monitor=out.monitor,
    )
    facts = out.show(undone, render)
    if facts["still_redirected"] or (undone.compared and undone.compared.clean is False):
        raise click.exceptions.Exit(MismatchError.exit_code)
