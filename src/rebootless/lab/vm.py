"""One QEMU process: boots a kernel with an initramfs, watches it, and always ends it.

The first serial port is the kernel's console and goes to a log file; the second one carries the
agent's protocol over QEMU's standard input and output, so no port, socket or root is needed.
Emulation is single-threaded on purpose: QEMU's multi-threaded emulation live-locks when a kernel
rewrites its own hot code, which is what live patching does.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from ..base.errors import ResourceError, TestFailedError
from ..base.proc import kill_group, run, spawn, which
from .image import GuestImage, build

LOG_TAIL = 25
PANIC = "Kernel panic"
READY = b"READY"


@dataclass(frozen=True)
class VmConfig:
    """How to boot: the kernel image, the machine's size, extra kernel parameters, time-outs (s).

    `disk` is a file that the guest sees as the disk /dev/vda, with the module virtio_blk.
    """

    kernel: Path
    memory_mib: int = 512
    cpus: int = 1
    cmdline: str = ""
    boot_timeout: float = 120.0
    idle_timeout: int = 900
    qemu: str = "qemu-system-x86_64"
    disk: Path | None = None

    def arguments(self, initramfs: Path, log: Path) -> list[str]:
        """QEMU's command line."""
        parameters = (
            f"console=ttyS0 panic=-1 rebootless.idle={self.idle_timeout} {self.cmdline}".strip()
        )
        return [
            *_dies_with_us(),
            which(self.qemu, hint="install qemu-system-x86"),
            *("-accel", "tcg,thread=single", "-cpu", "max", "-m", str(self.memory_mib)),
            # one to a socket: a kernel without ACPI finds the first of each only
            *("-smp", f"{self.cpus},sockets={self.cpus}", "-display", "none"),
            *("-monitor", "none", "-no-reboot"),
            *("-nodefaults", "-no-user-config", "-kernel", str(self.kernel)),
            *("-initrd", str(initramfs), "-append", parameters),
            *("-serial", f"file:{log}", "-serial", "stdio"),
            *(("-drive", f"file={self.disk},format=raw,if=virtio") if self.disk else ()),
        ]


def _dies_with_us() -> list[str]:
    """A prefix that makes the kernel end QEMU when the thread that started it ends.

    So not even SIGKILL to us leaves a guest behind. Without setpriv (util-linux) the guest's
    agent notices after `idle_timeout`. A guest is to be used by the thread that booted it, or by
    threads that end before that one.
    """
    prefix = ["setpriv", "--pdeathsig", "KILL", "--"]
    if shutil.which("setpriv") and run([*prefix, "true"], check=False, timeout=10).returncode == 0:
        return prefix
    return []


class Vm:
    """A running guest: `with Vm(config, image, log) as vm:`. Raises as `start` does."""

    def __init__(self, config: VmConfig, image: GuestImage, log: Path) -> None:
        self.config = config
        self.image = image
        self.log = log
        self.boot_seconds = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._dead = ""

    def __enter__(self) -> Vm:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Boots and waits for the agent.

        Raises TestFailedError when the kernel panics or QEMU ends, ResourceError when the agent
        does not answer in time; the message ends with the end of the console log.
        """
        started = time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")
        with tempfile.TemporaryDirectory(prefix="rebootless-lab-") as scratch:
            initramfs = Path(scratch) / "initramfs"
            initramfs.write_bytes(build(self.image))
            try:
                self._spawn(initramfs)
                self._await_agent(started + self.config.boot_timeout)
            except BaseException:
                self.stop()
                raise
        self.boot_seconds = time.monotonic() - started

    def stop(self) -> None:
        """Ends QEMU, whatever state it is in."""
        if self._process is not None:
            kill_group(self._process)
            for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()
            self._process = None
            self._dead = self._dead or "the guest was stopped"

    @property
    def alive(self) -> bool:
        """Whether QEMU runs."""
        return self._process is not None and self._process.poll() is None

    def send(self, data: bytes, deadline: float) -> None:
        """Writes to the agent; raises ResourceError past `deadline` (time.monotonic())."""
        view = memoryview(data)
        stdin = self._live().stdin
        assert stdin is not None
        while view:
            self._wait(stdin.fileno(), deadline, write=True)
            try:
                view = view[os.write(stdin.fileno(), view[:4096]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as exc:
                raise self._ended() from exc

    def read_line(self, deadline: float) -> bytes:
        """The next line from the agent, without its end."""
        while b"\n" not in self._pending:
            self._pending += self._read(deadline)
        line, _, self._pending = self._pending.partition(b"\n")
        return line.rstrip(b"\r")

    def read_until(self, end: bytes, deadline: float) -> bytes:
        """All that comes before the line `end`, which is taken off as well."""
        marker = b"\n" + end + b"\n"
        parts = [b"\n" + self._pending]
        tail = parts[0]
        while marker not in tail:
            parts.append(self._read(deadline))
            tail = (tail + parts[-1])[-max(len(parts[-1]) + len(marker), len(marker)) :]
        whole, _, self._pending = b"".join(parts).partition(marker)
        return whole

    def console(self) -> str:
        """The console log up to now."""
        try:
            return self.log.read_text(errors="replace")
        except OSError:
            return ""

    def tail(self, lines: int = LOG_TAIL) -> str:
        """The last lines of the console log, for error messages."""
        return "\n".join(self.console().splitlines()[-lines:])

    def timed_out(self, what: str, seconds: float) -> ResourceError:
        """The error for a guest that did not answer."""
        self._dead = f"{what} timed out before"
        return ResourceError(
            f"{what} took longer than {seconds:g} s; the console log {self.log} ends with:\n"
            f"{self.tail()}",
            hint="give it more time, or look at the console log for where it hangs",
        )

    def _spawn(self, initramfs: Path) -> None:
        self._process = spawn(
            self.config.arguments(initramfs, self.log),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        os.set_blocking(self._process.stdin.fileno(), False)

    def _await_agent(self, deadline: float) -> None:
        while True:
            try:
                line = self.read_line(deadline)
            except TimeoutError:
                raise self.timed_out("booting the guest", self.config.boot_timeout) from None
            if line.startswith(READY):
                failed = line[len(READY) :].decode().split()
                if failed:
                    raise TestFailedError(
                        f"the guest could not load {', '.join(failed)}; the console log "
                        f"{self.log} ends with:\n{self.tail()}"
                    )
                return

    def _live(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._dead:
            raise ResourceError(f"the guest does not run any more: {self._dead or 'not started'}")
        return self._process

    def _read(self, deadline: float) -> bytes:
        stdout = self._live().stdout
        assert stdout is not None
        self._wait(stdout.fileno(), deadline)
        data = os.read(stdout.fileno(), 65536)
        if not data:
            raise self._ended()
        return data

    def _wait(self, descriptor: int, deadline: float, *, write: bool = False) -> None:
        """Waits until the pipe is ready; raises TimeoutError, or at once when the guest panics."""
        poller = select.poll()
        poller.register(descriptor, select.POLLOUT if write else select.POLLIN)
        while not poller.poll(250):
            if PANIC in self.tail(60):
                raise self._ended()
            if time.monotonic() > deadline:
                raise TimeoutError

    def _ended(self) -> TestFailedError:
        """The error for a QEMU that is gone: a panic, a bad command line, a power-off."""
        process = self._live()
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            kill_group(process)
        console = self.console()
        reason = next((li for li in console.splitlines() if PANIC in li), "")
        error = process.stderr.read().decode(errors="replace") if process.stderr else ""
        self._dead = reason or "QEMU ended"
        what = f"the guest's kernel panicked: {reason.strip()}" if reason else "the guest ended"
        return TestFailedError(
            f"{what}; {error.strip()} the console log {self.log} ends with:\n{self.tail()}",
            hint=f"the whole console log is in {self.log}",
        )
