"""`rebootless kernels`: which kernels there are, and getting what a build needs of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ..options import group, packaged_kernels, packages_option, verb
from ..output import Facts, Output, Page

suite_option = click.option(
    "--suite", "suites", multiple=True, help="Also look in this suite of the archive."
)
refresh_option = click.option(
    "--refresh", is_flag=True, help="Read the archive's package lists anew first."
)


@dataclass(frozen=True)
class Asked:
    """What was given before the sub-verb; it counts there as well."""

    out: Output
    suites: tuple[str, ...]
    refresh: bool


@group
@suite_option
@refresh_option
@packages_option
@click.option("--all", "everything", is_flag=True, help="Also those that cannot be built.")
@click.pass_context
def command(
    ctx: click.Context,
    out: Output,
    suites: Sequence[str],
    refresh: bool,
    packages: Path | None,
    everything: bool,
) -> None:
    """List the kernels that can be patched, oldest first; fetch what a build needs of one."""
    from ... import pipeline

    if ctx.invoked_subcommand is not None:
        if packages is not None:
            raise click.UsageError("what is in --from-packages need not be fetched")
        ctx.obj = Asked(out, tuple(suites), refresh)
        return
    local = packaged_kernels(packages)
    found = pipeline.kernels(local=local, suites=suites, refresh=refresh, monitor=out.monitor)
    shown = [k for k in found if everything or k.buildable or k.states - {"archive"}]
    out.show({"kernels": shown}, render)


@verb
@click.argument("release")
@suite_option
@refresh_option
@click.pass_context
def fetch(
    ctx: click.Context, out: Output, release: str, suites: Sequence[str], refresh: bool
) -> None:
    """Download and verify all that a build for the kernel RELEASE needs; quick when cached."""
    from ... import pipeline

    asked = ctx.find_object(Asked)
    assert asked is not None
    chosen = out.joined(asked.out)
    files = pipeline.fetch(
        release,
        suites=(*asked.suites, *suites),
        refresh=asked.refresh or refresh,
        monitor=chosen.monitor,
    )
    chosen.show(files, render_files)


command.add_command(fetch, "fetch")


def render(page: Page, facts: Facts) -> None:
    """One line per kernel."""
    page.table(
        ["release", "version", "state", "suite", "buildable"],
        [
            (k["release"], k["version"], k["states"], k["origin"], k["buildable"])
            for k in facts["kernels"]
        ],
    )


def render_files(page: Page, facts: Facts) -> None:
    """Where the files of one kernel are."""
    page.pairs([(name, value) for name, value in facts.items() if isinstance(value, str)])
