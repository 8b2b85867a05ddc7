"""A lab guest as a machine of the engine: each call is one command of the guest's shell."""

from __future__ import annotations

import errno
import itertools
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..base.errors import ResourceError
from ..base.fs import read_bytes
from ..engine.machine import ModuleSource
from ..engine.refusal import load_refused, removal_refused
from .guest import Guest

DISK, BLOCK = "/dev/vda", 4096
LARGE = 1 << 13  # bytes: more takes longer through the port than through the disk
MOST = 1 << 19  # bytes through the port: some ten seconds under emulation
SAFE = re.compile(r"[^A-Za-z0-9_./,*?\[\]:@%+=-]")
# what busybox says for an error number of init_module instead of the number's usual text
INSMOD_TEXTS = {
    "invalid module format": errno.ENOEXEC,
    "unknown symbol in module, or unknown parameter": errno.ENOENT,
    "module has wrong symbol version": errno.ESRCH,
    "invalid parameters": errno.EINVAL,
}
ERRNO_BY_TEXT = {os.strerror(number): number for number in errno.errorcode} | INSMOD_TEXTS

# Seconds. Kernels before 6.2 search all of kallsyms for each livepatch relocation, which takes
# 0.1 s under emulation, and a large patch has many hundreds.
LOAD_TIMEOUT = 600.0
DISK_TIMEOUT = 600.0


class GuestMachine:
    """The guest behind an agent (see `rebootless.engine.machine.Machine`)."""

    name = "the guest"

    def __init__(
        self, guest: Guest, stored: Mapping[str, str] | None = None, disk: Path | None = None
    ) -> None:
        """`stored` maps names of modules that lie in the guest already to their paths there.

        `disk` is the file behind the guest's /dev/vda: what is large comes that way.
        """
        self.guest = guest
        self.stored = dict(stored or {})
        self.disk = disk

    def read_bytes(self, path: str) -> bytes | None:
        status, content = self.guest.run_bytes(f"cat {shlex.quote(path)} 2>/dev/null")
        return content if status == 0 else None

    def read_many(self, patterns: Sequence[str]) -> dict[str, str]:
        """One grep reads all files; those that are empty are found by the shell itself."""
        if not patterns:
            return {}
        output = self.guest.run(
            f"set -- {_words(patterns)}\n"
            'for file; do [ -f "$file" ] && echo "$file"; done\n'
            'echo //\ngrep -sH "" "$@" /dev/null'
        ).output
        listed, _, lines = output.partition("//\n")
        texts: dict[str, list[str]] = {path: [] for path in listed.splitlines()}
        for line in lines.splitlines():
            path, colon, text = line.partition(":")
            if colon and path in texts:
                texts[path].append(text + "\n")
        return {path: "".join(text) for path, text in texts.items()}

    def glob(self, patterns: Sequence[str]) -> list[str]:
        if not patterns:
            return []
        output = self.guest.run(
            f'for file in {_words(patterns)}; do [ -e "$file" ] && echo "$file"; done'
        ).output
        return sorted(set(output.splitlines()))

    def exists(self, path: str) -> bool:
        return self.guest.run(f"[ -e {shlex.quote(path)} ]").status == 0

    def write(self, path: str, text: str) -> None:
        answer = self.guest.run(f"printf %s {shlex.quote(text)} >{shlex.quote(path)}")
        if answer.status != 0:
            raise ResourceError(f"cannot write {path} in the guest: {answer.output.strip()}")

    def matching_lines(self, path: str, words: Sequence[str]) -> list[str]:
        """grep finds candidates (fixed strings), the exact comparison is done here."""
        wanted = set(words)
        patterns = " ".join(f"-e {shlex.quote(word)}" for word in sorted(wanted))
        output = self.guest.run(f"grep -F {patterns} {shlex.quote(path)}", timeout=120).output
        return [line for line in output.splitlines() if not wanted.isdisjoint(line.split())]

    def read_at(self, path: str, spans: Sequence[tuple[int, int]]) -> list[bytes | None]:
        size = sum(size for _, size in spans)
        if self.disk is not None and size > LARGE:
            return self._by_disk(self.disk, path, spans)
        if size > MOST:
            raise ResourceError(
                f"{size >> 20} MiB of {path} cannot be read over the guest's console",
                hint="give the guest a disk",
            )
        found: list[bytes | None] = []
        for start in range(0, len(spans), 50):
            part = spans[start : start + 50]
            lines = [
                f"dd if={shlex.quote(path)} bs=1 skip={offset} count={size} 2>/dev/null | "
                "od -An -v -tx1 | tr -d ' \\n'; echo"
                for offset, size in part
            ]
            answers = self.guest.run("\n".join(lines), timeout=120).output.split("\n")
            for (_, size), text in zip(part, answers, strict=False):
                found.append(bytes.fromhex(text) if len(text) == 2 * size else None)
        return found

    def _by_disk(
        self, disk: Path, path: str, spans: Sequence[tuple[int, int]]
    ) -> list[bytes | None]:
        """Copies whole blocks to the disk, where the host reads them: 100 times faster."""
        blocks = [(o // BLOCK, (o + size - 1) // BLOCK + 1 - o // BLOCK) for o, size in spans]
        firsts = [0, *itertools.accumulate(count for _, count in blocks)]
        copies = "\n".join(
            f"dd if={shlex.quote(path)} of={DISK} bs={BLOCK} skip={start} count={count} "
            f"seek={to} conv=notrunc 2>&1 | grep -q ^{count}.0.records.out && echo {number}"
            for number, ((start, count), to) in enumerate(zip(blocks, firsts, strict=False))
        )
        whole = {
            int(n) for n in self.guest.run(f"{copies}\nsync", timeout=DISK_TIMEOUT).output.split()
        }
        found: list[bytes | None] = []
        with disk.open("rb") as file:
            for number, (offset, size) in enumerate(spans):
                file.seek(firsts[number] * BLOCK + offset % BLOCK)
                found.append(file.read(size) if number in whole else None)
        return found

    def load_module(self, module: ModuleSource, *, name: str, parameters: str = "") -> None:
        path = self.stored.get(name, f"/tmp/{name}.ko")
        if name not in self.stored:
            content = module if isinstance(module, bytes) else read_bytes(module)
            self.guest.put_file(content, path)
        self.insert(path, name=name, parameters=parameters)

    def insert(self, path: str, *, name: str, parameters: str = "") -> None:
        """Loads a module that lies in the guest."""
        command = f"insmod {shlex.quote(path)} {parameters}"
        answer = self.guest.run(command, timeout=LOAD_TIMEOUT)
        if answer.status != 0:
            raise load_refused(self, name, _number(answer.output))

    def remove_module(self, name: str) -> None:
        answer = self.guest.run(f"rmmod {shlex.quote(name)}")
        if answer.status != 0:
            raise removal_refused(name, _number(answer.output))

    def kernel_log(self) -> str:
        return self.guest.run("dmesg").output

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def now(self) -> float:
        return time.monotonic()


def _words(patterns: Sequence[str]) -> str:
    """Shell words that keep their wildcards; any other special character is escaped."""
    return " ".join(SAFE.sub(lambda found: "\\" + found[0], pattern) for pattern in patterns)


def _number(output: str) -> int:
    """The error number that a program's last line ends with as text."""
    for line in reversed(output.strip().splitlines()):
        for text, number in ERRNO_BY_TEXT.items():
            if line.endswith(": " + text) or line == text:
                return number
    return errno.EIO
