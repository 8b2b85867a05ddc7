"""Time of the differ on a large unit, and start-up time of the command.

    python bench/differ.py [OBJECT...]    default: kernel/sched/core.o of a cached, prepared tree

Each object is compared with itself, which walks through everything and includes nothing.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rebootless.diff import diff
from rebootless.elf.reader import read

UNIT = "kernel/sched/core.o"


def object_of_a_tree() -> Path:
    """kernel/sched/core.o of the newest prepared tree, compiled if need be."""
    from rebootless.base.events import NullMonitor
    from rebootless.compile.tree import prepare
    from rebootless.provider.debian import DebianProvider

    provider = DebianProvider()
    cached = [k for k in provider.list(archive=False) if k.release.endswith("-cloud-amd64")]
    if not cached:
        sys.exit("no kernel is cached: run `rebootless demo` first, or give object files")
    tree = prepare(provider.fetch(cached[-1].release), NullMonitor())
    with tree.locked():
        subprocess.run(tree.make_units(UNIT), check=True, stdout=subprocess.DEVNULL)
    return tree.orig / UNIT


def main() -> None:
    """Measures and prints the best of five."""
    for path in [Path(a) for a in sys.argv[1:]] or [object_of_a_tree()]:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            old, new = read(path), read(path)
            middle = time.perf_counter()
            assert diff(old, new).is_empty
            times.append((time.perf_counter() - middle, middle - start))
        compared, reading = min(times)
        print(f"{path.name}: diff {compared:.3f} s, reading both {reading:.3f} s (best of 5)")
    starts = []
    for _ in range(5):
        start = time.perf_counter()
        argv = [sys.executable, "-m", "rebootless", "--help"]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
        starts.append(time.perf_counter() - start)
    print(f"rebootless --help: {min(starts):.3f} s (best of 5)")


if __name__ == "__main__":
    main()
