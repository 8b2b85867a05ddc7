"""All measurements, one after the other, on the demo's kernel: `make bench` or `python -m bench`.

Results that are worth keeping are in bench/figures.md and bench/figures-match.md.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rebootless.provider.debian import DebianProvider
from rebootless.provider.updates import find_small_update

HERE = Path(__file__).parent


def main() -> int:
    """Runs every benchmark; returns 1 if one failed."""
    debian = DebianProvider()
    update = find_small_update(debian, series="6.1")
    if update is None:
        sys.exit("the archive has no small update now: run the single benchmarks with arguments")
    image = debian.fetch(update.release).image
    failed = 0
    for name, *arguments in (
        ("build.py", "--cold"),
        ("differ.py",),
        ("kallsyms.py", str(image)),
        ("match.py", update.release),
        ("kexec.py",),
    ):
        print(f"== {name}", flush=True)
        failed |= subprocess.run([sys.executable, HERE / name, *arguments], check=False).returncode
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
