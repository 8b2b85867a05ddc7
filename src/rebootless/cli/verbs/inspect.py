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
    """What it is and for which kernel, the functions, the warnings, the modules."""
    if facts["kind"] == "module":
        _module(page, facts)
        return
    manifest = facts["manifest"]
    kernel = manifest["kernel"]
    page.pairs(
        [
            ("bundle", f"{manifest['name']} {manifest['version']}"),
            ("title", facts["report"].get("title")),
            ("id", facts["id"]),
            ("kernel", kernel["release"]),
            ("build id", kernel["build_id"]),
            ("source version", kernel["source_version"]),
            ("compiler", manifest["toolchain"]),
            ("fixes", manifest["cves"]),
            ("replaces all others", manifest["replace"]),
            ("test in QEMU", facts["verdict"] or "not tested"),
        ]
    )
    page.table(
        ["object", "function", "position", "old size", "new size"],
        [
            (o["name"], f["name"], f["sympos"], f["size_old"], f["size_new"])
            for o in manifest["objects"]
            for f in o["functions"]
        ],
    )
    page.table(
        ["warning", "about", "accepted", "message"],
        [(w["code"], w["symbol"], w["accepted"], w["message"]) for w in manifest["warnings"]],
    )
    features = manifest.get("features", {})
    page.table(
        ["object", "callback", "function"],
        [(c["object"], c["kind"], c["function"]) for c in features.get("callbacks", ())],
    )
    page.table(
        ["system state", "version"],
        [(s["id"], s["version"]) for s in features.get("states", ())],
    )
    for module in facts["modules"]:
        _module(page, module)


def _module(page: Page, module: Facts) -> None:
    page.pairs(
        [
            ("module", module["name"]),
            ("live patch", module["livepatch"]),
            ("vermagic", module["vermagic"]),
            ("depends on", module["depends"]),
            ("symbols resolved by livepatch", module["livepatch_symbols"]),
        ]
    )
