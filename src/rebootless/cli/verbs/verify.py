"""`rebootless verify`: is the code that runs the code that was shipped?"""

from __future__ import annotations

from pathlib import Path

import click

from ...base.errors import MismatchError
from ...base.words import counted
from ..options import DIRECTORY, FILE, verb
from ..output import Facts, Output, Page


@verb
@click.option("--image", type=FILE, help="The vmlinuz that was booted. Default: the installed one.")
@click.option("--modules", type=DIRECTORY, help="Its lib/modules/RELEASE.")
@click.option("--kernel-only", is_flag=True, help="Leave the loaded modules out.")
@click.option("-v", "--verbose", is_flag=True, help="With the counts of all special sites.")
def command(
    out: Output, image: Path | None, modules: Path | None, kernel_only: bool, verbose: bool
) -> None:
    """Compare the code of the running kernel and its modules with the code that was shipped.

    What the kernel itself changes is checked, not left out. Needs root. The exit code is 7 if
    something differs that neither the kernel nor a live patch accounts for.
    """
    from ... import pipeline

    report = pipeline.verify(
        image=image, modules=modules, kernel_only=kernel_only, monitor=out.monitor
    )
    facts = out.show(report, lambda page, shown: render(page, shown, verbose=verbose))
    if not facts["clean"]:
        raise click.exceptions.Exit(MismatchError.exit_code)


def render(page: Page, facts: Facts, *, verbose: bool = False) -> None:
    """The differences with their code, what is redirected, and what was not compared."""
    for found in facts["differences"]:
        page.line(f"{named(found)}+{found['offset']:#x} ({found['address']:#x}): {found['reason']}")
        page.pairs(
            [
                ("  expected", _code(found, "expected")),
                ("  found", _code(found, "found")),
            ]
        )
    page.table(
        ["redirected", "at", "leads to", "by"],
        [
            (named(r), f"{r['address']:#x}", f"{r['leads_to']:#x}", r["patches"])
            for r in facts["redirected"]
        ],
    )
    page.table(
        ["not decided", "at", "kind", "reason"],
        [
            (f"{named(u)}+{u['offset']:#x}", f"{u['address']:#x}", u["kind"], u["reason"])
            for u in facts["undecided"]
        ],
    )
    page.table(
        ["not compared", "reason"], [(s["object"], s["reason"]) for s in facts["not_compared"]]
    )
    if verbose:
        page.table(
            ["object", "sites", "there", "rewritten", "not decided"],
            [
                (o["name"], k["name"], k["sites"], k["altered"], k["undecided"])
                for o in facts["objects"]
                for k in o["sites"]
            ],
        )
    size = sum(o["size"] for o in facts["objects"]) / 2**20
    number = len(facts["differences"])
    objects = counted(len(facts["objects"]), "object")
    told = counted(number, "difference") if number else "no difference"
    page.line(f"{told} in {size:.1f} MiB of code in {objects} of {facts['release']}")


def named(found: Facts) -> str:
    """A function with its module."""
    function = found["function"] or "(no function)"
    return function if found["object"] == "vmlinux" else f"{found['object']}:{function}"


def _code(found: Facts, side: str) -> str:
    """Bytes, and the instructions they are."""
    blob = bytes.fromhex(found[side])
    more = " ..." if found["size"] > len(blob) else ""
    return f"{blob.hex(' ')}{more}  {'; '.join(found[side + '_code'])}"
