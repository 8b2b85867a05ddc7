"""What the doctor looks at, gathered once: plain values, so that checks can run over recorded ones.

What could not be read is None, and never the same as "off".
"""

from __future__ import annotations

import gzip
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ..base import proc
from ..base.errors import RebootlessError
from ..base.fs import cache_root
from ..kernel.config import Config, parse
from ..provider import toolroots
from .core import CoreState
from .core import state as core_state
from .machine import Machine, release

PROGRAMS = (
    "make", "flex", "bison", "bc", "patch", "ld", "objcopy", "tar", "xz", "pahole", "dpkg-deb",
    "apt-get", "gcc", "qemu-system-x86_64", "kexec", "mmdebstrap", "bwrap",
)  # fmt: skip
HEADERS = ("gelf.h", "openssl/opensslv.h", "stdio.h")
INCLUDE = (Path("/usr/include"), Path("/usr/include/x86_64-linux-gnu"), Path("/usr/local/include"))
BUSYBOX = Path("/bin/busybox")
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
LOG_WORDS = ("livepatch", "ftrace", "taint", "Lockdown", "module verification failed")
UNKNOWN_COMPILER = "cc"
NO_CORE = CoreState(False)
# The name space of process ids that the kernel begins with (PROC_PID_INIT_INO, linux/proc_ns.h)
INITIAL_PIDS = f"pid:[{0xEFFFFFFC}]"


class Status(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    NO = "no"


@dataclass(frozen=True)
class Check:
    """One check: what was found, and what mends it ('' if there is nothing to mend)."""

    name: str
    status: Status
    why: str
    mend: str = ""


def ok(name: str, why: str) -> Check:
    """All is well."""
    return Check(name, Status.OK, why)


def warning(name: str, why: str, mend: str = "") -> Check:
    """It works, with something to know."""
    return Check(name, Status.WARNING, why, mend)


def no(name: str, why: str, mend: str = "") -> Check:
    """It does not work."""
    return Check(name, Status.NO, why, mend)


@dataclass(frozen=True)
class Facts:
    """One machine as the doctor found it."""

    release: str
    architecture: str
    uid: int
    capabilities: int  # the effective set, as bits
    config: Config | None  # of the running kernel
    config_path: str  # where it was read, "" if nowhere
    livepatch_folder: bool
    ftrace_enabled: str | None
    modules_disabled: str | None
    sig_enforce: str | None
    lockdown: str | None
    efi: bool
    secure_boot: bool | None
    tainted: int | None
    log: tuple[str, ...] | None  # the lines that concern live patching; None: not readable
    core: CoreState = NO_CORE  # our core module
    programs: Mapping[str, str | None] = field(default_factory=dict)
    compiler_version: str | None = None  # first line of its --version
    missing_headers: tuple[str, ...] = ()
    rooted_compilers: tuple[str, ...] = ()  # version lines of those in toolchain roots
    roots_usable: bool = False  # whether programs can be run in a root
    busybox: str | None = None  # "static", "dynamic", None: missing
    cache: str = ""
    cache_free: int | None = None  # bytes; None: cannot be written
    container: str = ""  # what kind of container this is, "" for none
    kexec_loaded: str | None = None  # None: the kernel has no kexec
    kexec_load_disabled: str | None = None
    kexec_limit: str | None = None  # how many loads are left; -1: any number

    def on(self, option: str) -> bool | None:
        """Whether a configuration option is on; None if the configuration is not known."""
        return None if self.config is None else self.config.enabled(option)


def gather(machine: Machine) -> Facts:
    """Reads everything. Nothing that is missing or forbidden raises."""
    running = release(machine)
    config, config_path = _config(machine, running)
    compiler = _compiler_name(config)
    programs = {name: shutil.which(name) for name in (*PROGRAMS, compiler)}
    boot = _bytes(machine, SECURE_BOOT)
    cache = cache_root()
    return Facts(
        release=running,
        architecture=os.uname().machine,
        uid=os.geteuid(),
        capabilities=_capabilities(machine),
        config=config,
        config_path=config_path,
        livepatch_folder=machine.exists("/sys/kernel/livepatch"),
        ftrace_enabled=_text(machine, "/proc/sys/kernel/ftrace_enabled"),
        modules_disabled=_text(machine, "/proc/sys/kernel/modules_disabled"),
        sig_enforce=_text(machine, "/sys/module/module/parameters/sig_enforce"),
        lockdown=_text(machine, "/sys/kernel/security/lockdown"),
        efi=machine.exists("/sys/firmware/efi"),
        secure_boot=None if boot is None or len(boot) < 5 else boot[4] == 1,
        tainted=_number(_text(machine, "/proc/sys/kernel/tainted")),
        log=_log(machine),
        core=_core(machine),
        programs=programs,
        compiler_version=_compiler_version(programs[compiler]),
        missing_headers=tuple(h for h in HEADERS if not any((d / h).exists() for d in INCLUDE)),
        rooted_compilers=tuple(root.compiler for root in toolroots.roots()),
        roots_usable=_roots_usable(),
        busybox=_busybox(),
        cache=str(cache),
        cache_free=_free(cache),
        container=_container(machine),
        kexec_loaded=_text(machine, "/sys/kernel/kexec_loaded"),
        kexec_load_disabled=_text(machine, "/proc/sys/kernel/kexec_load_disabled"),
        kexec_limit=_text(machine, "/proc/sys/kernel/kexec_load_limit_reboot"),
    )


def _config(machine: Machine, running: str) -> tuple[Config | None, str]:
    for path in ("/proc/config.gz", f"/boot/config-{running}", f"/lib/modules/{running}/config"):
        blob = _bytes(machine, path)
        try:
            if blob is not None:
                text = gzip.decompress(blob) if path.endswith(".gz") else blob
                return parse(text.decode(errors="replace")), path
        except (OSError, EOFError, zlib.error):
            continue
    return None, ""


def _bytes(machine: Machine, path: str) -> bytes | None:
    try:
        return machine.read_bytes(path)
    except RebootlessError:  # no permission: as unknown as a missing file
        return None


def _text(machine: Machine, path: str) -> str | None:
    blob = _bytes(machine, path)
    return None if blob is None else blob.decode(errors="replace").strip()


def _core(machine: Machine) -> CoreState:
    try:
        return core_state(machine)
    except RebootlessError:
        return NO_CORE


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _capabilities(machine: Machine) -> int:
    for line in (_text(machine, "/proc/self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def _log(machine: Machine) -> tuple[str, ...] | None:
    text = machine.kernel_log()
    if not text:
        return None
    return tuple(line for line in text.splitlines() if any(word in line for word in LOG_WORDS))


def _compiler_name(config: Config | None) -> str:
    text = config.get("CC_VERSION_TEXT") if config else None
    return text.split()[0] if text else UNKNOWN_COMPILER


def _compiler_version(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return proc.run([path, "--version"], timeout=20).stdout.partition("\n")[0]
    except RebootlessError:
        return None


def _roots_usable() -> bool:
    try:
        toolroots.check_enter()
    except RebootlessError:
        return False
    return True


def _busybox() -> str | None:
    try:
        with BUSYBOX.open("rb") as file:
            head = file.read(4096)
    except OSError:
        return None
    return "dynamic" if b"/ld-linux" in head else "static"


def _container(machine: Machine) -> str:
    """The kind of container that this is: what its manager says, else by the process ids."""
    if kind := _text(machine, "/run/systemd/container"):
        return kind
    for path, kind in (("/.dockerenv", "docker"), ("/run/.containerenv", "podman")):
        if machine.exists(path):
            return kind
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  it leads to no path
    except OSError:
        return ""
    return "" if space == INITIAL_PIDS else "one with process ids of its own"


def _free(folder: Path) -> int | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free if os.access(folder, os.W_OK | os.X_OK) else None
    except OSError:
        return None
