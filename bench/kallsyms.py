#!/usr/bin/env python3
"""How long the symbol table of a kernel image takes to decode: bench/kallsyms.py VMLINUZ..."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from rebootless.kernel import image, kallsyms, symbols

ROUNDS = 5


def main() -> int:
    print(f"{'release':34} {'symbols':>8} {'image':>7} {'decode':>7} {'cached':>7} {'index':>7}  s")
    for name in sys.argv[1:]:
        clock = time.perf_counter
        start = clock()
        kernel = image.load(Path(name))
        loading = clock() - start
        best = []
        for _ in range(ROUNDS):
            start = clock()
            table = kallsyms.decode(kernel)
            best.append(clock() - start)
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder) / "kallsyms.npz"
            kallsyms.load_or_decode(kernel, cache)
            start = clock()
            kallsyms.load_or_decode(kernel, cache)
            cached = clock() - start
        start = clock()
        symbols.SymbolIndex(table).addresses("schedule")
        index = clock() - start
        print(f"{kernel.release:34} {len(table):8} {loading:7.3f} {min(best):7.3f} "
              f"{cached:7.3f} {index:7.3f}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
