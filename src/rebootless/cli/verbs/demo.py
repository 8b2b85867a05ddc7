"""`rebootless demo`: the whole way, on a real update, in a virtual machine."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import DIRECTORY, engine_option, verb
from ..output import Facts, Output, Page
from .test import render as render_test


@verb
@click.option(
    "--folder",
    type=DIRECTORY,
    default=Path("out/demo"),
    show_default=True,
    help="Where the patch, the bundle and the reports go.",
)
@engine_option
@click.option("--own", is_flag=True, help="A patch of ours that shows in /proc/version.")
def command(out: Output, folder: Path, engine: str, own: bool) -> None:
    """Patch a stock kernel live, in a virtual machine, from source to proof.

    Takes the newest small update of the distribution's kernel, builds it for the kernel before
    it, applies it in QEMU under load, and undoes it. Downloads about 300 MB the first time.
    Changes nothing on this machine's kernel.
    """
    from ... import pipeline

    out.show(pipeline.demo(folder=folder, own=own, engine=engine, monitor=out.monitor), render)


def render(page: Page, facts: Facts) -> None:
    """What was patched, how the test went, and where everything lies."""
    page.pairs([("patched", facts["title"]), ("kernel", facts["kernel"])])
    page.table(
        ["object", "function", "old size", "new size"],
        [
            (o["name"], f["name"], f["size_old"], f["size_new"])
            for o in facts["build"]["manifest"]["objects"]
            for f in o["functions"]
        ],
    )
    render_test(page, facts["test"])
    page.pairs(
        [
            ("source patch", facts["patch"]),
            ("bundle", facts["bundle"]),
            ("report", facts["report_text"]),
            ("report as JSON", facts["report_json"]),
        ]
    )
