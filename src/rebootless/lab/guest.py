"""Talks to a guest's agent: runs commands, moves files, starts workloads."""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import shlex
import threading
import time
import zlib
from typing import NamedTuple

from ..base.errors import ResourceError, TestFailedError
from .vm import Vm

CHUNK = 24_000  # bytes of a file per message: the guest's terminal buffers hold 64 KiB
PART = "/run/lab/part.gz"  # a path without blanks: it goes into a request
COMMAND_LIMIT = 16_000  # longer shell texts go as a file
ANSWER = re.compile(rb"@(\d+) (\d+) ([pz]) (\d+)$")
KILLED = 137  # what a shell says of a command that SIGKILL ended
GRACE = 30.0  # seconds that the guest gets to end a command itself


class Answer(NamedTuple):
    """The end of a command: its exit status, and standard output and error as text."""

    status: int
    output: str


class Guest:
    """A booted guest. Calls from several threads are taken one after the other."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self._next = 0
        self._lock = threading.Lock()

    def run(self, command: str, *, timeout: float = 60.0) -> Answer:
        """Runs a shell text in the guest and returns (status, output).

        Raises ResourceError when it takes longer than `timeout` seconds (it is killed; the guest
        stays usable), TestFailedError when the guest's kernel panics meanwhile.
        """
        status, output = self.run_bytes(command, timeout=timeout)
        return Answer(status, output.decode(errors="replace"))

    def run_bytes(self, command: str, *, timeout: float = 60.0) -> tuple[int, bytes]:
        """As `run`, with the output as it came."""
        if len(command) > COMMAND_LIMIT:
            self.put_file(command.encode(), "/run/lab/long-command")
            command = "sh /run/lab/long-command"
        seconds = max(1, round(timeout))
        text = base64.b64encode(command.encode()).decode()
        started = time.monotonic()
        status, output = self._ask(f"R {{id}} {seconds} {text}\n", b"", timeout, command)
        if status == KILLED and time.monotonic() - started >= seconds - 0.5:
            raise ResourceError(
                f"the guest's command took longer than {timeout:g} s: {command[:200]}\n"
                + output.decode(errors="replace")[-1000:]
            )
        return status, output

    def check(self, command: str, *, timeout: float = 60.0) -> str:
        """As `run`, but raises TestFailedError unless the status is 0; returns the output."""
        answer = self.run(command, timeout=timeout)
        if answer.status != 0:
            raise TestFailedError(
                f"in the guest, '{command[:200]}' failed with status {answer.status}:\n"
                f"{answer.output[-2000:]}"
            )
        return answer.output

    def put_file(self, content: bytes, path: str, *, mode: int = 0o644) -> None:
        """Writes a file in the guest.

        Slow: 20 to 80 kB/s, since the emulated port takes 16 bytes at a time; what compresses
        goes faster. What is known before the boot belongs into the image.
        """
        packed = gzip.compress(content, compresslevel=6, mtime=0)
        quoted = shlex.quote(path)
        self.check(f'mkdir -p "$(dirname {quoted})"; rm -f {PART}')
        for start in range(0, len(packed), CHUNK):
            text = base64.b64encode(packed[start : start + CHUNK])
            self._ask(f"W {{id}} {PART} {len(text)}\n", text, 60.0, f"writing {path}")
        self.check(
            f"gunzip -c {PART} >{quoted} && rm {PART} && chmod {mode:o} {quoted}"
            f" && [ $(stat -c %s {quoted}) = {len(content)} ]"
        )

    def get_file(self, path: str) -> bytes:
        """The content of a file of the guest."""
        status, content = self.run_bytes(f"cat {shlex.quote(path)}")
        if status != 0:
            raise TestFailedError(f"no file {path} in the guest: {content.decode()[:200]}")
        return content

    def background(self, command: str) -> int:
        """Starts a shell text in a session of its own, and returns its process id."""
        quoted = shlex.quote(command)
        return int(self.check(f"setsid sh -c {quoted} >/dev/null 2>&1 </dev/null & echo $!"))

    def start_workload(self) -> int:
        """Starts the default workload; `stop_workload` ends it."""
        return self.background("rm -f /run/lab/stop; sh /lab/workload")

    def workload_rounds(self) -> int:
        """How many rounds the workload's workers have done in all."""
        output = self.run("cat /run/lab/rounds.* 2>/dev/null").output
        return sum(int(word) for word in output.split() if word.isdigit())

    def stop_workload(self) -> None:
        """Asks the workload to end."""
        self.run("touch /run/lab/stop")

    def _ask(self, head: str, body: bytes, timeout: float, what: str) -> tuple[int, bytes]:
        with self._lock:
            self._next += 1
            number = self._next
            deadline = time.monotonic() + timeout + GRACE
            try:
                self.vm.send(head.replace("{id}", str(number), 1).encode() + body, deadline)
                return self._answer(number, deadline)
            except TimeoutError:
                raise self.vm.timed_out(f"the guest's '{what[:80]}'", timeout) from None

    def _answer(self, number: int, deadline: float) -> tuple[int, bytes]:
        while True:
            found = ANSWER.match(self.vm.read_line(deadline))
            if found and int(found[1]) == number:
                break
        text = self.vm.read_until(b".%d" % number, deadline)
        try:
            output = base64.b64decode(text)
            if found[3] == b"z":
                output = gzip.decompress(output)
        except (binascii.Error, OSError, EOFError, zlib.error) as exc:
            raise ResourceError(f"the guest's answer {number} came garbled: {exc}") from exc
        if len(output) != int(found[4]):
            raise ResourceError(
                f"the guest's answer {number} has {len(output)} of {int(found[4])} bytes"
            )
        return int(found[2]), output
