"""`rebootless reboot --kexec`: into an installed kernel, without the firmware."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..options import FILE, SECONDS, verb
from ..output import Facts, Output, Page

SHOWN = 8


@verb
@click.argument("release", required=False)
@click.option("--kexec", "by_kexec", is_flag=True, help="Start the kernel directly. Required.")
@click.option("--now", is_flag=True, help="Do it. Without this, only the plan is shown.")
@click.option(
    "--force",
    is_flag=True,
    help="Stop nothing in order: write and freeze the file systems, and go. The quickest.",
)
@click.option(
    "--grace",
    type=SECONDS,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="What processes get to end by themselves, where systemd does not run.",
)
@click.option("--initrd", type=FILE, help="Another initial ramdisk than /boot/initrd.img-RELEASE.")
@click.option("--no-initrd", is_flag=True, help="None at all.")
@click.option(
    "--command-line",
    type=click.Choice(["running", "loader"]),
    default="running",
    show_default=True,
    help="Whose to take: the running kernel's, or the one in the boot loader's configuration.",
)
@click.option("--append", default="", metavar="TEXT", help="More parameters for the new kernel.")
def command(
    out: Output,
    release: str | None,
    by_kexec: bool,
    now: bool,
    force: bool,
    grace: float,
    initrd: Path | None,
    no_initrd: bool,
    command_line: str,
    append: str,
) -> None:
    """Reboot into RELEASE without going through the firmware.

    For fixes that cannot be applied live. RELEASE is by default the newest installed kernel.
    Without --now, tells what would be started and stopped, and what stands against it; the exit
    code is then the one that --now would fail with.
    """
    if not by_kexec:
        raise click.UsageError("only --kexec is there; for an ordinary reboot: systemctl reboot")
    if initrd is not None and no_initrd:
        raise click.UsageError("--initrd and --no-initrd exclude each other")
    from ...engine.kexec.plan import refuse
    from ...engine.kexec.target import Wishes
    from ...pipeline.rebooting import kexec, plan_kexec

    wishes = Wishes(release, initrd, no_initrd, command_line == "loader", append)
    plan = plan_kexec(wishes, force=force, grace=grace)
    if now:
        refuse(plan)
    if not now or not out.as_json:
        out.show(plan, render)
    if now:
        sys.stdout.flush()
        kexec(plan, monitor=out.monitor)
        if out.as_json:
            out.show(plan, render)
    elif plan.failure is not None:
        raise click.exceptions.Exit(plan.failure.exit_code)


WAYS = {
    "systemd": "systemd stops every unit in order and unmounts (systemctl kexec)",
    "signals": "all processes are ended, then the file systems are frozen (no systemd here)",
    "force": "nothing is stopped; the file systems are written and frozen as they are",
}


def render(page: Page, facts: Facts) -> None:
    """What would be started, what stops, what stands against it."""
    page.pairs(
        [
            ("running", facts["running"]),
            ("to start", facts["version"]),
            ("image", facts["image"]),
            ("initrd", facts["initrd"] or "none"),
            ("command line", facts["command_line"]),
            ("way", WAYS[facts["way"]]),
            *_stops(facts["stops"]),
            ("live patches that end", facts["lost_patches"]),
            ("live patches at its boot", facts["installed_patches"]),
        ]
    )
    page.line()
    page.table(
        ["check", "status", "found"],
        [(c["name"], c["status"], c["why"]) for c in facts["checks"]],
    )
    page.line()
    for check in facts["checks"]:
        if check["mend"]:
            page.line(f"{check['name']}: {check['mend']}")
    if facts["lost_patches"]:
        page.line(
            "the new kernel has to have what the live patches mend: they are not installed for it"
        )
    page.pairs([("can be done here", "yes" if facts["possible"] else "no")])


def _stops(stops: Facts) -> list[tuple[str, object]]:
    mounts = [f"{m['path']} ({m['kind']})" for m in stops["mounts"] if m["writable"]]
    return [
        ("processes", stops["processes"]),
        ("named", _short(stops["names"])),
        ("services", _short(stops["services"])),
        ("logged in", _short(stops["users"])),
        ("containers", _short(stops["containers"])),
        ("virtual machines", _short(stops["machines"])),
        ("file systems", _short(mounts)),
    ]


def _short(names: list[str]) -> str:
    """The first few, and how many more; the JSON output has all."""
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)}: {', '.join(names[:SHOWN])}{more}"
