"""`rebootless inspect`: what a bundle or a patch module contains."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import FILE, verb
from ..output import Facts, Output, Page


@verb
@click.argument("path", type=FILE)
def command(out: Output, path: Path) -> None:
    """Show what a bundle (.rlp) or a patch module (.ko) contains, having verified it."""
    from ... import pipeline

    out.show(pipeline.inspect(path), render)


def render(page: Page, facts: Facts) -> None:
    """The single facts as pairs, then a table per list of records."""
    flat = {**facts, **facts.get("manifest", {})}
    flat |= flat.pop("kernel", {}) if isinstance(flat.get("kernel"), dict) else {}
    page.pairs(
        [
            (name.replace("_", " "), value)
            for name, value in flat.items()
            if name != "schema" and not _is_table(value) and not isinstance(value, dict)
        ]
    )
    for patched in flat.get("objects", ()):
        page.table(
            ["object", "function", "position", "old size", "new size"],
            [
                (patched["name"], f["name"], f["sympos"], f["size_old"], f["size_new"])
                for f in patched["functions"]
            ],
        )


def _is_table(value: object) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)
