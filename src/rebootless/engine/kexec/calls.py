"""The system calls of a kexec on this machine.

kexec_file_load(2) gives the kernel the files and lets it do the rest, signatures included. Kernels
without it are served by the program of kexec-tools, which prepares the memory itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

from ...base import proc
from ...base.errors import KernelRefusedError, NotFoundError, RebootlessError, ResourceError
from ...base.fs import os_failure
from ..doctor_kexec import PROGRAM
from ..local import LocalMachine
from . import stops
from .target import Target

# x86-64 system call numbers (kernel: arch/x86/entry/syscalls/syscall_64.tbl)
SYS_REBOOT, SYS_KEXEC_FILE_LOAD = 169, 320
KEXEC_FILE_UNLOAD, KEXEC_FILE_NO_INITRAMFS = 1, 4  # linux/kexec.h
REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_CMD_KEXEC = 0xFEE1DEAD, 0x28121969, 0x45584543
FIFREEZE, FITHAW = 0xC0045877, 0xC0045878  # linux/fs.h
KERNEL_LOG = "/dev/kmsg"
SYSTEMCTL_SECONDS = 90.0
STEP = 0.02  # seconds between two looks at what still runs
KILL_ROUNDS = 5  # for what is born while the rest is killed


class Calls(Protocol):
    """What performing a plan needs of the machine."""

    def load(self, target: Target, loader: str) -> None:
        """Loads a kernel. Raises KernelRefusedError; what was loaded before stays then."""

    def unload(self, loader: str) -> None:
        """Takes a loaded kernel out again."""

    def sync(self) -> None:
        """Writes everything to the disks."""

    def frozen(self, paths: Collection[str]) -> contextlib.AbstractContextManager[None]:
        """File systems at rest: whole on the disk, and nothing more is written to them."""

    def hand_to_systemd(self) -> None:
        """Has systemd stop everything and start the loaded kernel."""

    def end_processes(self, grace: float) -> None:
        """Ends all programs but this one and what it was started by."""

    def execute(self) -> None:
        """Starts the loaded kernel. Comes back only by raising KernelRefusedError."""


class LocalCalls:
    """The calls on this very machine (see `Calls`)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def load(self, target: Target, loader: str) -> None:
        if loader == PROGRAM:
            ramdisk = [f"--initrd={target.initrd}"] if target.initrd else []
            words = ["-l", str(target.path), *ramdisk, f"--command-line={target.command_line}"]
            proc.run([self._kexec(), *words], timeout=SYSTEMCTL_SECONDS)
            return
        with contextlib.ExitStack() as stack:
            kernel = stack.enter_context(_opened(target.path))
            initrd = stack.enter_context(_opened(target.initrd)) if target.initrd else -1
            line = target.command_line.encode() + b"\0"
            flags = 0 if target.initrd else KEXEC_FILE_NO_INITRAMFS
            number = self._call(SYS_KEXEC_FILE_LOAD, kernel, initrd, len(line), line, flags)
        if number:
            raise load_refused(target, number)

    def unload(self, loader: str) -> None:
        if loader == PROGRAM:
            proc.run([self._kexec(), "-u"], check=False, timeout=SYSTEMCTL_SECONDS)
            return
        self._call(SYS_KEXEC_FILE_LOAD, -1, -1, 0, 0, KEXEC_FILE_UNLOAD)

    def sync(self) -> None:
        os.sync()

    @contextlib.contextmanager
    def frozen(self, paths: Collection[str]) -> Iterator[None]:
        """Those that cannot be frozen (vfat) have been written by sync, which is all they can."""
        with contextlib.ExitStack() as thaw:
            for path in paths:
                with contextlib.suppress(OSError):
                    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    thaw.callback(os.close, opened)
                    fcntl.ioctl(opened, FIFREEZE, 0)
                    thaw.callback(_thaw, opened)
            yield

    def hand_to_systemd(self) -> None:
        proc.run(
            ["systemctl", "kexec"],
            timeout=SYSTEMCTL_SECONDS,
            hint="`systemctl list-jobs` shows what systemd is at",
        )

    def end_processes(self, grace: float) -> None:
        deadline = time.monotonic() + grace
        _signal_all(_others(), signal.SIGTERM)
        _signal_all(_others(), signal.SIGCONT)  # one that was stopped could not end
        while _others() and time.monotonic() < deadline:
            time.sleep(STEP)
        for _ in range(KILL_ROUNDS):
            _signal_all(_others(), signal.SIGKILL)
            time.sleep(STEP)

    def execute(self) -> None:
        with contextlib.suppress(OSError):
            Path(KERNEL_LOG).write_text("<5>rebootless: starting the kernel that kexec loaded\n")
        number = self._call(SYS_REBOOT, REBOOT_MAGIC1, REBOOT_MAGIC2, REBOOT_CMD_KEXEC, 0)
        code = errno.errorcode.get(number, str(number))
        raise KernelRefusedError(
            f"the kernel did not start the one that was loaded: {os.strerror(number)} [{code}]",
            hint="the kernel log (dmesg) may say more; an ordinary reboot works",
        )

    @staticmethod
    def _kexec() -> str:
        return proc.which("kexec", hint="apt-get install kexec-tools")

    def _call(self, number: int, *arguments: int | bytes) -> int:
        """A system call; gives 0 or the error number."""
        converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        result = self._libc.syscall(ctypes.c_long(number), *converted)
        return ctypes.get_errno() if result else 0


def _thaw(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptor, FITHAW, 0)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise os_failure("read", path, exc) from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _others() -> list[int]:
    """Every process but the first, the kernel's, this one, and those that it was started by.

    The shell and the session that wait for us are spared, so that no end of theirs reaches us.
    """
    found = stops.processes(LocalMachine().read_many(["/proc/[0-9]*/stat"]))
    parents = {p.pid: p.parent for p in found}
    spared, pid = {1}, os.getpid()
    while pid > 1 and pid not in spared:
        spared.add(pid)
        pid = parents.get(pid, 1)
    return [p.pid for p in found if not p.is_kernel and not p.is_dead and p.pid not in spared]


def _signal_all(pids: Collection[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def load_refused(target: Target, number: int) -> RebootlessError:
    """The error for a kexec_file_load that failed with errno `number` (kexec_file_load(2))."""
    code = errno.errorcode.get(number, str(number))
    what = f"the kernel did not load {target.path}"
    if number == errno.ENOMEM:
        return ResourceError(f"{what}: it has no memory for it [{code}]", hint="free some memory")
    if number == errno.ENOSYS:
        return NotFoundError(
            f"{what}: it has no kexec_file_load [{code}]", hint="apt-get install kexec-tools"
        )
    reasons = {
        errno.EPERM: (
            "no permission: not root, or lockdown, or kexec was switched off",
            "`rebootless doctor --for kexec` tells which",
        ),
        errno.EBUSY: ("another kexec is being loaded or executed", "try again in a moment"),
        errno.ENOEXEC: ("it is no kernel that it can start", "start a kernel for x86-64"),
        errno.EADDRNOTAVAIL: ("there is no room at the addresses it needs", "free some memory"),
        errno.ENODATA: ("it is not signed", "install the distribution's signed image"),
        **dict.fromkeys(
            (errno.EKEYREJECTED, errno.ENOKEY, errno.EBADMSG, errno.ENOPKG),
            ("its signature is by no key that this kernel trusts", "enroll the key (mokutil)"),
        ),
    }
    reason, hint = reasons.get(number, (os.strerror(number), "see dmesg"))
    return KernelRefusedError(f"{what}: {reason} [{code}]", hint=hint)
