"""Why the kernel did not take a module: from the error number, its settings and its log.

The same number has many causes (EPERM: not root, modules_disabled, lockdown), so the kernel's
settings are looked at as well; what only the log tells (a symbol that was not found) is quoted.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from ..base.errors import KernelRefusedError
from .machine import Machine, read_text

LOG_LINES = 40
NOISE = (
    "tainting kernel",
    "taints kernel",
    "module verification",
    "enabling patch",
    "applying patch",
    "patching transition",
    "patching complete",
    "is not applied (",
)
CORE_PREFIX = "rebootless: "
# The kernel's module loader refuses with these; what the core said before is another matter.
BY_LOADER = (
    errno.EPERM, errno.EEXIST, errno.ENOEXEC, errno.EKEYREJECTED, errno.ENOKEY, errno.EBADMSG
)  # fmt: skip
SIGN_HINT = (
    "sign the module with a key that the kernel trusts (an enrolled machine owner key), or boot "
    "without Secure Boot"
)


# What the core says, in part -> what mends it.
CORE_HINTS = {
    "kernel.ftrace_enabled is 0": "sysctl kernel.ftrace_enabled=1 switches ftrace on",
    "another live patch holds it": "`rebootless status` shows the patches in force: undo the other "
    "one first, or apply this one with the same engine",
    "kprobe": "remove the kprobe (/sys/kernel/debug/kprobes/list), then apply again",
    "as it was shipped": "`rebootless verify` tells what else is not as it was shipped",
    "redirected by somebody else": "/sys/kernel/tracing/enabled_functions tells who redirects it",
    "needs the module rebootless_core": "`rebootless engine load` loads it",
    "for another version of this module": "`rebootless engine unload`, then apply again: the "
    "bundle brings the core module that it was built with",
    "which engine per-task": "the engine atomic can redirect it (--engine atomic)",
    "cannot be read reliably": "the engine livepatch works here, if the kernel has it",
    "too short for a jump": "patch a function that calls it",
    "callback": "the callback is in the patch's source, and knows what it waits for",
    "system states": "apply a version that has the same states in the same or a newer version",
    "has to be undone first": "undo the patch that came later",
    "is given up": "end or restart the tasks named, or try another engine (--engine)",
    "is not over yet": "wait for its end; `rebootless status` names the tasks that hold it",
    "kallsyms=ADDRESS": "load it as root, by `rebootless engine load`",
    "has no function": "build it again for this kernel",
    "has no symbol": "build it again for this kernel",
}


@dataclass(frozen=True)
class KernelGuards:
    """The settings that decide whether a module may be loaded."""

    modules_disabled: bool = False
    lockdown: str = ""  # "", "none", "integrity" or "confidentiality"
    signatures_enforced: bool = False


def guards(machine: Machine) -> KernelGuards:
    """Reads the settings; what cannot be read counts as not set."""
    enforced = read_text(machine, "/sys/module/module/parameters/sig_enforce") or "N"
    return KernelGuards(
        modules_disabled=read_text(machine, "/proc/sys/kernel/modules_disabled") == "1",
        lockdown=lockdown_mode(read_text(machine, "/sys/kernel/security/lockdown") or ""),
        signatures_enforced=enforced in ("Y", "1"),
    )


def lockdown_mode(text: str) -> str:
    """The mode in brackets of 'none [integrity] confidentiality'."""
    return text.partition("[")[2].partition("]")[0]


def reasons_in_log(log: str, name: str) -> tuple[str, ...]:
    """The kernel's own words about a module among the last lines of its log, oldest first."""
    wanted = (
        f"{name}:", CORE_PREFIX, "livepatch:", "Lockdown:", "Loading of ", "module verification"
    )  # fmt: skip
    found: dict[str, None] = {}  # ordered, each once: busybox tries two system calls
    for line in _latest(log.splitlines()[-LOG_LINES:], name):
        text = line.partition("] ")[2] or line
        if any(word in text for word in wanted) and not any(word in text for word in NOISE):
            found[text.strip()] = None
    return tuple(found)[-4:]


def _latest(lines: list[str], name: str) -> list[str]:
    """The lines without those about loads of other modules that the core refused before."""
    closed = [n for n, line in enumerate(lines) if "is not applied (" in line]
    others = [n for n in closed if f"'{name}'" not in lines[n]]
    return lines[others[-1] + 1 :] if others else lines


def by_core(log: tuple[str, ...]) -> tuple[str, str]:
    """(what the core said, hint), of the lines that end the log; ('', '') if none is its; pure."""
    lines: list[str] = []
    for line in reversed(log):
        if not line.startswith(CORE_PREFIX):
            break
        lines.insert(0, line.removeprefix(CORE_PREFIX))
    said = "; ".join(lines)
    hint = next((hint for text, hint in CORE_HINTS.items() if text in said), "")
    return said, hint or ("`rebootless doctor` tells what each engine needs" if said else "")


def explain(number: int, name: str, facts: KernelGuards, log: tuple[str, ...]) -> tuple[str, str]:
    """(reason, hint) for a refused load; pure."""
    said = "; ".join(log)
    core_said, core_hint = by_core(log)
    if core_said and number not in BY_LOADER:
        return core_said, core_hint
    if "pre-patch callback failed" in said:  # the number is the callback's own
        return (
            f"its pre_patch callback refused ({said})",
            "the callback is in the patch's source, and knows what it waits for",
        )
    if "not compatible with the already installed" in said:
        return (
            f"it does not handle a system state of a patch that is applied ({said})",
            "apply a version that has the same states in the same or a newer version",
        )
    if number == errno.EPERM:
        if facts.modules_disabled:
            return (
                "module loading was switched off for good (kernel.modules_disabled=1)",
                "only a reboot switches it on again; load live patches before it is set",
            )
        if facts.lockdown not in ("", "none"):
            return f"the kernel is locked down (mode {facts.lockdown})", SIGN_HINT
        return "no permission to load modules", "run as root, outside of a container"
    if number in (errno.EKEYREJECTED, errno.ENOKEY, errno.EBADMSG, errno.ENOPKG):
        return "the kernel takes only modules signed with a key that it trusts", SIGN_HINT
    if number == errno.ENOEXEC:
        return (
            f"the module was built for another kernel or is damaged ({said or 'no details'})",
            "build it again for exactly this kernel",
        )
    if number == errno.EEXIST:
        return "a module of that name is already loaded", "`rebootless status` shows it"
    if number == errno.EBUSY:
        return (
            f"a function is already taken by something exclusive ({said or 'no details'})",
            "another live patch is in transition, or a tracer or security module holds the "
            "function; see /sys/kernel/tracing/enabled_functions",
        )
    if number in (errno.ENOENT, errno.EINVAL):
        reason = said or f"{os.strerror(number)}, and its log says nothing more"
        return f"the kernel rejected the module: {reason}", "build it again for this kernel"
    if number == errno.ENODEV:
        return "the kernel has live patching switched off", "see CONFIG_LIVEPATCH"
    if number == errno.ENOMEM:
        return "the kernel has no memory for the module", "free memory and try again"
    return f"{os.strerror(number)} ({said or 'no details in the log'})", "see dmesg"


def load_refused(machine: Machine, name: str, number: int) -> KernelRefusedError:
    """The error for a load that failed with errno `number`."""
    log = reasons_in_log(machine.kernel_log(), name)
    reason, hint = explain(number, name, guards(machine), log)
    code = errno.errorcode.get(number, str(number))
    return KernelRefusedError(f"cannot load module {name}: {reason} [{code}]", hint=hint)


def removal_refused(name: str, number: int) -> KernelRefusedError:
    """The error for a removal that failed with errno `number`."""
    reasons = {
        errno.ENOENT: "it is not loaded",
        errno.EPERM: "no permission, or module loading was switched off for good",
        errno.EWOULDBLOCK: "it is in use",
        errno.EBUSY: "it is still starting or stopping, or cannot be unloaded",
    }
    reason = reasons.get(number, os.strerror(number))
    code = errno.errorcode.get(number, str(number))
    hint = "run as root" if number == errno.EPERM else None
    return KernelRefusedError(f"cannot remove module {name}: {reason} [{code}]", hint=hint)
