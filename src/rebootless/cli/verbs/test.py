"""`rebootless test`: a bundle in a virtual machine, on the kernel that it is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...base.errors import TestFailedError
from ..options import FILE, engine_option, local_options, verb
from ..output import Facts, Output, Page

if TYPE_CHECKING:
    from ...provider.base import GivenKernel


@verb
@click.argument("bundle", type=FILE)
@click.option("--check", type=FILE, help="A script: fails without the patch, passes with it.")
@click.option(
    "--before",
    type=click.Choice(["fail", "pass"]),
    default="fail",
    show_default=True,
    help="What the check must do while the patch is not applied.",
)
@click.option(
    "--workload/--no-workload", default=True, show_default=True, help="Keep the guest busy."
)
@click.option(
    "--verify/--no-verify",
    default=True,
    show_default=True,
    help="Compare all code with the shipped image after the undo.",
)
@engine_option
@click.option("--module", "installed", multiple=True, type=FILE, metavar="FILE.ko",
              help="An out-of-tree module that it patches.")  # fmt: skip
@local_options
def command(
    out: Output,
    bundle: Path,
    check: Path | None,
    before: str,
    workload: bool,
    verify: bool,
    engine: str,
    installed: Sequence[Path],
    local: GivenKernel | None,
) -> None:
    """Try BUNDLE in a virtual machine: check, apply under load, check, undo, compare, check.

    The script runs in that machine, as root, by the sh of busybox; it ends with status 0 if the
    fix is in force. The log becomes part of the bundle. The exit code is 13 if the test failed.
    """
    from ... import pipeline

    report = pipeline.test(
        bundle,
        check=check,
        expect_before=before,
        workload=workload,
        verify=verify,
        engine=engine,
        modules=installed,
        local=local,
        monitor=out.monitor,
    )
    facts = out.show(report, render)
    if facts["verdict"] != "passed":
        raise click.exceptions.Exit(TestFailedError.exit_code)


def render(page: Page, facts: Facts) -> None:
    """The steps and the verdict."""
    page.table(
        ["step", "result", "seconds", "detail"],
        [(s["name"], s["outcome"], s["seconds"], s["detail"]) for s in facts["steps"]],
    )
    page.pairs([(what, f"{ms:.0f} ms") for what, ms in facts["transition_ms"]])
    if facts["verdict"] != "passed":
        page.pairs([("console", facts["console_log"])])
    elif not any(s["name"] == "check applied" and s["outcome"] == "ok" for s in facts["steps"]):
        page.line("no --check was given: that the patch mends the flaw was not tested")
    page.line(facts["verdict"] + (f": {facts['reason']}" if facts["reason"] else ""))
