"""`rebootless explain`: what a patch does, function by function, and why."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import FILE, verb
from ..output import Facts, Output, Page

SHOWN = 8  # names in a line
NOTHING = "the bundle carries no explanation of its functions: an earlier version built it"


@verb
@click.argument("path", type=FILE, metavar="BUNDLE|ORIG.o")
@click.argument("patched", type=FILE, required=False, metavar="[PATCHED.o]")
@click.option("--html", type=FILE, help="Write a page for a browser: one file, nothing else.")
def command(out: Output, path: Path, patched: Path | None, html: Path | None) -> None:
    """Explain a bundle, or two object files of one source file, function by function.

    What differs first, from which line of the source and through which inlining; what the new
    code refers to, and who calls it.
    """
    from ... import pipeline

    facts = pipeline.explain(path, patched, html=html)
    out.show({**facts, "page": str(html) if html else ""}, render)


def render(page: Page, facts: Facts) -> None:
    """What it is, then a paragraph for each function."""
    if facts["page"]:
        page.line(f"wrote {facts['page']}")
        return
    if facts["kind"] == "bundle":
        manifest = facts["manifest"]
        page.pairs(
            [
                ("patch", f"{manifest['name']} {manifest['version']}"),
                ("title", facts["title"]),
                ("kernel", manifest["kernel"]["release"]),
                ("fixes", manifest["cves"]),
                ("test in QEMU", facts["verdict"] or "not tested"),
            ]
        )
    for unit in facts["units"]:
        for function in unit["functions"]:
            page.line()
            _function(page, unit, function)
    if not any(unit["functions"] for unit in facts["units"]):
        page.line("no difference" if facts["kind"] == "objects" else NOTHING)
    for title in ("refused", "warnings"):
        for finding in facts[title]:
            word = "warning" if title == "warnings" else title
            page.line(": ".join(t for t in (word, finding["symbol"], finding["message"]) if t))


def _function(page: Page, unit: Facts, function: Facts) -> None:
    size = f"{function['size_old']} -> {function['size_new']} bytes"
    page.line(f"{function['name']} ({function['kind']}, {unit['source']}, {size})")
    references = function["references"]
    rows: list[tuple[str, object]] = [("  why", function["reason"])]
    if first := function["first"]:
        at = first["offset_new"] if first["offset_new"] is not None else first["offset_old"]
        now, before = first["new"] or "nothing", first["old"] or "nothing"
        rows.append(("  differs first", f"at +{at:#x}: {now} (was: {before})"))
        rows.append(("  source", _source(first["chain"])))
    rows += [("  patched line", _cause(cause)) for cause in function.get("causes", [])[:4]]
    rows += [
        ("  called by", _names([_caller(c) for c in function["callers"]])),
        ("  calls", _names([r["name"] for r in references if r["is_called"]])),
        ("  refers anew to", _names([r["name"] for r in references if r["is_new"]])),
        ("  no longer to", _names(function["gone"])),
        ("  relocations", [f"{n} {kind}" for kind, n in function["relocations_new"].items()]),
        ("  special sections", [f"{name} {n}" for name, n in function["special"].items()]),
    ]
    page.pairs(rows)


def _caller(caller: Facts) -> str:
    unit = caller.get("unit", "")
    return caller["name"] if unit in ("", "vmlinux") else f"{caller['name']} ({unit})"


def _source(chain: list[list[object]]) -> str:
    """The innermost place, and through which inlined functions it came."""
    return ", inlined at ".join(f"{path}:{line} in {name}()" for name, path, line in chain)


def _cause(cause: Facts) -> str:
    inlined = [f"{frame[0]}()" for frame in cause["chain"][:-1]]
    through = f" (through {', '.join(inlined)})" if inlined else ""
    return f"{cause['file']}:{cause['line']} {cause['mark']} {cause['text']}{through}"


def _names(names: list[str]) -> str:
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest
