"""May the running kernel start another one, how, and what becomes of what runs: pure, over facts.

way        what stops                                         how
---------  -------------------------------------------------  ------------------------------
systemd    every unit, in order; file systems are unmounted   systemctl kexec
signals    every process: TERM, and KILL after a grace time   where systemd does not run
force      nothing: file systems are frozen under it          only when asked for
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ...base.errors import (
    KernelRefusedError,
    NotFoundError,
    PatchInputError,
    RebootlessError,
    ResourceError,
    StateError,
    WrongKernelError,
)
from .. import doctor_kexec as kernel_checks
from ..doctor_facts import Check, Facts, Status, no, ok, warning
from . import commandline
from .stops import Stops
from .target import Target

MIB = 1 << 20
SPARE = 16 * MIB  # page tables, the purgatory, the kernel's own bookkeeping
ROUNDING = MIB


class Way(StrEnum):
    """How the machine is brought to the point where the new kernel starts."""

    SYSTEMD = "systemd"
    SIGNALS = "signals"
    FORCE = "force"


@dataclass(frozen=True)
class Situation:
    """Everything that a plan follows from. Sizes are bytes."""

    kernel: Facts
    target: Target
    stops: Stops
    has_systemd: bool
    available: int | None  # memory; None: not known
    applied: tuple[str, ...]  # live patches of the running kernel
    installed: tuple[str, ...]  # live patches that the new kernel applies when it boots


@dataclass(frozen=True)
class Plan:
    """What `reboot --kexec` would do. `loader` is kexec_file_load or kexec-tools."""

    running: str
    target: Target
    way: Way
    loader: str
    grace: float
    stops: Stops
    lost_patches: tuple[str, ...]
    installed_patches: tuple[str, ...]
    checks: tuple[Check, ...]
    failure: type[RebootlessError] | None

    @property
    def possible(self) -> bool:
        """Whether nothing stands against it."""
        return self.failure is None

    @property
    def frozen_mounts(self) -> tuple[str, ...]:
        """The file systems to put to rest before the jump, the last mounted first."""
        disks = [m.path for m in self.stops.mounts if m.has_disk and m.writable]
        return tuple(reversed(disks))

    def to_json(self) -> dict[str, object]:
        """The plan as JSON values (docs/json.md)."""
        target = self.target
        return {
            "running": self.running,
            "release": target.release,
            "version": target.image.version,
            "image": target.path,
            "initrd": target.initrd,
            "command_line": target.command_line,
            "way": self.way,
            "loader": self.loader,
            "possible": self.possible,
            "checks": self.checks,
            "stops": self.stops,
            "lost_patches": self.lost_patches,
            "installed_patches": self.installed_patches,
        }


def make(situation: Situation, *, force: bool = False, grace: float = 10.0) -> Plan:
    """Runs every check, and chooses the way; `grace` is in seconds."""
    way = Way.SYSTEMD if situation.has_systemd else Way.SIGNALS
    checks = [(check(situation), error) for check, error in CHECKS]
    failures = [error for check, error in checks if check.status == Status.NO]
    after = set(situation.installed)
    return Plan(
        running=situation.kernel.release,
        target=situation.target,
        way=Way.FORCE if force else way,
        loader=kernel_checks.loader(situation.kernel),
        grace=grace,
        stops=situation.stops,
        lost_patches=tuple(p for p in situation.applied if p not in after),
        installed_patches=situation.installed,
        checks=tuple(check for check, _ in checks),
        failure=failures[0] if failures else None,
    )


def refuse(plan: Plan) -> None:
    """Raises the error of the first check that stands against the plan, telling all of them."""
    if plan.failure is None:
        return
    against = [c for c in plan.checks if c.status == Status.NO]
    reasons = "; ".join(c.why for c in against)
    raise plan.failure(f"cannot start {plan.target.release}: {reasons}", hint=against[0].mend)


def _of_the_kernel(check: Callable[[Facts], Check]) -> Callable[[Situation], Check]:
    return lambda situation: check(situation.kernel)


def release(situation: Situation) -> Check:
    """A file's name says little: the image itself has to be of that release."""
    name, target = "image", situation.target
    if target.image.release != target.release:
        why = f"{target.path} is of {target.image.release or 'an unknown release'}"
        return no(name, why, f"install {target.release} again, or name the other release")
    return ok(name, target.image.version)


def entry(situation: Situation) -> Check:
    """A 64-bit kernel starts the new one through its 64-bit entry."""
    if not situation.target.image.has_64bit_entry:
        return no("64-bit entry", f"{situation.target.path} has none", "start a 64-bit kernel")
    return ok("64-bit entry", "there")


def signed(situation: Situation) -> Check:
    """Whether the image has a signature, where the running kernel asks for one."""
    name, is_signed = "image signature", situation.target.image.is_signed
    if kernel_checks.needs_signature(situation.kernel) and not is_signed:
        why = f"{situation.target.path} is not signed, and this kernel starts signed kernels only"
        return no(name, why, "install the distribution's signed image")
    return ok(name, "there" if is_signed else "none, and not asked for")


def modules(situation: Situation) -> Check:
    """A kernel of a distribution does little without its modules."""
    name, target = "modules", situation.target
    if not target.has_modules:
        return warning(name, f"there is no /lib/modules/{target.release}/kernel")
    return ok(name, f"/lib/modules/{target.release}")


def command_line(situation: Situation) -> Check:
    """The command line is the running kernel's unless asked otherwise."""
    name, target = "command line", situation.target
    line = target.command_line
    if len(line.encode()) > target.image.longest_command_line:
        why = f"{len(line.encode())} bytes; {target.release} takes "
        return no(name, f"{why}{target.image.longest_command_line}", "drop some of --append")
    if commandline.CRASH_KERNEL in line:
        why = "this is a crash kernel, which saves the memory of the one before"
        return no(name, why, "let it finish; it reboots by itself")
    if special := commandline.special(line):
        why = f"as in this boot, with {' '.join(special)}"
        return warning(name, why, "--command-line loader takes the boot loader's")
    if target.loader_line not in (None, line):
        why = f"not as the boot loader would have it: {target.loader_line}"
        return warning(name, why, "--command-line loader takes the boot loader's")
    return ok(name, "as the boot loader's" if target.loader_line == line else "as in this boot")


def memory(situation: Situation) -> Check:
    """The kernel keeps image and initial ramdisk until the jump, and twice while it loads them."""
    name, image = "memory", situation.target.image
    needed = image.size + 2 * situation.target.initrd_size + image.memory + SPARE
    if situation.available is None:
        return warning(name, "/proc/meminfo does not tell what is available")
    text = f"{_mib(situation.available)} MiB available, {_mib(needed)} MiB needed to load"
    return ok(name, text) if situation.available >= needed else no(name, text, "free some memory")


def _mib(size: int) -> int:
    return (size + ROUNDING - 1) // ROUNDING


def inhibitors(situation: Situation) -> Check:
    """Programs may ask systemd not to shut down, such as a package manager at work."""
    if held := situation.stops.inhibitors:
        why = f"shutdown is inhibited by {'; '.join(held)}"
        return no("inhibitors", why, "wait until it is done, or end it")
    return ok("inhibitors", "none")


CHECKS: tuple[tuple[Callable[[Situation], Check], type[RebootlessError]], ...] = (
    (_of_the_kernel(kernel_checks.container), ResourceError),
    (_of_the_kernel(kernel_checks.support), KernelRefusedError),
    (_of_the_kernel(kernel_checks.switch), KernelRefusedError),
    (_of_the_kernel(kernel_checks.signature), KernelRefusedError),
    (_of_the_kernel(kernel_checks.tools), NotFoundError),
    (_of_the_kernel(kernel_checks.privileges), ResourceError),
    (release, WrongKernelError),
    (entry, PatchInputError),
    (signed, KernelRefusedError),
    (modules, NotFoundError),
    (command_line, PatchInputError),
    (memory, ResourceError),
    (inhibitors, StateError),
)
