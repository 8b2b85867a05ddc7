"""The engines side by side in one guest: time to converge, time stopped, cost of a call.

    python bench/engines.py [--kernel RELEASE] [--runs 5] [--tasks 60,550] [--stuck 500]
                            [--plot FILE] [--json FILE]

Mainline livepatch as it is, the same driven by the core module, and the two engines of our own
patch the same functions of a module of ours (bench/modules). Times are the guest kernel's: its log
for mainline, the core's clocks for its engines. QEMU emulates every instruction, so compare ratios.

One process computes all the time: with every other task asleep mainline's first try is sometimes
enough, which no real machine has.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from rebootless.base.events import NullMonitor
from rebootless.base.proc import run
from rebootless.compile.core import Headers, build_core
from rebootless.compile.tree import prepare
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.vm import Vm, VmConfig
from rebootless.provider.debian import DebianProvider

HERE = Path(__file__).resolve().parent
MODULES = ("bench_target", "bench_quick", "bench_stuck")
CORE = "rebootless_core"
KLP = "/sys/kernel/livepatch"
OURS = "/sys/kernel/rebootless"
STAMP = re.compile(r"\[\s*(\d+\.\d+)\] livepatch: '(\w+)': (starting )?(un)?patching (\w+)")
PATIENCE = 90  # seconds: plain mainline signals after 15 s


@dataclass(frozen=True)
class Way:
    """One way to put the patch in force: the engine, whether mainline is driven, its colour."""

    name: str
    engine: str
    driven: bool = False
    colour: str = "#888888"

    @property
    def is_ours(self) -> bool:
        """Whether the core module applies it."""
        return self.engine != "livepatch"

    def folder(self, patch: str) -> str:
        """Where sysfs has the patch."""
        return f"{OURS}/patches/{patch}" if self.is_ours else f"{KLP}/{patch}"


WAYS = (
    Way("mainline livepatch", "livepatch", colour="#9aa0a6"),
    Way("livepatch, driven", "livepatch", driven=True, colour="#1a73e8"),
    Way("per-task", "per-task", colour="#188038"),
    Way("atomic", "atomic", colour="#d93025"),
)


@dataclass
class Row:
    """What was measured of one way; times in milliseconds, medians of the runs."""

    way: str
    apply_ms: dict[int, float] = field(default_factory=dict)  # by number of tasks
    undo_ms: dict[int, float] = field(default_factory=dict)
    stop_us: dict[int, float] = field(default_factory=dict)
    stuck_ms: float | None = None
    call_ns: float | None = None


class NotInForceError(Exception):
    """The engine gave up; the message is the kernel's log."""


class Bench:
    """One booted guest with the modules in it."""

    def __init__(self, guest: Guest, runs: int) -> None:
        self.guest, self.runs = guest, runs
        self.guest.check(f"insmod /lab/{CORE}.ko && insmod /lab/bench_target.ko")

    def tasks(self) -> int:
        """How many tasks there are, threads included."""
        return int(self.guest.check("ls -d /proc/[0-9]*/task/[0-9]* 2>/dev/null | wc -l"))

    def sleepers(self, total: int) -> None:
        """Starts sleeping processes until there are about `total` tasks."""
        missing = total - self.tasks()
        if missing > 0:
            self._start(missing, "sleep 100000")

    def computes(self) -> None:
        """Starts a process that never sleeps."""
        self.guest.background("while :; do :; done")

    def stuck(self, count: int) -> None:
        """Starts readers that sleep in the function that the patch changes."""
        self._start(count, "cat /proc/bench_sleep")

    def _start(self, count: int, command: str) -> None:
        loop = f"n=0; while [ $n -lt {count} ]; do {command} & n=$((n+1)); done; wait"
        self.guest.background(loop)
        self.guest.check(
            f"while [ $(pidof {command.split()[0]} | wc -w) -lt {count} ]; do sleep 0.5; done",
            timeout=300,
        )
        self.guest.run("sleep 2")

    def clear(self) -> None:
        """Ends what `sleepers` and `stuck` started."""
        self.guest.run("killall -9 sleep cat; sleep 1")

    def apply(self, way: Way, patch: str, *, signal: bool = False) -> tuple[float, dict[str, int]]:
        """Loads the patch and waits: (milliseconds to the transition's end, the core's stats)."""
        load = f"insmod /lab/{patch}.ko engine={way.engine} driven={way.driven:d}"
        return self._transition(way, patch, load + self._push(way, patch, signal))

    def undo(self, way: Way, patch: str, *, signal: bool = False) -> float:
        """The same for taking it off; its module is removed."""
        off = f"echo 0 >{way.folder(patch)}/enabled"
        if way.driven:
            off += f" && echo 1 >{OURS}/livepatch/drive"
        moved, _ = self._transition(way, patch, off + self._push(way, patch, signal), undo=True)
        self.guest.check(f"for n in 1 2 3 4 5 6 7 8 9; do rmmod {patch} && break; sleep 0.2; done")
        return moved

    def _push(self, way: Way, patch: str, signal: bool) -> str:
        if not signal or not (way.driven or way.is_ours):
            return ""
        folder = way.folder(patch) if way.is_ours else f"{OURS}/livepatch"
        return f"; echo 1 >{folder}/signal; true"

    def _transition(
        self, way: Way, patch: str, command: str, *, undo: bool = False
    ) -> tuple[float, dict[str, int]]:
        folder = way.folder(patch)
        keep = f"cat {folder}/stats >/run/now 2>/dev/null && mv /run/now /run/stats;"
        self.guest.check(
            f"dmesg -c >/dev/null; rm -f /run/stats; {command}; {keep} "
            f"while [ -e {folder} ] && [ $(cat {folder}/transition) = 1 ]; do "
            f"sleep 0.05; {keep} done; {keep} true",
            timeout=PATIENCE,
        )
        self.guest.run("sleep 0.2")
        log = self.guest.check("dmesg")
        if not undo and self.guest.run(f"grep -q 1 {folder}/enabled").status:
            raise NotInForceError(log)
        if not way.is_ours:
            return _by_log(log, patch, undo=undo), {}
        if undo:
            return _by_core_log(log, patch), {}
        text = self.guest.check("cat /run/stats")
        stats = {key: int(value) for key, value in (line.split() for line in text.splitlines())}
        return stats["elapsed_ns"] / 1e6, stats

    def call_ns(self) -> float:
        """Nanoseconds per call of the function that the patch changes: the least of some reads."""
        reads = [int(self.guest.check("cat /proc/bench_calls")) for _ in range(self.runs)]
        return min(reads) / 1e6


def _by_log(log: str, patch: str, *, undo: bool) -> float:
    """Milliseconds between the two lines that mainline writes about a transition."""
    times = [
        float(found[1])
        for found in STAMP.finditer(log)
        if found[2] == patch and bool(found[4]) == undo
    ]
    if len(times) < 2:
        sys.exit(f"the kernel's log does not tell of {patch}'s transition:\n{log}")
    return (times[-1] - times[0]) * 1000


def _by_core_log(log: str, patch: str) -> float:
    """The same for the core's own lines."""
    times = [
        float(line.partition("]")[0].lstrip("["))
        for line in log.splitlines()
        if f"rebootless: '{patch}':" in line
    ]
    return (times[-1] - times[0]) * 1000 if len(times) > 1 else 0.0


def measure(bench: Bench, counts: list[int], stuck: int) -> tuple[list[Row], float]:
    """Every figure of every way, and the cost of a call without any patch."""
    rows = [Row(way.name) for way in WAYS]
    bare = bench.call_ns()
    for way, row in zip(WAYS, rows, strict=True):
        bench.apply(way, "bench_quick")
        row.call_ns = bench.call_ns()
        bench.undo(way, "bench_quick")
    bench.computes()
    for count in counts:
        bench.sleepers(count)
        print(f"{bench.tasks()} tasks", flush=True)
        for way, row in zip(WAYS, rows, strict=True):
            applied, undone, stops = [], [], []
            for _ in range(bench.runs):
                milliseconds, stats = bench.apply(way, "bench_quick")
                applied.append(milliseconds)
                if way.engine == "atomic":
                    stops.append(stats["stop_ns"] / 1000)
                undone.append(bench.undo(way, "bench_quick"))
            row.apply_ms[count] = statistics.median(applied)
            row.undo_ms[count] = statistics.median(undone)
            if stops:
                row.stop_us[count] = statistics.median(stops)
            print(
                f"  {way.name}: {row.apply_ms[count]:.2f} ms",
                row.stop_us.get(count, ""),
                flush=True,
            )
    bench.clear()
    bench.stuck(stuck)
    print(f"{stuck} tasks asleep in the patched function, signals at once", flush=True)
    for way, row in zip(WAYS, rows, strict=True):
        times = []
        try:
            for _ in range(1 if way is WAYS[0] else bench.runs):
                times.append(bench.apply(way, "bench_stuck", signal=True)[0])
                bench.undo(way, "bench_stuck", signal=True)
        except NotInForceError:
            print(f"  {way.name}: gives up", flush=True)
            continue
        row.stuck_ms = statistics.median(times)
        print(f"  {way.name}: {row.stuck_ms:.1f} ms", flush=True)
    return rows, bare


def table(rows: list[Row], counts: list[int], stuck: int, bare: float) -> str:
    """The figures as Markdown."""
    heads = [f"to the end, {n} tasks" for n in counts] + [f"{stuck} stuck, signalled"]
    heads += [f"stop, {n} tasks" for n in counts] + ["a call"]
    lines = ["| engine | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for row in rows:
        cells = [f"{row.apply_ms[n]:.1f} ms" for n in counts]
        cells.append("gives up" if row.stuck_ms is None else f"{row.stuck_ms:.0f} ms")
        cells += [
            f"{row.stop_us[n]:.0f} µs" if n in row.stop_us else "nothing stops" for n in counts
        ]
        cells.append(f"{row.call_ns:.0f} ns")
        lines.append(f"| {row.way} | " + " | ".join(cells) + " |")
    lines.append(f"\nA call of the function that is not patched: {bare:.1f} ns.")
    return "\n".join(lines)


def plot(rows: list[Row], counts: list[int], stuck: int, target: Path) -> None:
    """The same as a picture: one panel for what one compares, times on a logarithmic scale."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "rebootless"
    from matplotlib import pyplot

    most = max(counts)
    panels: list[tuple[str, str, Callable[[Row], float | None]]] = [
        (f"until a patch is undone, {most} tasks", "ms", lambda r: r.undo_ms[most]),
        (f"{stuck} tasks stuck in the function", "ms", lambda r: r.stuck_ms),
        (f"the machine stops, {most} tasks", "µs", lambda r: r.stop_us.get(most)),
        ("a call of the patched function", "ns", lambda r: r.call_ns),
    ]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(13, 2.6), layout="constrained")
    for axis, (title, unit, value) in zip(axes, panels, strict=True):
        values = [value(row) or 0 for row in rows]
        bars = axis.barh([r.way for r in rows], values, color=[w.colour for w in WAYS])
        labels = [f"{v:,.{0 if v >= 100 else 1}f} {unit}" if v else "none" for v in values]
        axis.bar_label(bars, labels, padding=4, fontsize=8)
        axis.set_title(title, fontsize=9)
        if max(values) > 50 * min((v for v in values if v), default=1):
            axis.set_xscale("log")
        axis.margins(x=0.35)
        axis.invert_yaxis()
        axis.spines[["top", "right", "bottom"]].set_visible(False)
        axis.set_xticks([], minor=False)
        axis.set_xticks([], minor=True)
        if axis is not axes[0]:
            axis.set_yticks([])
    figure.savefig(target, metadata={"Date": None}, transparent=False, facecolor="white")


def main() -> int:
    """Builds the modules, boots the guest, measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernel", help="a release (default: the newest 6.1 cloud kernel)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tasks", default="60,550")
    parser.add_argument("--stuck", type=int, default=500)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--plot", type=Path, help="write a picture (SVG)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    counts = [int(n) for n in options.tasks.split(",")]
    monitor = NullMonitor()
    provider = DebianProvider()
    files = provider.fetch(options.kernel or _newest(provider), monitor)
    tree = prepare(files, monitor)
    with tempfile.TemporaryDirectory(prefix="rebootless-bench-") as scratch:
        folder = Path(scratch) / "modules"
        shutil.copytree(HERE / "modules", folder)
        headers = HERE.parent / "src/rebootless/kmod"
        with tree.locked(monitor):
            run(tree.make(f"M={folder}", f"KCFLAGS=-I{headers}", "-s", "modules"), timeout=300)
            core = build_core(Headers.of_tree(tree), monitor).path.read_bytes()
        blobs = {name: (folder / f"{name}.ko").read_bytes() for name in MODULES} | {CORE: core}
        image = GuestImage(files={f"/lab/{name}.ko": (b, 0o644) for name, b in blobs.items()})
        config = VmConfig(files.image, memory_mib=1024, cpus=options.cpus)
        with Vm(config, image, Path(scratch) / "console.log") as vm:
            rows, bare = measure(Bench(Guest(vm), options.runs), counts, options.stuck)
    print(f"\n{files.release}, {options.cpus} CPUs, medians of {options.runs} runs\n")
    print(table(rows, counts, options.stuck, bare))
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if options.plot:
        plot(rows, counts, options.stuck, options.plot)
    return 0


def _newest(provider: DebianProvider) -> str:
    names = [k.release for k in provider.list() if "-cloud-amd64" in k.release]
    found = [name for name in names if name.startswith("6.1.")]
    if not found:
        sys.exit("no 6.1 cloud kernel in the package sources: name one with --kernel")
    return max(found, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])


if __name__ == "__main__":
    sys.exit(main())
