"""`rebootless match`: is this object file what the kernel ships?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ...base.errors import MismatchError
from ..options import FILE, kernel_options, verb
from ..output import Facts, Output, Page

if TYPE_CHECKING:
    from ...provider.base import GivenKernel


@verb
@click.argument("obj", metavar="OBJECT", type=FILE)
@kernel_options
@click.option("--module", metavar="NAME", help="The module it belongs to. Default: vmlinux.")
def command(
    out: Output, obj: Path, kernel: str | None, local: GivenKernel | None, module: str | None
) -> None:
    """Compare an OBJECT file, function by function, with the code that a kernel ships.

    The exit code is 7 if a function differs, or if none is found in the kernel.
    """
    from ... import pipeline

    report = pipeline.match_object(
        obj, kernel=kernel, module=module, local=local, monitor=out.monitor
    )
    facts = out.show(report, render)
    states = {f["status"] for f in facts["functions"]}
    if "mismatched" in states or (states and "matched" not in states):
        raise click.exceptions.Exit(MismatchError.exit_code)


def render(page: Page, facts: Facts) -> None:
    """One line per function, and a count."""
    functions = facts["functions"]
    page.table(
        ["function", "status", "address", "size", "differs at", "reason"],
        [
            (
                f["name"],
                f["status"],
                None if f["address"] is None else f"{f['address']:#x}",
                f["size"],
                f["first_difference"],
                f["reason"],
            )
            for f in functions
        ],
    )
    matched = sum(f["status"] == "matched" for f in functions)
    page.line(f"{matched} of {len(functions)} functions are identical to the shipped code")
