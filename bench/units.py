"""Our own time and memory for a patch of many units, with the compiler's time taken out.

    python bench/units.py [--units 20] [--kernel RELEASE] [--runs 3]

A real change is made at the beginning of one function in each of 20 ordinary units, found in the
source when it runs. The first run compiles; the next ones find every object made (as a build with
the same --workdir does), so that what is left is reading, comparing, proving, checking and writing,
and the link of the module, which is make's. The safety checks run in a thread while make links:
their time overlaps with it. On a busy machine, look at our main thread's CPU time. Memory is this
process's peak, compilers not counted.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from rebootless.base.events import NullMonitor
from rebootless.compile.tree import Tree, prepare
from rebootless.provider.debian import DebianProvider

# Where ordinary code lives; small directories first, so that not all units are of one.
FOLDERS = (
    "fs",
    "kernel",
    "mm",
    "block",
    "net/core",
    "fs/ext4",
    "fs/proc",
    "net/ipv4",
    "ipc",
)
FUNCTION = re.compile(
    r"^(?:static )?(?:int|void|bool|ssize_t|long|unsigned long) (\w+)\([^;{]*\)\n\{\n", re.MULTILINE
)
CONSTANT = re.compile(r"return -E(?:INVAL|NOMEM|PERM|IO|BUSY);")
BODY = re.compile(r"^\}", re.MULTILINE)
SIZES = (8_000, 120_000)  # bytes of source
# Stages that wait for programs of others: kbuild, gcc, objtool, tar.
FOREIGN = ("unpack", "prepare", "twin", "tree", "compile", "link")
CHILD = """
import json, resource, sys, time
start = time.monotonic()
from pathlib import Path
import rebootless
folder = Path(sys.argv[3])
result = rebootless.build([Path(sys.argv[1])], kernel=sys.argv[2], name="bench",
                          output=folder / "bench.rlp", workdir=folder / "work")
print(json.dumps({
    "total": time.monotonic() - start,
    "cpu": time.process_time(),
    "main": time.thread_time(),
    "stages": result.seconds,
    "functions": sum(len(o.functions) for o in result.manifest.objects),
    "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def changed(text: str) -> str | None:
    """The source with another error value in its first large function that returns one."""
    for head in FUNCTION.finditer(text):
        end = BODY.search(text, head.end())
        body = text[head.end() : end.start()] if end else ""
        found = CONSTANT.search(body)
        if found and body.count("\n") > 20 and "__init" not in head.group():
            at = head.end() + found.start()
            return f"{text[:at]}return -ENOTTY;{text[at + len(found.group()) :]}"
    return None


def make_patch(tree: Tree, count: int, target: Path, folders: Sequence[str] = FOLDERS) -> Path:
    """A patch of `count` units of the tree that the kernel itself (no module) consists of."""
    from rebootless.compile.kbuild import Fate, Kbuild

    kbuild, parts, found = Kbuild(tree.orig), [], 0
    every = [sorted((tree.orig / folder).glob("*.c")) for folder in folders]
    for paths in every:
        taken = 0
        for path in paths:
            if found == count or taken == max(2, -(-count // 6)):
                break
            if not SIZES[0] < path.stat().st_size < SIZES[1]:
                continue
            name = str(path.relative_to(tree.orig))
            text = path.read_text(errors="surrogateescape")
            new = changed(text)
            member = kbuild.membership_if_built(name) if new else None
            if new is None or member is None or member.fate is not Fate.BUILTIN:
                continue
            diff = difflib.unified_diff(
                text.splitlines(True), new.splitlines(True), f"a/{name}", f"b/{name}"
            )
            parts.append("".join(diff))
            found, taken = found + 1, taken + 1
    target.write_text("".join(parts), errors="surrogateescape")
    if found < count:
        sys.exit(f"only {found} units to change were found")
    return target


def measure(patch: Path, release: str, folder: Path) -> dict[str, object]:
    """One build in a new process."""
    argv = [sys.executable, "-c", CHILD, str(patch), release, str(folder)]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).resolve().parent.parent / "src"),
        "PYTHONDONTWRITEBYTECODE": "",  # an installed program's modules are compiled
        "PYTHONPYCACHEPREFIX": str(folder / "bytecode"),
    }
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


def show(title: str, found: dict[str, object]) -> None:
    """The stages, the sum of those that are ours, and memory."""
    stages: dict[str, float] = found["stages"]  # type: ignore[assignment]
    total: float = found["total"]  # type: ignore[assignment]
    foreign = sum(s for name, s in stages.items() if name.startswith(FOREIGN))
    print(f"{title}: {total:.2f} s, ours {total - foreign:.2f} s (CPU of our process: "
          f"{found['cpu']:.2f} s, of its main thread {found['main']:.2f} s), "
          f"{found['functions']} functions, {found['mebibytes']:.0f} MiB")  # fmt: skip
    print("   " + "  ".join(f"{name} {s:.2f}" for name, s in stages.items()))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--units", type=int, default=20)
    parser.add_argument("--kernel", help="default: the newest cached cloud kernel of 6.1")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="the work folder, to be used again")
    options = parser.parse_args()
    provider = DebianProvider()
    release = options.kernel
    if release is None:
        cached = [k.release for k in provider.list(archive=False)
                  if re.match(r"6\.1\..*-cloud-amd64$", k.release)]  # fmt: skip
        if not cached:
            sys.exit("no kernel is cached: run `rebootless demo` first, or give --kernel")
        release = cached[-1]
    tree = prepare(provider.fetch(release, NullMonitor()), NullMonitor())
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        patch = make_patch(tree, options.units, folder / "units.patch")
        print(f"{options.units} units of {release}, {os.cpu_count()} cores")
        show("first", measure(patch, release, folder))
        for n in range(options.runs):
            show(f"made before {n + 1}", measure(patch, release, folder))


if __name__ == "__main__":
    main()
