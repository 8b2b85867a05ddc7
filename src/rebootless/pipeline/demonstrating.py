"""The whole way on real input: an update from the archive, or a patch of our own, live in QEMU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from ..base.errors import NotFoundError, ResourceError
from ..base.events import Monitor, Note, NullMonitor, RecordingMonitor, Warned, stage
from ..base.fs import atomic_write
from ..base.proc import run as run_program
from ..base.proc import which
from ..bundle import archive
from ..engine.base import AUTO
from ..kernel.release import parse_release
from ..lab.report import TestReport
from ..provider.base import KernelInfo, KernelState
from ..provider.debian import DebianProvider
from ..provider.updates import SourceUpdate, find_small_update
from .artifact import BuildResult
from .building import build
from .kernel import find, provider
from .testing import run_and_record, scenario_of

FLAVOUR = "cloud-amd64"
SERIES = "6.1"
OWN_PATCH = "proc_version.patch"
OWN_CHECK = "grep 'Patched live' /proc/version\n"
# A file system on a loop device: what a patch of ext4 is run through, in all three states.
EXT4_IMAGE = "/lab/ext4.img"
EXT4_CHECK = f"""\
set -e
mkdir -p /tmp/ext4
mount -t ext4 -o loop {EXT4_IMAGE} /tmp/ext4
trap 'umount /tmp/ext4' EXIT
for i in 1 2 3 4 5 6; do dd if=/dev/zero of=/tmp/ext4/$i bs=64k count=16 2>/dev/null; done
sync
rm /tmp/ext4/[0-9]
"""


@dataclass(frozen=True)
class DemoPatch:
    """What the demo applies, and how it shows that it works."""

    title: str
    path: Path
    release: str
    name: str
    check: str
    fails_without: bool
    modules: tuple[str, ...] = ()
    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class DemoResult:
    """The outcome, and where everything lies."""

    title: str
    kernel: str
    patch: Path
    build: BuildResult
    test: TestReport
    report: Path

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "title": self.title,
            "kernel": self.kernel,
            "patch": str(self.patch),
            "build": self.build.to_json(),
            "test": asdict(self.test),
            "bundle": str(self.build.bundle_path),
            "report_json": str(self.build.report_path),
            "report_text": str(self.report),
        }


def demo(
    *,
    folder: Path = Path("out/demo"),
    own: bool = False,
    engine: str = AUTO,
    monitor: Monitor | None = None,
) -> DemoResult:
    """Builds a live patch of a real update for the stock kernel before it, and tries it in QEMU.

    The update is the newest in the archive whose difference is small; when there is none, or with
    `own`, a patch of ours that shows in /proc/version. Everything is written to `folder`. Raises
    what `build` raises, and TestFailedError.
    """
    recorder = RecordingMonitor(monitor or NullMonitor())
    debian = provider((), recorder)
    chosen = None if own else _update(debian, folder, recorder)
    chosen = chosen or _own(debian, folder, recorder)
    recorder.emit(Note(f"{chosen.title}, for the kernel {chosen.release}"))
    built = build(
        [chosen.path],
        kernel=chosen.release,
        name=chosen.name,
        output=folder / f"{chosen.name}{archive.SUFFIX}",
        monitor=recorder,
    )
    report = _try(built, chosen, engine, recorder)
    text = folder / f"{chosen.name}.report.txt"
    atomic_write(text, _text(chosen, built, report))
    return DemoResult(chosen.title, chosen.release, chosen.path, built, report.require(), text)


def _update(debian: DebianProvider, folder: Path, monitor: Monitor) -> DemoPatch | None:
    """The newest small update as a patch file; None when the archive has none."""
    try:
        with stage(monitor, "update", "Looking for a small security update in the archive") as s:
            update = find_small_update(debian, FLAVOUR, SERIES, accept=_is_code, monitor=monitor)
            s.result = f"{update.old_version} -> {update.new_version}" if update else "none"
    except (NotFoundError, ResourceError) as exc:
        monitor.emit(Warned(f"no update could be looked for: {exc.message}"))
        return None
    if update is None:
        return None
    path = folder / "update.patch"
    atomic_write(path, update.diff)
    version = "".join(c if c.isalnum() else "_" for c in update.new_version)
    ext4 = any(f.startswith("fs/ext4/") for f in update.files)
    return DemoPatch(
        f"Debian's update {update.old_version} -> {update.new_version} ({', '.join(update.files)})",
        path,
        update.release,
        f"update_{version}",
        EXT4_CHECK if ext4 else "",
        fails_without=False,
        modules=("loop",) if ext4 else (),
        files={EXT4_IMAGE: (ext4_image(), 0o600)} if ext4 else {},
    )


def ext4_image(mebibytes: int = 16) -> bytes:
    """An empty ext4 file system, made by this machine's mke2fs."""
    program = which("mke2fs", hint="install e2fsprogs")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ext4.img"
        run_program([program, "-q", "-t", "ext4", path, f"{mebibytes}M"])
        return path.read_bytes()


def _is_code(update: SourceUpdate) -> bool:
    return any(f.endswith((".c", ".h")) and not f.startswith("tools/") for f in update.files)


def _own(debian: DebianProvider, folder: Path, monitor: Monitor) -> DemoPatch:
    """Our own patch, for the kernel that suits best. Raises NotFoundError."""
    kernel = best_kernel(debian.list(monitor))
    if kernel is None:
        raise NotFoundError(
            f"neither the archive nor the cache has a kernel {SERIES} {FLAVOUR}",
            hint="check the machine's apt sources and network",
        )
    path = folder / OWN_PATCH
    atomic_write(path, (resources.files("rebootless") / "examples" / OWN_PATCH).read_bytes())
    return DemoPatch(
        "A line of our own in /proc/version",
        path,
        kernel.release,
        "proc_version",
        OWN_CHECK,
        fails_without=True,
    )


def best_kernel(kernels: Iterable[KernelInfo]) -> KernelInfo | None:
    """The newest (last) kernel of the demo's series and flavour, one in the cache before others."""
    suited = [
        k
        for k in kernels
        if k.buildable
        and k.release.startswith(f"{SERIES}.")  # 6.12 is no 6.1
        and parse_release(k.release).flavour == FLAVOUR
    ]
    cached = [k for k in suited if KernelState.CACHED in k.states]
    return next(reversed(cached or suited), None)


def _try(built: BuildResult, chosen: DemoPatch, engine: str, monitor: Monitor) -> TestReport:
    content = archive.read(built.bundle_path)
    files = find(chosen.release, monitor=monitor)
    scenario = scenario_of(
        content,
        files,
        check=chosen.check,
        fails_without=chosen.fails_without,
        engine=engine,
        extra_modules=chosen.modules,
        extra_files=chosen.files,
    )
    return run_and_record(scenario, built.bundle_path, content, monitor)


def _text(chosen: DemoPatch, built: BuildResult, report: TestReport) -> str:
    """The report for people: what was built, in which time, and what the test saw."""
    lines = [chosen.title, f"kernel {chosen.release}", "", "functions patched:"]
    lines += [
        f"  {name}:{f.name}  {f.size_old} -> {f.size_new} bytes"
        for name, f in built.manifest.functions
    ]
    lines += ["", "build:"]
    lines += [f"  {seconds:6.1f} s  {name}" for name, seconds in built.seconds.items()]
    lines += ["", "test in QEMU:"]
    lines += [f"  {line}" for line in report.text().splitlines()]
    lines += [f"states seen: {' | '.join(report.states)}"]
    lines += [f"redirected: {', '.join(report.redirected)}", f"text restored: {report.restored}"]
    return "\n".join(lines) + "\n"
