"""`rebootless toolchain`: compilers of other releases, in roots in the cache."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..options import group, verb
from ..output import Facts, Output, Page


@group
@click.pass_context
def command(ctx: click.Context, out: Output) -> None:
    """List the toolchain roots; make one ahead of a build; remove one."""
    from ... import pipeline

    if ctx.invoked_subcommand is not None:
        ctx.obj = out
        return
    out.show(pipeline.toolchains(), render)


@verb
@click.pass_context
def list_(ctx: click.Context, out: Output) -> None:
    """List the toolchain roots in the cache."""
    from ... import pipeline

    _joined(ctx, out).show(pipeline.toolchains(), render)


@verb
@click.argument("release", required=False)
@click.option("--compiler", default="", help="The compiler's version line, in place of a kernel.")
@click.option("--from", "suite", default="", help="Take the compiler from this suite only.")
@click.option("--suite", "suites", multiple=True, help="Also look for the kernel in this suite.")
@click.pass_context
def make(
    ctx: click.Context,
    out: Output,
    release: str | None,
    compiler: str,
    suite: str,
    suites: Sequence[str],
) -> None:
    """Make a root with the compiler of the kernel RELEASE (default: the running one).

    `build` does it when it is needed, so this is for machines that will have no network. The
    version line is CONFIG_CC_VERSION_TEXT of a kernel's configuration.
    """
    if release and compiler:
        raise click.UsageError("give a kernel or --compiler, not both")
    from ... import pipeline

    chosen = _joined(ctx, out)
    made = pipeline.toolchain_make(
        release, compiler=compiler, suite=suite, suites=suites, monitor=chosen.monitor
    )
    chosen.show(made, render_root)


@verb
@click.argument("name")
@click.pass_context
def remove(ctx: click.Context, out: Output, name: str) -> None:
    """Remove the root NAME from the cache."""
    from ... import pipeline

    _joined(ctx, out).show(pipeline.toolchain_remove(name), render_root)


for name, sub in {"list": list_, "make": make, "remove": remove}.items():
    command.add_command(sub, name)


def _joined(ctx: click.Context, out: Output) -> Output:
    """The output that was asked for here or before the sub-verb."""
    before = ctx.find_object(Output)
    return out.joined(before) if before is not None else out


def render(page: Page, facts: Facts) -> None:
    """One line per root."""
    page.table(
        ["name", "compiler", "suite", "made", "size"],
        [
            (r["name"], r["compiler"], r["suite"], r["made"], f"{r['size'] >> 20} MiB")
            for r in facts["toolchains"]
        ],
    )
    if not facts["toolchains"]:
        page.line("no toolchain roots: kernels of this machine's own compilers need none")
    if not facts["can_make"]:
        page.line("to make some: apt install mmdebstrap bubblewrap")


def render_root(page: Page, facts: Facts) -> None:
    """What one root is."""
    names = ("name", "compiler", "suite", "made", "directory")
    page.pairs([(name, facts[name]) for name in names])
