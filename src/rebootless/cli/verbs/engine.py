"""`rebootless engine`: the core module that two of the engines need, and what can be used here."""

from __future__ import annotations

from pathlib import Path

import click

from ..options import DIRECTORY, group, verb
from ..output import Facts, Output, Page


@group
@click.pass_context
def command(ctx: click.Context, out: Output) -> None:
    """Show which engines can be used here, and the core module; build, load and unload it."""
    from ... import pipeline

    if ctx.invoked_subcommand is not None:
        ctx.obj = out
        return
    out.show(pipeline.engine_status(), render)


@verb
@click.pass_context
def status(ctx: click.Context, out: Output) -> None:
    """Show which engines can be used here, and the core module."""
    from ... import pipeline

    _joined(ctx, out).show(pipeline.engine_status(), render)


@verb
@click.argument("release", required=False)
@click.option("--install", is_flag=True, help="Keep it for `apply`, `boot` and `engine load`.")
@click.option("--root", type=DIRECTORY, help="With --install: into this root directory.")
@click.pass_context
def build(
    ctx: click.Context, out: Output, release: str | None, install: bool, root: Path | None
) -> None:
    """Compile the core module for the kernel RELEASE (default: the running one).

    The headers that are installed for it are used, else its prepared source. Bundles bring their
    own core module: this is for those that have none.
    """
    if root is not None and not install:
        raise click.UsageError("--root goes with --install")
    from ... import pipeline

    chosen, place = _joined(ctx, out), root or Path("/")
    made = pipeline.engine_build(release, install=install, root=place, monitor=chosen.monitor)
    chosen.show(made, render_made)


@verb
@click.argument("release", required=False)
@click.option("--root", type=DIRECTORY, help="From this root directory.")
@click.pass_context
def remove(ctx: click.Context, out: Output, release: str | None, root: Path | None) -> None:
    """Take back what `build --install` did for the kernel RELEASE (default: the running one).

    A core module that is loaded stays loaded until `unload`, or the next boot.
    """
    from ... import pipeline

    gone = pipeline.engine_remove(release, root=root or Path("/"))
    _joined(ctx, out).show(gone, render_made)


@verb
@click.pass_context
def load(ctx: click.Context, out: Output) -> None:
    """Load the core module; mainline's livepatch gets faster with it."""
    from ... import pipeline

    chosen = _joined(ctx, out)
    chosen.show(pipeline.engine_load(monitor=chosen.monitor), render)


@verb
@click.pass_context
def unload(ctx: click.Context, out: Output) -> None:
    """Remove the core module; refused while patches need it."""
    from ... import pipeline

    _joined(ctx, out).show(pipeline.engine_unload(), render)


for name, sub in {
    "status": status, "build": build, "remove": remove, "load": load, "unload": unload
}.items():  # fmt: skip
    command.add_command(sub, name)


def _joined(ctx: click.Context, out: Output) -> Output:
    """The output that was asked for here or before the sub-verb."""
    before = ctx.find_object(Output)
    return out.joined(before) if before is not None else out


def render(page: Page, facts: Facts) -> None:
    """The core module, then the engines."""
    core = facts["core"]
    page.pairs(
        [
            ("kernel", facts["release"]),
            ("core module", "loaded" if core["loaded"] else "not loaded"),
            ("its interface", core["version"]),
            ("used by", core["patches"]),
            ("installed", core["installed"]),
            ("chosen for most patches", facts["engine"] or "none"),
        ]
    )
    page.table(
        ["engine", "usable", "how"],
        [(e["name"], e["why_not"] or "yes", e["promise"]) for e in facts["engines"]],
    )


def render_made(page: Page, facts: Facts) -> None:
    """Where the module is."""
    page.pairs([(name, value) for name, value in facts.items() if name != "schema"])
