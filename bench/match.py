#!/usr/bin/env python3
"""How much of a kernel's units is proven to be what is shipped, and how long the proof takes.

    bench/match.py 6.1.0-55-cloud-amd64                    fetches, prepares, compiles, matches
    bench/match.py --image /boot/vmlinuz-R --modules /lib/modules/R --tree SRC UNIT.o...

A unit is `kernel/sched/core`. With --tree the units must have been compiled there already. The
exit status is 1 unless every function is matched, or absent for a reason.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from rebootless.base import proc
from rebootless.base.events import default_monitor
from rebootless.elf import reader
from rebootless.kernel import image, kallsyms, modules, symbols
from rebootless.match import Shipped, ShippedModule, ShippedVmlinux, Status, match_unit
from rebootless.match.unit import UnitMatch, describe

UNITS = [
    "kernel/sched/core", "mm/memory", "kernel/bpf/verifier", "fs/namei", "fs/ext4/mballoc",
    "io_uring/io_uring", "net/ipv4/tcp", "net/ipv4/udp", "net/netfilter/nf_tables_api",
    "fs/xfs/xfs_inode", "fs/xfs/libxfs/xfs_bmap", "kernel/fork", "mm/page_alloc", "net/core/dev",
]  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    image: Path
    modules: Path | None
    tree: Path


def fetched(release: str, units: list[str]) -> Inputs:
    """Fetches a kernel, prepares its tree and compiles the units, all through the project."""
    from rebootless.compile import tree as trees
    from rebootless.provider.debian import DebianProvider

    monitor = default_monitor()
    files = DebianProvider().fetch(release, monitor)
    tree = trees.prepare(files, monitor)
    with tree.locked():
        proc.run(tree.make_units(*(f"{u}.o" for u in units)))
    return Inputs(files.image, files.modules, tree.orig)


def owner(tree: Path, unit: str) -> str:
    """ "vmlinux", or the module that a compiled unit goes into, by the command it was made with."""
    path = tree / unit
    command = (path.parent / f".{path.name}.o.cmd").read_text()
    found = re.search(r"""-DKBUILD_MODNAME='?"?(\w+)""", command)
    return found[1] if found and re.search(r"-DMODULE\b", command) else "vmlinux"


def counted(result: UnitMatch) -> str:
    """The table cells of one unit."""
    states = Counter(f.status for f in result.functions)
    explained = sum(bool(f.explained) for f in result.functions)
    data = Counter(d.status for d in result.data)
    return (
        f"{len(result.functions):5} {states[Status.MATCHED]:8} {explained:10} "
        f"{states[Status.ABSENT]:7} {len(result.mismatches):9} "
        f"{data[Status.MATCHED]:5} {len(result.data) - data[Status.MATCHED]:4} "
        f"{len(result.proven):7}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", help="a release, or units")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--modules", type=Path)
    parser.add_argument("--tree", type=Path)
    options = parser.parse_args()
    if options.image:
        units = [u.removesuffix(".o").removesuffix(".c") for u in options.what] or UNITS
        inputs = Inputs(options.image, options.modules, options.tree)
    else:
        units = options.what[1:] or UNITS
        inputs = fetched(options.what[0], units)
    start = time.perf_counter()
    kernel = image.load(inputs.image)
    loaded = time.perf_counter()
    vmlinux = ShippedVmlinux(kernel, symbols.SymbolIndex(kallsyms.decode(kernel)))
    ready = time.perf_counter()
    print(f"{kernel.release}  build-id {kernel.build_id}")
    print(f"image {loaded - start:.2f} s, kallsyms {ready - loaded:.2f} s")
    print(f"{'unit':32} {'funcs':>5} {'matched':>8} {'(explained':>10} {'absent':>7} "
          f"{'unmatched':>9} {'data':>5} {'bad':>4} {'proven':>7} {'CPU s':>5}")  # fmt: skip
    failures = report(units, inputs, vmlinux)
    return 1 if failures else 0


def report(units: list[str], inputs: Inputs, vmlinux: ShippedVmlinux) -> int:
    """Matches and prints every unit, then every exception; returns how many are unexplained."""
    views: dict[str, Shipped] = {"vmlinux": vmlinux}
    notes: list[str] = []
    total, matched, failures, seconds = 0, 0, 0, 0.0
    for unit in units:
        module = owner(inputs.tree, unit)
        if module not in views:
            path = modules.find_module(inputs.modules, module) if inputs.modules else None
            if path is None:
                notes.append(f"{unit}: no file of module '{module}'")
                failures += 1
                continue
            views[module] = ShippedModule(modules.load_module(path))
        orig = reader.read(inputs.tree / f"{unit}.o")
        start = time.process_time()  # the machine may be busy with other things
        result = match_unit(orig, views[module])
        elapsed = time.process_time() - start
        label = unit if module == "vmlinux" else f"{unit} ({module})"
        print(f"{label[:32]:32} {counted(result)} {elapsed:5.2f}")
        total += len(result.functions)
        matched += sum(f.status is Status.MATCHED for f in result.functions)
        failures += len(result.mismatches)
        seconds += elapsed
        for function in result.functions:
            if function.status is not Status.MATCHED:
                notes.append(f"{unit}: {function.name}: {function.status}: {describe(function)}")
            elif function.explained:
                notes.append(f"{unit}: {function.name}: {', '.join(function.explained)}")
        notes += [f"{unit}: data {d.name}: {d.reason}" for d in result.data
                  if d.status is not Status.MATCHED]  # fmt: skip
    print(f"{matched} of {total} functions matched in {seconds:.2f} s of CPU")
    print(*notes, sep="\n")
    return failures


if __name__ == "__main__":
    sys.exit(main())
