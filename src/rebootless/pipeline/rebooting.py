"""The way out where no live patch will do: the quickest real reboot, into an installed kernel."""

from __future__ import annotations

from ..base.errors import RebootlessError
from ..base.events import Monitor, NullMonitor
from ..engine import boot as boot_store
from ..engine.doctor_facts import gather
from ..engine.kexec import plan as planning
from ..engine.kexec import stops, target
from ..engine.kexec.calls import LocalCalls
from ..engine.kexec.perform import perform
from ..engine.kexec.plan import Plan, Situation
from ..engine.kexec.target import Wishes
from ..engine.local import LocalMachine
from ..engine.machine import read_text
from ..engine.status import livepatches

DEFAULT_GRACE = 10.0
SYSTEMD = "/run/systemd/system"  # is there while systemd is the first process (sd_booted(3))


def plan_kexec(
    wishes: Wishes | None = None, *, force: bool = False, grace: float = DEFAULT_GRACE
) -> Plan:
    """What a kexec from the running kernel would start and stop, and what stands against it.

    Raises NotFoundError for files that are missing, PatchInputError for damaged ones, StateError
    when no kernel but the running one is installed.
    """
    machine = LocalMachine()
    chosen = target.find(machine, wishes or Wishes())
    facts = gather(machine)
    try:
        patches = livepatches(machine)
    except RebootlessError:  # no permission to read them: the plan says that it is not root
        patches = ()
    return planning.make(
        Situation(
            kernel=facts,
            target=chosen,
            stops=stops.look(machine),
            has_systemd=machine.exists(SYSTEMD),
            available=_available(read_text(machine, "/proc/meminfo") or ""),
            applied=tuple(p.name for p in patches if p.enabled),
            installed=tuple(i.name for i in boot_store.installed(release=chosen.release)),
        ),
        force=force,
        grace=grace,
    )


def kexec(plan: Plan, *, monitor: Monitor | None = None) -> None:
    """Performs a plan. Comes back only where systemd stops the machine, which has begun then.

    Raises what stands against the plan, or what the kernel or systemd refused; nothing is loaded
    then.
    """
    perform(plan, LocalCalls(), monitor or NullMonitor())


def _available(meminfo: str) -> int | None:
    """Bytes of memory that can be had without swapping, as /proc/meminfo tells in kB; pure."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
