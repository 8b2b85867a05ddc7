"""Time and memory of `rebootless build`: warm (tree prepared) and, on request, cold.

    python bench/build.py                     the demo's update, 3 warm runs
    python bench/build.py --cold              in an empty cache, everything fetched
    python bench/build.py fix.patch RELEASE   another patch

Each run is a process of its own with a fresh work folder. "ours" is the wall time outside of the
stages that wait for gcc, make and objtool (tree, compile, link); memory is this process's peak,
compilers not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# stages that wait for programs of others: archives, tar, kbuild, gcc, objtool
FOREIGN = ("fetch", "update", "source", "unpack", "prepare", "twin", "tree", "compile", "link")

CHILD = """
import json, resource, sys, time
start = time.monotonic()
from pathlib import Path
import rebootless
result = rebootless.build(
    [Path(sys.argv[1])], kernel=sys.argv[2], name="bench",
    output=Path(sys.argv[3]) / "bench.rlp", workdir=Path(sys.argv[3]) / "work",
)
print(json.dumps({
    "total": time.monotonic() - start,
    "stages": result.seconds,
    "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def measure(patch: Path, release: str, cache: Path | None = None) -> dict[str, object]:
    """Runs one build in a new process; times in seconds."""
    environment = dict(os.environ)
    if cache is not None:
        environment["REBOOTLESS_CACHE"] = str(cache)
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-c", CHILD, str(patch), release, folder]
        done = subprocess.run(argv, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(title: str, found: dict[str, object]) -> None:
    """Prints one run: the stages, then the sums."""
    stages: dict[str, float] = found["stages"]  # type: ignore[assignment]
    total: float = found["total"]  # type: ignore[assignment]
    foreign = sum(s for name, s in stages.items() if name.startswith(FOREIGN))
    ours = f", ours {total - foreign:.2f} s" if foreign < total else ""  # cold stages overlap
    print(f"{title}: {total:.2f} s{ours}, {found['mebibytes']:.0f} MiB")
    print("   " + "  ".join(f"{name} {s:.2f}" for name, s in stages.items()))


def demo_patch(folder: Path) -> tuple[Path, str]:
    """The update that the demo takes, as a patch file, and the kernel it is for."""
    from rebootless.provider.debian import DebianProvider
    from rebootless.provider.updates import find_small_update

    update = find_small_update(DebianProvider(), series="6.1")
    if update is None:
        sys.exit("the archive has no small update now: give a patch and a release")
    path = folder / "update.patch"
    path.write_bytes(update.diff)
    return path, update.release


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("patch", nargs="?", type=Path)
    parser.add_argument("release", nargs="?")
    parser.add_argument("--cold", action="store_true", help="also one run in an empty cache")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.patch and options.release:
            patch, release = options.patch, options.release
        else:
            patch, release = demo_patch(Path(folder))
        print(f"{patch.name} for {release}, {os.cpu_count()} cores")
        if options.cold:
            show("cold", measure(patch, release, Path(folder) / "cache"))
        measure(patch, release)  # prepares the tree, fills the page cache
        for n in range(options.runs):
            show(f"warm {n + 1}", measure(patch, release))


if __name__ == "__main__":
    main()
