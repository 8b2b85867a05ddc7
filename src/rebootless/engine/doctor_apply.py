"""The doctor's checks of the running kernel: would it take a live patch?"""

from __future__ import annotations

from . import taint as kernel_taint
from .doctor_facts import Check, Facts, no, ok, warning

CAP_SYS_MODULE = 16
OTHER_KERNEL = "boot a kernel made for it, such as Debian's linux-image-amd64 or -cloud-amd64"
OTHER_ENGINES = "patches go in by the engines per-task and atomic, with our core module"
ONLY_JUMP = "patches go in by the engine atomic alone, with a jump"
SHOWN = 3


def architecture(facts: Facts) -> Check:
    """Patches are made for x86-64 only."""
    name = "architecture"
    if facts.architecture == "x86_64":
        return ok(name, "x86_64")
    return no(name, f"{facts.architecture}; live patches are made for x86_64")


def livepatch(facts: Facts) -> Check:
    """The kernel's own live patching shows as a folder in sysfs; our core can do without it."""
    name = "live patching"
    if facts.livepatch_folder:
        return ok(name, "/sys/kernel/livepatch is there")
    if facts.on("LIVEPATCH"):
        return no(
            name,
            "CONFIG_LIVEPATCH is set, but /sys/kernel/livepatch is missing",
            "mount sysfs (mount -t sysfs sysfs /sys); in a container, ask on the host",
        )
    if facts.config is None:
        return warning(name, f"/sys/kernel/livepatch is missing: {OTHER_ENGINES}")
    missing = f"built without CONFIG_LIVEPATCH ({facts.config_path})"
    return warning(name, f"{missing}: {OTHER_ENGINES}")


def ftrace(facts: Facts) -> Check:
    """Calls are redirected by ftrace, which must be switched on if it is there."""
    name = "ftrace"
    if facts.config is not None:
        missing = [o for o in ("FUNCTION_TRACER", "DYNAMIC_FTRACE") if not facts.on(o)]
        if not facts.on("DYNAMIC_FTRACE_WITH_REGS") and not facts.on("DYNAMIC_FTRACE_WITH_ARGS"):
            missing.append("DYNAMIC_FTRACE_WITH_REGS or _ARGS")
        if missing:
            return warning(name, f"built without CONFIG_{', '.join(missing)}: {ONLY_JUMP}")
    if facts.ftrace_enabled == "0":
        return no(name, "switched off", "sysctl kernel.ftrace_enabled=1")
    if facts.ftrace_enabled is None:
        return warning(name, f"/proc/sys/kernel/ftrace_enabled is missing: {ONLY_JUMP}")
    return ok(name, "on")


def stacks(facts: Facts) -> Check:
    """A task is moved to the new code when its stack, reliably walked, holds no old code."""
    name = "stack walks"
    if facts.config is None:
        return warning(name, "unknown: the kernel's configuration is not readable")
    if not facts.on("STACKTRACE") or not facts.on("HAVE_RELIABLE_STACKTRACE"):
        why = "not reliable on this kernel: a transition may never end by itself"
        return warning(name, why, OTHER_KERNEL)
    return ok(name, "reliable" + (" (ORC unwinder)" if facts.on("UNWINDER_ORC") else ""))


def symbols(facts: Facts) -> Check:
    """Livepatch relocations are resolved by name, static functions and data included."""
    name = "symbols"
    if facts.config is None:
        return warning(name, "unknown: the kernel's configuration is not readable")
    missing = [option for option in ("KALLSYMS", "KALLSYMS_ALL") if not facts.on(option)]
    if missing:
        return no(name, f"built without CONFIG_{', CONFIG_'.join(missing)}", OTHER_KERNEL)
    return ok(name, "all are in kallsyms")


def modules(facts: Facts) -> Check:
    """A live patch is a module."""
    name = "modules"
    if facts.on("MODULES") is False:
        return no(name, "built without CONFIG_MODULES", OTHER_KERNEL)
    if facts.modules_disabled == "1":
        mend = "reboot without kernel.modules_disabled=1 (it cannot be taken back)"
        return no(name, "loading is switched off until the next boot", mend)
    if facts.modules_disabled is None and facts.config is None:
        return no(name, "/proc/sys/kernel/modules_disabled is missing: no module support")
    return ok(name, "can be loaded")


def signatures(facts: Facts) -> Check:
    """Some kernels take signed modules only."""
    name = "module signatures"
    if facts.on("MODULES") is False:
        return ok(name, "not asked for: this kernel loads no modules at all")
    if facts.sig_enforce == "Y" or facts.on("MODULE_SIG_FORCE"):
        mend = "boot without module.sig_enforce, or sign patch modules with a key it trusts (MOK)"
        return no(name, "the kernel takes only modules signed with a key that it trusts", mend)
    if facts.sig_enforce is None and facts.config is None:
        return warning(name, "unknown: neither the parameter nor the configuration is readable")
    if facts.on("MODULE_SIG"):
        return ok(name, "not enforced (an unsigned patch taints the kernel: E)")
    return ok(name, "not enforced")


def lockdown(facts: Facts) -> Check:
    """Lockdown refuses modules that are not signed, whatever sig_enforce says."""
    name = "lockdown"
    mode = lockdown_mode(facts)
    if mode is None:
        return ok(name, "none (the kernel shows no lockdown)")
    if mode == "none":
        return ok(name, "none")
    mend = "boot without lockdown= and without Secure Boot, or sign patch modules (MOK)"
    return no(name, f"{mode}: unsigned modules are refused", mend)


def lockdown_mode(facts: Facts) -> str | None:
    """'none', 'integrity' or 'confidentiality'; None if the kernel has no lockdown to tell of.

    The file reads like `none [integrity] confidentiality`. Where securityfs is not mounted, a
    mode that the configuration forces is known all the same.
    """
    for word in (facts.lockdown or "").split():
        if word.startswith("["):
            return word.strip("[]")
    for mode in ("INTEGRITY", "CONFIDENTIALITY"):
        if facts.lockdown is None and facts.on(f"LOCK_DOWN_KERNEL_FORCE_{mode}"):
            return mode.lower()
    return None


def secure_boot(facts: Facts) -> Check:
    """Secure Boot matters only through the lockdown that many kernels turn on with it."""
    name = "secure boot"
    if not facts.efi:
        return ok(name, "off (this machine was not booted through EFI)")
    if facts.secure_boot is None:
        return warning(name, "unknown: the EFI variable is not readable")
    if not facts.secure_boot:
        return ok(name, "off")
    if lockdown_mode(facts) in (None, "none"):
        return ok(name, "on, but this kernel is not locked down by it")
    return warning(name, "on, and the kernel is locked down")


def privileges(facts: Facts) -> Check:
    """Loading a module takes CAP_SYS_MODULE."""
    name = "privileges"
    if facts.capabilities >> CAP_SYS_MODULE & 1:
        return ok(name, "CAP_SYS_MODULE")
    if facts.uid != 0:
        return warning(name, "not root", "run apply, undo and status as root (sudo)")
    mend = "apply patches on the host, not in the container"
    return no(name, "root without CAP_SYS_MODULE, as in a container", mend)


def taint(facts: Facts) -> Check:
    """A kernel that is damaged already is no good ground for a patch."""
    name = "taint"
    if facts.tainted is None:
        return warning(name, "unknown: /proc/sys/kernel/tainted is not readable")
    found = kernel_taint.decode(facts.tainted)
    if not found.flags:
        return ok(name, "not tainted")
    listed = "; ".join(f"{flag.letter}: {flag.meaning}" for flag in found.flags)
    if found.alarming:
        return warning(name, listed, "look into the kernel log (dmesg) before patching")
    return ok(name, listed)


def log(facts: Facts) -> Check:
    """What the kernel's log says of live patching, ftrace and taint."""
    name = "kernel log"
    if facts.log is None:
        return warning(name, "not readable without privileges", "run doctor as root to see it")
    bad = [line for line in facts.log if _is_complaint(line)]
    if bad:
        return warning(name, " | ".join(bad[-SHOWN:]))
    return ok(name, "no complaint of livepatch, ftrace or taint")


def _is_complaint(line: str) -> bool:
    words = ("fail", "error", "warn", "tainted:", "taints kernel", "not found", "Lockdown:")
    return any(word in line for word in words) and "Not tainted" not in line
