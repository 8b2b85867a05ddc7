"""`rebootless doctor`: can this machine build, test and apply live patches?"""

from __future__ import annotations

import click

from ..options import verb
from ..output import Facts, Output, Page


@verb
@click.option(
    "--for",
    "purpose",
    type=click.Choice(["apply", "build", "test", "kexec"]),
    default="apply",
    show_default=True,
    help="What the exit code answers.",
)
def command(out: Output, purpose: str) -> None:
    """Tell whether this machine can build, test and apply live patches, and reboot by kexec.

    Every check says what it found and what would mend it. The exit code is 0 when the purpose can
    be served here, warnings included, and 1 when it cannot.
    """
    from ...engine.doctor import examine
    from ...engine.local import LocalMachine

    facts = out.show(examine(LocalMachine()), render)
    if not facts["can"][purpose]["ok"]:
        raise click.exceptions.Exit(1)


def render(page: Page, facts: Facts) -> None:
    """The checks, then the verdicts."""
    page.pairs([("kernel", facts["release"])])
    page.table(
        ["check", "status", "found"],
        [(c["name"], c["status"], c["why"]) for c in facts["checks"]],
    )
    page.line()
    mends: dict[str, list[str]] = {}
    for check in facts["checks"]:
        if check["mend"]:
            mends.setdefault(check["mend"], []).append(check["name"])
    for mend, names in mends.items():
        page.line(f"{', '.join(names)}: {mend}")
    page.line()
    page.pairs([(f"can {what} here", verdict["text"]) for what, verdict in facts["can"].items()])
