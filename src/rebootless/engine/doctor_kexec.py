"""The doctor's checks of kexec: could this kernel start another one without the firmware?

`rebootless reboot --kexec` asks the same questions before it does so.
"""

from __future__ import annotations

from .doctor_apply import lockdown_mode
from .doctor_facts import Check, Facts, no, ok, warning

CAP_SYS_BOOT = 22
SYSTEM_CALL, PROGRAM = "kexec_file_load", "kexec-tools"
ORDINARY = "an ordinary reboot works: systemctl reboot"


def loader(facts: Facts) -> str:
    """What loads the new kernel here: the system call, else the program; "" if nothing can.

    The system call needs no package and lets the kernel check signatures itself. With an unknown
    configuration it is tried.
    """
    if facts.architecture != "x86_64" or facts.kexec_loaded is None:
        return ""
    if facts.on("KEXEC_FILE") is not False:
        return SYSTEM_CALL
    return PROGRAM if facts.on("KEXEC") else ""


def support(facts: Facts) -> Check:
    """The running kernel must have been built with kexec."""
    name = "kexec"
    if facts.architecture != "x86_64":
        return no(name, f"{facts.architecture}; this is made for x86_64", ORDINARY)
    if facts.kexec_loaded is None:
        if facts.on("KEXEC_CORE"):
            return no(name, "/sys/kernel/kexec_loaded is missing", "mount sysfs on /sys")
        return no(name, "this kernel was built without CONFIG_KEXEC", ORDINARY)
    if not loader(facts):
        return no(
            name, "this kernel was built without CONFIG_KEXEC_FILE and CONFIG_KEXEC", ORDINARY
        )
    return ok(name, f"by {loader(facts)}")


def tools(facts: Facts) -> Check:
    """kexec-tools are needed only by kernels without kexec_file_load."""
    name = "kexec-tools"
    if loader(facts) != PROGRAM:
        return ok(name, "not needed")
    if facts.programs.get("kexec") is None:
        why = "not installed, and this kernel has no kexec_file_load"
        return no(name, why, "apt-get install kexec-tools")
    return ok(name, str(facts.programs["kexec"]))


def switch(facts: Facts) -> Check:
    """Loading can be switched off until the next boot (kernel.kexec_load_disabled)."""
    name = "kexec switch"
    if facts.kexec_load_disabled == "1":
        why = "kernel.kexec_load_disabled is 1, which cannot be taken back"
        return no(name, why, ORDINARY)
    if facts.kexec_limit == "0":
        why = "kernel.kexec_load_limit_reboot is used up"
        return no(name, why, ORDINARY)
    return ok(name, "not switched off")


def signature(facts: Facts) -> Check:
    """A locked-down kernel starts only kernels whose signature it can check (kexec_file_load)."""
    name = "kexec signature"
    mode = lockdown_mode(facts)
    if not loader(facts):
        return ok(name, "this kernel starts no other at all")
    if mode in (None, "none"):
        if facts.on("KEXEC_SIG_FORCE"):
            return warning(name, "this kernel starts only signed kernels (CONFIG_KEXEC_SIG_FORCE)")
        return ok(name, "not asked for")
    if loader(facts) != SYSTEM_CALL:
        return no(name, f"lockdown ({mode}) allows only kexec_file_load", ORDINARY)
    if facts.on("KEXEC_SIG") is False:
        why = f"lockdown ({mode}) asks for a signature, which this kernel cannot check"
        return no(name, why, ORDINARY)
    return warning(name, f"lockdown ({mode}): only kernels signed with a key that it trusts")


def needs_signature(facts: Facts) -> bool:
    """Whether this kernel starts signed kernels only."""
    return lockdown_mode(facts) not in (None, "none") or bool(facts.on("KEXEC_SIG_FORCE"))


def container(facts: Facts) -> Check:
    """A container shares the kernel; only its host can reboot."""
    name = "container"
    if facts.container:
        return no(name, f"this is a container ({facts.container})", "do it on the host")
    return ok(name, "none")


def privileges(facts: Facts) -> Check:
    """Rebooting takes CAP_SYS_BOOT."""
    name = "reboot privileges"
    if facts.capabilities >> CAP_SYS_BOOT & 1:
        return ok(name, "CAP_SYS_BOOT")
    if facts.uid != 0:
        return warning(name, "not root", "run reboot --now as root (sudo)")
    return no(name, "root without CAP_SYS_BOOT, as in a container", "do it on the host")
