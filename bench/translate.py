"""What a unit more costs in translate, beside the compiler's own time; and what workers bring.

    python bench/translate.py [--units 10 50 250] [--workers 1 2] [--kernel RELEASE]

A real change is made in each of many ordinary units (as in bench/units.py), one candidate each.
First they are built one after the other in this process, every original compiled anew: "compiler"
is the time that gcc and objtool ran for the original and the patched unit, "ours" all the rest.
Then workers of Dask build them, with the originals at hand; that is the time from the first command
to the last result, start of the workers included. Results go to a folder of their own.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

import units as many

from rebootless.base.events import NullMonitor
from rebootless.compile import desk
from rebootless.compile.tree import Tree, prepare
from rebootless.pipeline.candidate import Builder
from rebootless.pipeline.cluster import Where
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.pipeline.translation import Settings, Translation
from rebootless.provider.debian import DebianProvider
from rebootless.translate.model import Candidate, Outcome, key_of
from rebootless.translate.store import Store

FOLDERS = (
    *many.FOLDERS, "fs/jbd2", "fs/notify", "fs/kernfs", "kernel/sched", "kernel/time",
    "kernel/trace", "kernel/cgroup", "kernel/bpf", "kernel/irq", "kernel/locking", "net/ipv6",
    "net/sched",
    "net/netlink", "net/unix", "net/ethtool", "drivers/base", "drivers/tty", "drivers/pci",
    "drivers/acpi", "drivers/virtio", "drivers/input", "lib", "security", "security/selinux",
    "security/apparmor", "security/keys", "crypto", "io_uring", "sound/core",
)  # fmt: skip


def candidates(tree: Tree, count: int, build_id: str) -> list[Candidate]:
    """As many parts of an update as there are units to change."""
    with tempfile.TemporaryDirectory() as folder:
        patch = many.make_patch(tree, count, Path(folder, "patch"), FOLDERS)
        text = patch.read_text(errors="surrogateescape")
    found = []
    for diff in re.split(r"(?m)^(?=--- a/)", text)[1:]:
        path = diff.partition("\n")[0].removeprefix("--- a/").strip()
        found.append(Candidate(key_of(diff, build_id), path, (path,), (path,), diff))
    return found


class Anew(desk.Desk):
    """A desk where each original is compiled once more."""

    def _is_made(self, source: str) -> bool:
        return False


def one_by_one(kernel: ShippedKernel, tree: Tree, parts: list[Candidate], marks: list[int]) -> None:
    """Builds all in this process, and prints the figures at each of the numbers in `marks`."""
    kernel.read_ahead()
    compiler = ours = cpu = 0.0
    live = 0
    with desk.taken(tree) as plain, tempfile.TemporaryDirectory() as scratch:
        mine = Anew(plain.tree)
        started = time.monotonic()
        mine.ask_about([c.units[0] for c in parts])
        print(f"kbuild asked about {len(parts)} units: {time.monotonic() - started:.1f} s")
        builder = Builder(kernel, mine, Path(scratch), max_units=60)
        store = Store(Path(scratch, "results"))
        for number, part in enumerate(parts, 1):
            begun, begun_cpu = time.monotonic(), time.process_time()
            result, made = builder.build(part)
            store.put(result, made)
            took = time.monotonic() - begun
            compiler += result.seconds_compile
            ours += took - result.seconds_compile
            cpu += time.process_time() - begun_cpu
            live += result.outcome is Outcome.LIVE_PATCH
            if number in marks:
                memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(f"{number:4} units: compiler {compiler / number:.2f} s, ours "
                      f"{ours / number:.2f} s each (CPU {cpu / number:.2f} s), together "
                      f"{(compiler + ours) / compiler:.2f} of the compiler's; {live} live patches; "
                      f"peak memory {memory:.0f} MiB", flush=True)  # fmt: skip


def by_workers(kernel: ShippedKernel, tree: Tree, parts: list[Candidate], workers: int) -> None:
    """Has workers build all."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(Where(workers), results=Path(folder))
        started = time.monotonic()
        results, _ = Translation(kernel, tree, settings, NullMonitor()).results(parts)
        took = time.monotonic() - started
    busy = sum(r.seconds_compile + r.seconds_ours for r in results.values())
    print(f"{workers} workers: {len(parts)} units in {took:.1f} s "
          f"({busy / took:.2f} at work on average)", flush=True)  # fmt: skip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--units", type=int, nargs="+", default=[10, 50, 250])
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--kernel", default="6.1.0-50-cloud-amd64")
    options = parser.parse_args()
    files = DebianProvider().fetch(options.kernel, NullMonitor())
    kernel, tree = ShippedKernel(files), prepare(files, NullMonitor())
    parts = candidates(tree, max(options.units), kernel.image.build_id)
    one_by_one(kernel, tree, parts, options.units)
    for workers in options.workers:
        by_workers(kernel, tree, parts[: min(options.units)], workers)


if __name__ == "__main__":
    main()
