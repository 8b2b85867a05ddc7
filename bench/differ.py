"""Time of the differ on a large unit, and start-up time of the command.

    python bench/differ.py [OBJECT...]    default: kernel/sched/core.o of a cached, prepared tree
    python bench/differ.py --pairs 40     as many pairs of ordinary size, in all

Each object is compared with itself, which walks through everything and includes nothing. Pairs are
objects that builds left in the cache, the middle ones in size, read and compared one after the
other; a byte of the patched object's largest function is another one, so that this function and all
that it needs is collected as well.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from rebootless.base.fs import cache_root
from rebootless.diff import diff
from rebootless.elf.reader import parse, read

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


def changed(blob: bytes) -> bytes:
    """The object with another byte in its largest function: an instruction's last operand."""
    elf = parse(blob, name="o")
    best = max((s for s in elf.symbols if s.is_function and s.shndx < len(elf.sections)),
               key=lambda s: s.size, default=None)  # fmt: skip
    if best is None or best.size < 8:
        return blob
    relocs = elf.relocations(best.shndx).offset.tolist()
    for at in range(best.value + best.size - 1, best.value, -1):
        if not any(r <= at < r + 8 for r in relocs):
            place = elf.sections[best.shndx].offset + at
            return blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :]
    return blob


def measure_pairs(count: int) -> None:
    """The best of three, in wall time and in CPU time of this process."""
    found = sorted((cache_root() / "trees").glob("*/objects/sections*/**/*.o"))
    middle = sorted({p.name: p for p in found}.values(), key=lambda p: p.stat().st_size)
    first = max(0, (len(middle) - count) // 2)
    chosen = middle[first : first + count]
    if len(chosen) < count:
        sys.exit(f"only {len(chosen)} objects are in the cache: bench/units.py makes some")
    pairs = [(p.read_bytes(), changed(p.read_bytes())) for p in chosen]
    times = []
    for _ in range(3):
        start, cpu = time.perf_counter(), time.process_time()
        functions = 0
        for old, new in pairs:
            delta = diff(parse(old, name="old.o"), parse(new, name="new.o"))
            functions += len(delta.changed)
        times.append((time.perf_counter() - start, time.process_time() - cpu))
    wall, cpu = min(times)
    size = sum(len(old) for old, _ in pairs) / len(pairs) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{count} pairs of {size:.0f} KiB on average, {functions} functions changed: "
          f"{wall:.2f} s, {cpu:.2f} s of CPU (best of 3), peak {peak:.0f} MiB")  # fmt: skip


def main() -> None:
    """Measures and prints the best of five."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("objects", nargs="*", type=Path)
    parser.add_argument("--pairs", type=int, help="measure so many pairs instead")
    options = parser.parse_args()
    if options.pairs:
        measure_pairs(options.pairs)
        return
    for path in options.objects or [object_of_a_tree()]:
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
