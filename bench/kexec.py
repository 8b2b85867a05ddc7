#!/usr/bin/env python3
"""How long a machine is away when one kernel starts another by kexec, beside an ordinary boot.

    python bench/kexec.py                        the last two kernels of the series in the cache
    python bench/kexec.py 6.1.0-50-cloud-amd64 6.1.0-55-cloud-amd64 --runs 5
    python bench/kexec.py --ramdisk 40           with 40 MiB more in the initial ramdisk

A service in the guest writes a line to the console every 20 ms; the host notes when each line
arrives. The down time is from the last line of the old kernel to the first of the new one. The
ordinary boot is from the start of QEMU to the first line: the least that a reboot of the machine
could take, since QEMU hands the kernel over without a boot loader, and its firmware tests nothing.
No services are stopped here: the calls are those of `reboot --kexec --now --force`.
Beside each time stands the CPU time of QEMU, which a busy host changes little.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests/vm"))

import guest_python

from rebootless.base.events import NullMonitor
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage, build
from rebootless.lab.vm import Vm, VmConfig
from rebootless.provider.base import KernelFiles, KernelState
from rebootless.provider.debian import DebianProvider

LIMIT_SECONDS = 180.0
HOOK = """#!/bin/sh
(while :; do echo "TICK $(uname -r)" >/dev/console; usleep 20000; done) &
"""
EXECUTE = f"""
import sys
sys.path[:0] = [{guest_python.in_guest()!r}]
from pathlib import Path
from rebootless.engine.kexec.calls import LocalCalls
from rebootless.engine.kexec.target import Target
from rebootless.kernel import bzimage
import time
line = Path("/proc/cmdline").read_text().strip()
image = bzimage.parse(Path("/boot/vmlinuz").read_bytes(), name="vmlinuz")
files = Path("/boot/vmlinuz"), image, Path("/boot/initrd")
target = Target(image.release, *files, 0, True, line, None)
calls = LocalCalls()
start = time.monotonic()
calls.load(target, "kexec_file_load")
Path("/dev/console").write_text(f"LOADED in {{time.monotonic() - start:.2f}} s\\n")
time.sleep(0.5)
calls.sync()
with calls.frozen(()):
    calls.execute()
"""


@dataclass(frozen=True)
class Tick:
    """A line of the service: when it came, and QEMU's CPU time by then (seconds)."""

    wall: float
    cpu: float


class Console:
    """Follows a console log, and notes the first and the last line of each kernel."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.log.touch()
        self.qemu = 0
        self.first: dict[str, Tick] = {}
        self.last: dict[str, Tick] = {}
        self.loading = ""
        self.ended = threading.Event()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        rest = b""
        with self.log.open("rb") as log:
            while not self.ended.is_set():
                *lines, rest = (rest + log.read()).split(b"\n")
                for line in lines:
                    self._note(line.decode(errors="replace").strip())
                time.sleep(0.005)

    def _note(self, line: str) -> None:
        if line.startswith("LOADED"):
            self.loading = line
        if release := line.partition("TICK ")[2]:
            tick = Tick(time.monotonic(), self._cpu())
            self.first.setdefault(release, tick)
            self.last[release] = tick

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self.qemu}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def wait_for(self, release: str) -> Tick:
        """The first line of that kernel."""
        limit = time.monotonic() + LIMIT_SECONDS
        while release not in self.first:
            if time.monotonic() > limit:
                sys.exit(f"{release} did not come:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.01)
        return self.first[release]


class Watched(Vm):
    """A guest whose console is followed from the start."""

    def _spawn(self, initramfs: Path) -> None:
        self.watch = Console(self.log)
        self.started = time.monotonic()
        super()._spawn(initramfs)
        assert self._process is not None
        self.watch.qemu = self._process.pid

    def stop(self) -> None:
        """Ends the follower first: it reads of QEMU's process."""
        self.watch.ended.set()
        time.sleep(0.02)
        super().stop()


def measure(old: KernelFiles, new: KernelFiles, ramdisk_mib: int, folder: Path) -> dict[str, float]:
    """Seconds by name."""
    hook = {"/lab/hook": (HOOK.encode(), 0o755)}
    ballast = {"/ballast": (os.urandom(ramdisk_mib << 20), 0o644)}
    target = GuestImage(new.modules, files={**hook, **ballast})
    modules = "rebootless.engine.kexec.calls, encodings.cp437"
    python, files = guest_python.python_files(modules)
    files |= {
        **hook,
        "/boot/vmlinuz": (new.image.read_bytes(), 0o644),
        "/boot/initrd": (build(target), 0o644),
        "/lab/execute.py": (EXECUTE.encode(), 0o644),
    }
    memory = 768 + 4 * ramdisk_mib
    image = GuestImage(old.modules, files=files)
    with Watched(VmConfig(old.image, memory_mib=memory), image, folder / "kexec.log") as vm:
        Guest(vm).background(f"{python} -I -S -B /lab/execute.py >/dev/console 2>&1")
        came = vm.watch.wait_for(new.release)
        last = vm.watch.last[old.release]
        loading = vm.watch.loading
    with Watched(VmConfig(new.image, memory_mib=memory), target, folder / "boot.log") as vm:
        ordinary = vm.watch.wait_for(new.release)
        started = vm.started
    found = {
        "away": came.wall - last.wall,
        "away, CPU": came.cpu - last.cpu,
        "ordinary boot": ordinary.wall - started,
        "ordinary boot, CPU": ordinary.cpu,
    }
    print("; ".join(f"{name} {s:.2f}" for name, s in found.items()), loading, flush=True)
    return found


def kernels(releases: list[str]) -> tuple[KernelFiles, KernelFiles]:
    """The two kernels that are given, or the last two cloud kernels of 6.1 in the cache."""
    debian = DebianProvider()
    if not releases:
        releases = [
            k.release
            for k in debian.list()
            if KernelState.CACHED in k.states and k.release.startswith("6.1.")
            and k.release.endswith("-cloud-amd64")
        ][-2:]  # fmt: skip
    if len(releases) != 2:
        sys.exit("two kernels are needed: give their releases")
    old, new = (debian.fetch(release, NullMonitor()) for release in releases)
    return old, new


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("releases", nargs="*")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ramdisk", type=int, default=0, help="MiB more in the initial ramdisk")
    options = parser.parse_args()
    old, new = kernels(options.releases)
    print(f"{old.release} -> {new.release}, {options.ramdisk} MiB more in the ramdisk", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(old, new, options.ramdisk, Path(folder)) for _ in range(options.runs)]
    for name in found[0]:
        times = [run[name] for run in found]
        median = statistics.median(times)
        print(f"{name}: median {median:.2f} s ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
