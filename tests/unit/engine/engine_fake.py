"""A machine made of recorded files: the engine's production interface, with a clock of its own.

`livepatch(...)` lets it behave as a kernel does: loading a module makes its sysfs directory, tasks
move to the new code after a time (or never), writing `enabled`, `force` has its effect.
"""

from __future__ import annotations

import base64
import errno
import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rebootless.engine.machine import ModuleSource
from rebootless.engine.refusal import load_refused, removal_refused
from rebootless.engine.status import CORE, CORE_ROOT, ROOT

RECORDED = Path(__file__).parent / "data" / "blocked-6.1.json"
RELEASE = "6.1.0-55-cloud-amd64"
BUILD_ID = "be80279be0383f6dbea0d4cedb91714bdff3a72b"


@dataclass
class FakeMachine:
    """Files by path; `moves_after` seconds bring a transition to its end (None: never)."""

    name: str = "a fake"
    files: dict[str, bytes] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    moves_after: float | None = 1.0
    reverses_after: float = 0.5
    refuses: int = 0  # errno for the next load
    busy_removals: int = 0
    log: list[str] = field(default_factory=list)
    clock: float = 0.0
    loaded: list[str] = field(default_factory=list)
    written: list[tuple[str, str]] = field(default_factory=list)
    ends: tuple[float, str] | None = None  # (clock, folder) of the transition that goes on
    lingers: float = 0.3  # seconds until the folder of a patch that is off goes
    going: tuple[float, str] | None = None  # (clock, folder) of such a one

    @classmethod
    def plain(cls) -> FakeMachine:
        """A kernel with live patching and no patch."""
        recorded = json.loads(RECORDED.read_text())
        fake = cls(directories={ROOT})
        fake.files["/proc/sys/kernel/osrelease"] = f"{RELEASE}\n".encode()
        fake.files["/proc/sys/kernel/ftrace_enabled"] = b"1\n"
        fake.files["/proc/sys/kernel/tainted"] = b"0\n"
        fake.files["/sys/kernel/notes"] = base64.b64decode(recorded["notes"])
        return fake

    @classmethod
    def blocked(cls) -> FakeMachine:
        """What a real 6.1 guest showed: two patches applied, a third held up by `sleep`."""
        recorded = json.loads(RECORDED.read_text())
        fake = cls.plain()
        fake.moves_after = None
        fake.directories |= set(recorded["directories"])
        fake.files |= {path: text.encode() for path, text in recorded["files"].items()}
        fake.log = list(recorded["log"])
        for patch in ("rl_cmdline", "rl_dummy", "rl_sleep"):
            fake.files[f"/sys/module/{patch}/taint"] = b"OEK\n"
            fake.directories.add(f"/sys/module/{patch}")
        return fake

    def read_bytes(self, path: str) -> bytes | None:
        self._tick()
        return self.files.get(path)

    def read_many(self, patterns: Sequence[str]) -> dict[str, str]:
        paths = self.glob(patterns)
        return {path: self.files[path].decode() for path in paths if path in self.files}

    def glob(self, patterns: Sequence[str]) -> list[str]:
        self._tick()
        known = [*self.files, *self.directories]
        return sorted({p for p in known for pattern in patterns if _matches(p, pattern)})

    def exists(self, path: str) -> bool:
        self._tick()
        return path in self.files or path in self.directories

    def write(self, path: str, text: str) -> None:
        self.written.append((path, text))
        self.files[path] = text.encode()
        base = path.rpartition("/")[0]
        if path.endswith("/enabled"):
            delay = self.reverses_after if self._moving(base) else self.moves_after
            self._begin(base, delay)
        if path.endswith("/force"):
            self._begin(base, 0.1)

    def matching_lines(self, path: str, words: Sequence[str]) -> list[str]:
        text = self.files.get(path, b"").decode()
        return [line for line in text.splitlines() if set(words) & set(line.split())]

    def read_at(self, path: str, spans: Sequence[tuple[int, int]]) -> list[bytes | None]:
        blob = self.files.get(path)
        if blob is None:
            return [None] * len(spans)
        parts = [blob[offset : offset + size] for offset, size in spans]
        return [p if len(p) == size else None for p, (_, size) in zip(parts, spans, strict=True)]

    def load_module(self, module: ModuleSource, *, name: str, parameters: str = "") -> None:
        if self.refuses:
            raise load_refused(self, name, self.refuses)
        self.loaded.append(name)
        self.directories.add(f"/sys/module/{name}")
        if name == "rebootless_core":
            self.directories |= {CORE, CORE_ROOT}
            self.files[f"{CORE}/version"] = b"1\n"
            return
        engine = parameters.partition("engine=")[2]
        root = CORE_ROOT if engine else ROOT
        base = f"{root}/{name}"
        self.directories |= {base, f"{base}/vmlinux", f"{base}/vmlinux/cmdline_proc_show,1"}
        self.files |= {
            f"{base}/enabled": b"1\n",
            f"{base}/force": b"0\n",
            f"{base}/vmlinux/patched": b"1\n",
            f"/sys/module/{name}/taint": b"OEK\n",
        }
        if engine:
            self.files |= {
                f"{base}/engine": engine.encode() + b"\n",
                f"{base}/signal": b"0\n",
                f"{base}/left": b"1\n",
                f"{base}/held": b"77\t78\tpipe_read\tstuck task\n",
                f"{base}/stats": b"attempts 3\nelapsed_ns 2500000\n",
            }
        self._begin(base, self.moves_after)

    def remove_module(self, name: str) -> None:
        if f"/sys/module/{name}" not in self.directories:
            raise removal_refused(name, errno.ENOENT)
        in_force = {f"{root}/{name}" for root in (ROOT, CORE_ROOT)} & self.directories
        if self.busy_removals or in_force:
            self.busy_removals = max(0, self.busy_removals - 1)
            raise removal_refused(name, errno.EWOULDBLOCK)
        self._drop(f"/sys/module/{name}")

    def kernel_log(self) -> str:
        return "\n".join(self.log)

    def sleep(self, seconds: float) -> None:
        self.clock += seconds

    def now(self) -> float:
        return self.clock

    def gives_up(self, name: str, engine_root: str = CORE_ROOT) -> None:
        """An engine of the core stops trying: the patch is off."""
        self.files[f"{engine_root}/{name}/enabled"] = b"0\n"
        self._begin(f"{engine_root}/{name}", 0)

    def _moving(self, base: str) -> bool:
        return self.files.get(f"{base}/transition", b"0").strip() == b"1"

    def _begin(self, base: str, delay: float | None) -> None:
        self.files[f"{base}/transition"] = b"1\n"
        self.ends = None if delay is None else (self.clock + delay, base)

    def _tick(self) -> None:
        if self.going is not None and self.clock >= self.going[0]:
            self._drop(self.going[1])
            self.going = None
        if self.ends is None or self.clock < self.ends[0]:
            return
        base = self.ends[1]
        self.ends = None
        self.files[f"{base}/transition"] = b"0\n"
        if self.files[f"{base}/enabled"].strip() == b"0":
            self.going = self.clock + self.lingers, base

    def _drop(self, root: str) -> None:
        self.directories = {d for d in self.directories if not (d + "/").startswith(root + "/")}
        self.files = {p: b for p, b in self.files.items() if not p.startswith(root + "/")}


def _matches(path: str, pattern: str) -> bool:
    """fnmatch, but a star does not cross a slash."""
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatch, parts, wanted))


def module_blob(
    name: str, *, release: str = RELEASE, livepatch: bool = True, engines: bool = False
) -> bytes:
    """The smallest ELF file with a .modinfo section: what the engine reads of a module."""
    tags = [
        f"name={name}",
        f"vermagic={release} SMP preempt mod_unload modversions ",
        "license=GPL",
    ]
    if livepatch:
        tags.append("livepatch=Y")
    if engines:
        tags += ["parmtype=engine:charp", "rebootless=Y"]
    info = b"".join(tag.encode() + b"\0" for tag in tags)
    names = b"\0.modinfo\0.shstrtab\0"
    table = 64 + len(info) + len(names)
    header = bytearray(64)
    header[:16] = b"\x7fELF\x02\x01\x01" + bytes(9)
    header[40:48] = table.to_bytes(8, "little")
    header[58:64] = b"\x40\0\x03\0\x02\0"

    def section(offset_of_name: int, offset: int, size: int) -> bytes:
        fields = bytearray(64)
        fields[0:4] = offset_of_name.to_bytes(4, "little")
        fields[24:32] = offset.to_bytes(8, "little")
        fields[32:40] = size.to_bytes(8, "little")
        return bytes(fields)

    sections = bytes(64) + section(1, 64, len(info)) + section(10, 64 + len(info), len(names))
    return bytes(header) + info + names + sections
