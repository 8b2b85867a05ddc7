"""`rebootless new`: a C file to start a hand-written live patch from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import FILE, kernel_options, verb
from ..output import Facts, Output, Page

if TYPE_CHECKING:
    from ...provider.base import GivenKernel


@verb
@click.argument("name")
@click.option("--function", "functions", multiple=True, required=True,
              metavar="[OBJECT:|UNIT:]FUNCTION",
              help="A function to replace; more than one of a unit can be given.")  # fmt: skip
@kernel_options
@click.option("-o", "--output", type=FILE, help="Default: NAME.c here.")
@click.option("--suite", "suites", multiple=True, help="Also look in this suite of the archive.")
def command(
    out: Output,
    name: str,
    functions: Sequence[str],
    kernel: str | None,
    local: GivenKernel | None,
    output: Path | None,
    suites: Sequence[str],
) -> None:
    """Write a C file NAME.c that replaces functions of the kernel, to be changed and built.

    The functions are copied as they are in the kernel's source, with the includes of their unit
    and declarations of what is private to it. 'rebootless build NAME.c' builds it.

    A name that several units have is told apart by its module (ext4:FUNCTION) or its file
    (fs/ext4/super.c:FUNCTION).
    """
    from ... import pipeline

    result = pipeline.scaffold(
        name,
        functions,
        kernel=kernel,
        local=local,
        output=output,
        suites=suites,
        monitor=out.monitor,
    )
    out.show(result, render)


def render(page: Page, facts: Facts) -> None:
    """Where the file is, and what to do next."""
    page.pairs(
        [
            ("file", facts["file"]),
            ("replaces", ", ".join(facts["functions"])),
            ("unit", facts["unit"]),
            ("object", facts["object"]),
            ("kernel", facts["kernel"]),
        ]
    )
    page.line(f"next: change {facts['file']}, then")
    page.line(f"  rebootless build {facts['file']} --kernel {facts['kernel']}")
