"""The command group. `rebootless --help` shows every verb without importing any."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click


@dataclass(frozen=True)
class Verb:
    """What the overview tells of a verb; the rest is in its module `verbs/NAME.py`."""

    summary: str
    hidden: bool = False


VERBS: dict[str, Verb] = {
    "doctor": Verb("Tell whether this machine can build, test and apply live patches."),
    "kernels": Verb("List the kernels that can be patched; fetch what a build needs."),
    "toolchain": Verb("List the compilers of other releases in the cache; make and remove them."),
    "build": Verb("Build a live patch from a source patch, and prove that it fits."),
    "translate": Verb("Turn an update of the distribution into live patches."),
    "new": Verb("Write a C file to start a hand-written live patch from."),
    "diff": Verb("Compare two object files function by function."),
    "match": Verb("Compare an object file with the code that a kernel ships."),
    "inspect": Verb("Show what a bundle or a patch module contains."),
    "explain": Verb("Tell what a patch does to each function, and why; as a page for a browser."),
    "test": Verb("Try a bundle in a virtual machine on the very kernel it is for."),
    "apply": Verb("Apply a bundle to the running kernel."),
    "undo": Verb("Take an applied patch out of the running kernel."),
    "engine": Verb("Show which engines can be used here; build and load their core module."),
    "status": Verb("Show how the running kernel is patched, and what holds it up."),
    "verify": Verb("Compare the code of the running kernel with the code that was shipped."),
    "list": Verb("List applied and installed patches."),
    "install": Verb("Have a bundle applied at every boot of its kernel."),
    "uninstall": Verb("Take back what install did."),
    "reboot": Verb("Reboot into a fixed kernel by kexec, where no live patch will do."),
    "demo": Verb("Fix a real kernel bug live, in a virtual machine, from source to proof."),
    "boot": Verb("Apply the installed bundles (called by the systemd unit).", hidden=True),
}
PACKAGE = f"{__package__}.verbs"


class LazyGroup(click.Group):
    """A group that imports a verb's module when the verb is called or its own help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of use."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports one verb; None if there is no such verb."""
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"{PACKAGE}.{cmd_name}").command
        assert isinstance(command, click.Command)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The overview, from the table alone."""
        rows = [(name, verb.summary) for name, verb in VERBS.items() if not verb.hidden]
        with formatter.section("Verbs"):
            formatter.write_dl(rows)


def show_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    """Prints the version and ends."""
    if wanted and not ctx.resilient_parsing:
        from importlib import metadata  # slow to import, and only needed here

        click.echo(f"rebootless {metadata.version('rebootless')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes are explained in docs/exit-codes.md. 'rebootless VERB --help' tells more.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=show_version,
    help="Show the version and exit.",
)
def root() -> None:
    """Updates a running Linux kernel without a reboot."""
