"""This very machine: sysfs, procfs and three system calls."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..base.errors import ResourceError
from ..base.fs import os_failure
from .machine import ModuleSource
from .refusal import load_refused, removal_refused

# x86-64 system call numbers (kernel: arch/x86/entry/syscalls/syscall_64.tbl)
SYS_INIT_MODULE, SYS_DELETE_MODULE, SYS_FINIT_MODULE = 175, 176, 313
SYSLOG_READ_ALL, SYSLOG_SIZE_BUFFER = 3, 10
FEW = 16  # words that are sooner looked for one by one than in line after line
GONE = (errno.ENOENT, errno.ESRCH, errno.ENOTDIR, errno.ENODEV)


class LocalMachine:
    """The machine that rebootless runs on (see `machine.Machine`)."""

    name = "this machine"

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def read_bytes(self, path: str) -> bytes | None:
        try:
            return Path(path).read_bytes()
        except OSError as exc:
            if exc.errno in GONE or isinstance(exc, IsADirectoryError):
                return None
            if exc.errno == errno.EINVAL:  # e.g. /proc/PID/stack of a task that is exiting
                return None
            raise os_failure("read", Path(path), exc) from exc

    def read_many(self, patterns: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for path in self.glob(patterns):
            blob = self.read_bytes(path)
            if blob is not None:
                found[path] = blob.decode(errors="replace")
        return found

    def glob(self, patterns: Sequence[str]) -> list[str]:
        return sorted({path for pattern in patterns for path in glob.glob(pattern)})  # noqa: PTH207

    def exists(self, path: str) -> bool:
        try:
            return Path(path).exists()
        except PermissionError:  # in a folder of root's, such as tracefs
            return False

    def write(self, path: str, text: str) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as exc:
            if exc.errno in GONE:  # a patch may go at any moment
                raise ResourceError(f"cannot write {path}: it is not there") from exc
            raise os_failure("write", Path(path), exc) from exc

    def matching_lines(self, path: str, words: Sequence[str]) -> list[str]:
        text = self.read_bytes(path) or b""
        wanted = {word.encode() for word in words}
        if len(wanted) > FEW:
            found = [line for line in text.split(b"\n") if not wanted.isdisjoint(line.split())]
        else:
            found = _lines_with(text, wanted)
        return [line.decode(errors="replace") for line in found]

    def read_at(self, path: str, spans: Sequence[tuple[int, int]]) -> list[bytes | None]:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return [None] * len(spans)
        try:
            return [_pread(descriptor, size, offset) for offset, size in spans]
        finally:
            os.close(descriptor)

    def load_module(self, module: ModuleSource, *, name: str, parameters: str = "") -> None:
        if isinstance(module, bytes):
            result = self._call(SYS_INIT_MODULE, module, len(module), parameters.encode())
        else:
            try:
                descriptor = os.open(module, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as exc:
                raise os_failure("read", module, exc) from exc
            try:
                result = self._call(SYS_FINIT_MODULE, descriptor, parameters.encode(), 0)
            finally:
                os.close(descriptor)
        if result:
            raise load_refused(self, name, result)

    def remove_module(self, name: str) -> None:
        result = self._call(SYS_DELETE_MODULE, name.encode(), os.O_NONBLOCK)
        if result:
            raise removal_refused(name, result)

    def kernel_log(self) -> str:
        size = self._libc.klogctl(SYSLOG_SIZE_BUFFER, None, 0)
        if size <= 0:
            return ""
        buffer = ctypes.create_string_buffer(size)
        length = self._libc.klogctl(SYSLOG_READ_ALL, buffer, size)
        text = buffer.raw[: max(length, 0)].decode(errors="replace")
        # each line begins with its level, as in "<6>[    0.1] text"
        return "\n".join(
            line.partition(">")[2] if line.startswith("<") else line for line in text.splitlines()
        )

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()

    def _call(self, number: int, *arguments: int | bytes) -> int:
        """A system call; gives 0 or the error number."""
        if os.uname().machine != "x86_64":
            raise ResourceError(f"live patching is made for x86-64, not {os.uname().machine}")
        converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
        result = self._libc.syscall(ctypes.c_long(number), *converted)
        return ctypes.get_errno() if result else 0


def _lines_with(text: bytes, words: Iterable[bytes]) -> list[bytes]:
    """The lines of which one field equals one of `words`, in order.

    A list of all symbols is searched some ten times as fast as by looking at each line.
    """
    found = {}
    for word in words:
        at = text.find(word)
        while at >= 0:
            start = text.rfind(b"\n", 0, at) + 1
            end = text.find(b"\n", at)
            end = len(text) if end < 0 else end
            if word in text[start:end].split():
                found[start] = text[start:end]
            at = text.find(word, end)
    return [found[start] for start in sorted(found)]


def _pread(descriptor: int, size: int, offset: int) -> bytes | None:
    """All `size` bytes; a large read may come in parts."""
    parts = []
    while size > 0:
        try:
            part = os.pread(descriptor, size, offset)
        except (OSError, OverflowError):
            return None
        if not part:
            return None
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)
