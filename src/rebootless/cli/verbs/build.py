"""`rebootless build`: from a source patch to a bundle."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..options import DIRECTORY, FILE, kernel_options, verb
from ..output import Facts, Output, Page

if TYPE_CHECKING:
    from ...provider.base import GivenKernel


def check_cves(
    _ctx: click.Context, _option: click.Parameter, given: Sequence[str]
) -> tuple[str, ...]:
    """The ids in upper case; a typing error would be in every list of what is fixed."""
    for cve in given:
        if not re.fullmatch(r"CVE-\d{4}-\d{4,}", cve, re.IGNORECASE | re.ASCII):
            raise click.BadParameter(f"'{cve}' is not a CVE id, such as CVE-2026-12345")
    return tuple(cve.upper() for cve in given)


@verb
@click.argument("patches", nargs=-1, required=True, type=FILE)
@kernel_options
@click.option("--name", help="Default: rebootless_ and the name of the first file.")
@click.option("--version", default="1", show_default=True, help="Of the patch.")
@click.option("--replace", is_flag=True, help="Replace every patch applied before.")
@click.option("--cve", "cves", multiple=True, metavar="CVE-YEAR-NUMBER", callback=check_cves,
              help="A CVE that it fixes, besides those that the patches name.")  # fmt: skip
@click.option("-o", "--output", type=FILE, help="Default: NAME.rlp here, without rebootless_.")
@click.option("--workdir", type=DIRECTORY, help="Keep the stages here; a later run resumes.")
@click.option("--max-units", type=click.IntRange(min=1), default=60, show_default=True,
              help="Refuse patches that touch more units.")  # fmt: skip
@click.option("--from-source", is_flag=True,
              help="Extract what changes into a C file, keep it, and build that.")  # fmt: skip
@click.option("--suite", "suites", multiple=True, help="Also look in this suite of the archive.")
@click.option("--module-source", type=DIRECTORY, metavar="DIR",
              help="The patch is for an out-of-tree module: its source.")  # fmt: skip
@click.option("--module", "installed", multiple=True, metavar="NAME|FILE.ko",
              help="Its installed file; default: in lib/modules/RELEASE.")  # fmt: skip
@click.option("--module-symvers", type=FILE, multiple=True, metavar="FILE",
              help="Module.symvers of out-of-tree modules that it needs.")  # fmt: skip
def command(
    out: Output,
    patches: Sequence[Path],
    kernel: str | None,
    local: GivenKernel | None,
    name: str | None,
    version: str,
    replace: bool,
    cves: Sequence[str],
    output: Path | None,
    workdir: Path | None,
    max_units: int,
    from_source: bool,
    suites: Sequence[str],
    module_source: Path | None,
    installed: Sequence[str],
    module_symvers: Sequence[Path],
) -> None:
    """Build a live patch from source PATCHES (unified diffs, in order), and prove that it fits.

    Only the source files that the patches touch are compiled, and what is compiled is compared
    with the code that the kernel ships. Instead of patches, C files can be given that replace
    functions by hand ('rebootless new' writes one to start from).
    """
    from ... import pipeline

    if module_source is None and (installed or module_symvers):
        raise click.UsageError("--module and --module-symvers need --module-source")
    external = None
    if module_source is not None:
        external = pipeline.ExternalModule(module_source, tuple(installed), tuple(module_symvers))
    result = pipeline.build(
        patches,
        kernel=kernel,
        local=local,
        name=name,
        version=version,
        replace=replace,
        cves=cves,
        output=output,
        workdir=workdir,
        max_units=max_units,
        from_source=from_source,
        suites=suites,
        external=external,
        monitor=out.monitor,
    )
    out.show(result, functools.partial(render, told=out.has_told))


def render(page: Page, facts: Facts, *, told: bool = False) -> None:
    """Where the bundle is and what it changes; the warnings, unless they have been `told`."""
    manifest = facts["manifest"]
    page.pairs(
        [
            ("bundle", facts["bundle"]),
            ("patch", manifest["name"]),
            ("kernel", manifest["kernel"]["release"]),
            ("fixes", manifest["cves"]),
            ("report", facts["report"]),
            ("seconds", sum(facts["seconds"].values())),
        ]
    )
    page.table(
        ["object", "function", "old size", "new size", "begins to differ"],
        [
            (o["name"], f["name"], f["size_old"], f["size_new"], facts["begins"].get(f["name"]))
            for o in manifest["objects"]
            for f in o["functions"]
        ],
    )
    accepted = [w for w in facts["warnings"] if w["accepted"]]
    if accepted:
        page.line("accepted: " + ", ".join(f"{w['code']} {w['symbol']}".strip() for w in accepted))
    open_ones = [w for w in facts["warnings"] if not w["accepted"]]
    for finding in open_ones if not told else ():
        page.line(f"warning: [{finding['code']}] {finding['message']}")
    if example := next((w for w in open_ones if w["code"] != "accept-unused"), None):
        named = f"{example['code']} {example['symbol']}".strip()
        page.line(f"A line `Rebootless-Accept: {named}` in the patch's header accepts a warning.")
