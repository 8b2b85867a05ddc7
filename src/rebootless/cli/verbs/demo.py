"""`rebootless demo`: the whole way, on a real bug, in a virtual machine."""

from __future__ import annotations

from ..options import verb
from ..output import Facts, Output, Page


@verb
def command(out: Output) -> None:
    """Fix a real kernel bug live, in a virtual machine, from source to proof.

    Downloads a stock kernel and its source once (about 300 MB), builds the fix, shows the bug in
    the running kernel, applies the patch, and shows that it is gone. Changes nothing here.
    """
    from ... import pipeline

    out.show(pipeline.demo(monitor=out.monitor), render)


def render(page: Page, facts: Facts) -> None:
    """Every single fact."""
    page.pairs([(k.replace("_", " "), v) for k, v in facts.items() if k != "schema"])
