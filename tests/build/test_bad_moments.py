"""Ctrl-C, a full disk and a second build at any moment: nothing half-written, nothing running.

Every command here is a process of its own, with its own TMPDIR.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import ALTERED, Ended, OwnKernel, finish, local_options, start

from rebootless.base.fs import cache_root
from rebootless.bundle import archive
from rebootless.compile import twin
from rebootless.compile.tree import MARKER, Tree
from rebootless.provider.base import KernelFiles

END = "\t\tutsname()->version);\n"
WAIT = 240.0  # seconds, for machines that do other things as well


@dataclass(frozen=True)
class Program:
    """A process, told from a later one of the same number by its start time."""

    pid: int
    parent: int
    session: int
    started: str
    name: str
    words: str


def programs() -> dict[int, Program]:
    """Every process of this machine that is not a zombie."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (entry / "stat").read_text().partition("(")[2].rpartition(")")
            fields = rest.split()
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if fields[0] != "Z":
                pid = int(entry.name)
                found[pid] = Program(
                    pid, int(fields[1]), int(fields[3]), fields[19], name, words.strip()
                )
    return found


def below(pid: int) -> set[Program]:
    """All processes that `pid` started, and those that they started."""
    every = programs()
    found: set[Program] = set()
    wave = {pid}
    while wave:
        level = {p for p in every.values() if p.parent in wave and p not in found}
        found |= level
        wave = {p.pid for p in level}
    return found


def still_running(known: set[Program]) -> set[str]:
    """Which of these, or of what runs in their sessions, is still there.

    What was killed a moment ago gets the time to be gone.
    """
    sessions = {p.session for p in known}
    old = {(p.pid, p.started) for p in known}
    deadline = time.monotonic() + 2
    while True:
        found = {
            p.words or p.name
            for p in programs().values()
            if (p.pid, p.started) in old or p.session in sessions
        }
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def wait_for(process: subprocess.Popen[str], wanted: Callable[[Program], bool]) -> None:
    """Waits until the command runs a program that is `wanted`."""
    deadline = time.monotonic() + WAIT
    while not any(wanted(p) for p in below(process.pid)):
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.003)


def interrupted(process: subprocess.Popen[str], how: signal.Signals = signal.SIGINT) -> Ended:
    """Interrupts a command, and checks how it ends."""
    known = below(process.pid)
    assert known, "it runs a program"
    process.send_signal(how)
    known |= below(process.pid)
    ended = finish(process, timeout=60)
    assert ended.code == 128 + how, ended
    assert ended.err.rstrip().endswith("interrupted, nothing was left half-done")
    assert "Traceback" not in ended.err and ended.out == ""
    assert not still_running({p for p in known if p.session != os.getsid(0)})
    return ended


def calls(name: str, words: str = "") -> Callable[[Program], bool]:
    return lambda p: p.name.startswith(name) and words in p.words


@dataclass(frozen=True)
class Desk:
    """The folder of one test: a patch, where its build goes, and a TMPDIR."""

    folder: Path
    patch: Path
    release: str

    @property
    def output(self) -> Path:
        return self.folder / "out/x.rlp"

    def words(self, *kernel: str | Path, workdir: Path | None = None) -> list[str | Path]:
        chosen = kernel or ("--kernel", self.release)
        workdir = workdir or self.folder / "work"
        words = ["build", self.patch, *chosen, "--name", "rl_moment"]
        return [*words, "--workdir", workdir, "--output", self.output]

    def start(
        self, *words: str | Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        (self.folder / "tmp").mkdir(exist_ok=True)
        own = {"TMPDIR": str(self.folder / "tmp"), **(environment or {})}
        return start(words, environment=own)

    def run(self, *words: str | Path, environment: Mapping[str, str] | None = None) -> Ended:
        return finish(self.start(*words, environment=environment))

    def is_clean(self) -> None:
        """Neither a bundle, nor a part of one, nor a temporary file."""
        assert not any(self.output.parent.iterdir())
        assert not any((self.folder / "tmp").iterdir())
        for stage in (self.folder / "work").glob("[0-9]*"):
            assert (stage / ".complete").exists(), stage


@pytest.fixture
def desk(
    stock_tree: Tree, stock_release: str, edit_patch: Callable[..., Path], tmp_path: Path
) -> Desk:
    (tmp_path / "out").mkdir()
    edits = {ALTERED: (END, f'{END}\tseq_puts(m, "at any moment\\n");\n')}
    patch = edit_patch(stock_tree.orig, edits, tmp_path / "moment.patch")
    return Desk(tmp_path, patch, stock_release)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes small disks of a given size."""
    mounted: list[Path] = []

    def make(size: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
        if subprocess.run(argv, capture_output=True, check=False).returncode != 0:
            pytest.skip("no small disk can be mounted here: a full disk is NOT tested")
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, left: int = 0) -> Path:
    """Takes all room of a disk but `left` bytes; removing the file gives it back."""
    balloon = place / ".balloon"
    with balloon.open("wb") as file:
        while (room := shutil.disk_usage(place).free - left) > 0:
            with contextlib.suppress(OSError):  # someone else was quicker
                os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, room)
    return balloon


def no_tree(cache: Path) -> None:
    """The cache has no part of a source tree."""
    assert [p.name for p in (cache / "trees").glob("[!.]*")] == []


def untouched(tree: Tree) -> None:
    """The twin tree is as it was, and the original's has nothing new."""
    with tree.locked():  # others may build in it
        assert not (tree.root / twin.JOURNAL).exists()
        assert (tree.patched / ALTERED).samefile(tree.orig / ALTERED)
        for top in (tree.orig, tree.patched):
            assert not (top / ALTERED).with_suffix(".o").exists()


# --- Ctrl-C -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(calls("tar"), id="unpack"),
        pytest.param(calls("make", "olddefconfig"), id="configure"),
        pytest.param(calls("cc1", "objtool"), id="prepare"),
    ],
)
def test_interrupted_while_a_tree_is_made(
    desk: Desk, own_kernel: OwnKernel, moment: Callable[[Program], bool]
) -> None:
    """That the next run works is in `test_a_disk_that_fills_up_while_a_tree_is_made`."""
    process = desk.start(*desk.words(*own_kernel.options), environment=own_kernel.environment)
    wait_for(process, moment)
    interrupted(process)
    desk.is_clean()
    no_tree(own_kernel.cache)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "moment",
    [pytest.param(calls("cc1"), id="compile"), pytest.param(calls("make", " M="), id="link")],
)
def test_interrupted_while_building(
    desk: Desk, stock_tree: Tree, moment: Callable[[Program], bool], how: signal.Signals
) -> None:
    process = desk.start(*desk.words())
    wait_for(process, moment)
    interrupted(process, how)
    desk.is_clean()
    untouched(stock_tree)
    ended = desk.run(*desk.words())
    assert ended.code == 0, ended
    assert archive.read(desk.output).manifest.name == "rl_moment"


def test_interrupted_at_any_time(desk: Desk, stock_tree: Tree) -> None:
    """Without waiting for a program: between two of them, while one starts, in Python's own."""
    for delay in (0.35, 0.5, 0.62, 0.74, 0.85, 1.0, 1.2):
        process = desk.start(*desk.words())
        known: set[Program] = set()
        end = time.monotonic() + delay
        while time.monotonic() < end:
            known |= {p for p in below(process.pid) if p.session != os.getsid(0)}
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        ended = finish(process, timeout=60)
        assert ended.code in (0, 130), ended
        assert "Traceback" not in ended.err
        assert not still_running(known)
        untouched(stock_tree)
        if ended.code == 130:
            desk.is_clean()
        shutil.rmtree(desk.folder / "work", ignore_errors=True)
        for made in desk.output.parent.iterdir():
            made.unlink()


@pytest.mark.vm
def test_interrupted_while_testing(desk: Desk, stock_kernel: KernelFiles) -> None:
    assert desk.run(*desk.words()).code == 0
    before = desk.output.read_bytes()
    process = desk.start("test", desk.output, *local_options(stock_kernel))
    wait_for(process, calls("qemu"))
    time.sleep(1.5)
    interrupted(process)
    assert desk.output.read_bytes() == before
    assert not any((desk.folder / "tmp").iterdir())
    quick = ("--no-workload", "--before", "pass")
    ended = desk.run("test", desk.output, *local_options(stock_kernel), *quick)
    assert ended.code == 0 and "passed" in ended.out, ended
    assert archive.read(desk.output).test_log


@pytest.mark.archive
@pytest.mark.parametrize(
    "moment", [pytest.param(calls("apt-"), id="download"), pytest.param(calls("tar"), id="unpack")]
)
def test_interrupted_while_fetching(
    desk: Desk, stock_release: str, moment: Callable[[Program], bool]
) -> None:
    """In a cache of its own that has the package lists only."""
    cache = desk.folder / "cache"
    cache.mkdir()
    shutil.copytree(cache_root() / "apt", cache / "apt")
    environment = {"REBOOTLESS_CACHE": str(cache)}
    process = desk.start("kernels", "fetch", stock_release, environment=environment)
    wait_for(process, moment)
    time.sleep(0.2)
    interrupted(process)
    left = {p.name for folder in ("kernels/*", "sources") for p in cache.glob(f"{folder}/*")}
    assert {name for name in left if not name.endswith(".lock")} <= {"image", "headers"}
    for part in cache.glob("kernels/*/[!.]*"):
        assert (part / ".version").exists(), "what is there is whole"
    ended = desk.run("kernels", "fetch", stock_release, environment=environment)
    assert ended.code == 0, ended


# --- a full disk --------------------------------------------------------------------------


def test_a_disk_that_fills_up_while_a_tree_is_made(
    desk: Desk, own_kernel: OwnKernel, disk: Callable[[str], Path]
) -> None:
    """First unpacking ends, then preparing, then building in the finished tree; then all works."""
    cache = disk("900m")
    (cache / "kallsyms").symlink_to(cache_root() / "kallsyms")
    environment = {"REBOOTLESS_CACHE": str(cache)}
    words = desk.words(*own_kernel.options)

    balloon = fill(cache, left=20 << 20)
    desk.run(*words, environment=environment).refused(14, "space")
    desk.is_clean()
    no_tree(cache)
    balloon.unlink()

    process = desk.start(*words, environment=environment)
    wait_for(process, calls("make", "olddefconfig"))
    balloon = fill(cache)
    finish(process).refused(14, "space")
    desk.is_clean()
    no_tree(cache)
    balloon.unlink()

    process = desk.start(*words, environment=environment)
    wait_for(process, calls("cp"))  # the twin: the last step
    while process.poll() is None and not list(cache.glob(f"trees/*/{MARKER}")):
        time.sleep(0.003)
    balloon = fill(cache)
    finish(process).refused(14, "space")
    (marker,) = cache.glob(f"trees/*/{MARKER}")
    untouched(Tree(desk.release, marker.parent, ""))
    balloon.unlink()

    desk.run(*words, environment=environment).refused(7, "version_proc_show")


def test_a_full_work_folder(desk: Desk, disk: Callable[[str], Path], stock_tree: Tree) -> None:
    """While objects are kept, then while the module is linked; then it goes on from there."""
    place = disk("8m")
    words = desk.words(workdir=place / "work")
    balloon = fill(place, left=16 << 10)
    desk.run(*words).refused(14, "space")
    desk.is_clean()
    untouched(stock_tree)
    assert not any((place / "work").glob("[0-9]*/units.json"))
    balloon.unlink()
    assert desk.run(*words).code == 0
    for made in desk.output.parent.iterdir():
        made.unlink()
    shutil.rmtree(place / "work/4-module", ignore_errors=True)
    balloon = fill(place, left=64 << 10)
    desk.run(*words).refused(14, "space")
    assert not (place / "work/4-module").exists()
    desk.is_clean()
    balloon.unlink()
    assert desk.run(*words).code == 0


def test_a_full_disk_for_temporary_files(
    desk: Desk, disk: Callable[[str], Path], stock_tree: Tree
) -> None:
    place = disk("1m")
    fill(place, left=8 << 10)
    environment = {"TMPDIR": str(place)}
    desk.run(*desk.words(), environment=environment).refused(14, "space")
    desk.is_clean()
    untouched(stock_tree)


def test_a_full_disk_for_the_bundle(desk: Desk, disk: Callable[[str], Path]) -> None:
    place = disk("1m")
    balloon = fill(place)
    words = [*desk.words()[:-1], place / "x.rlp"]
    desk.run(*words).refused(14, "x.rlp", "space")
    assert list(place.iterdir()) == [balloon]
    balloon.unlink()
    assert desk.run(*words).code == 0
    assert archive.read(place / "x.rlp").report


def test_a_full_disk_for_a_fetch(desk: Desk, disk: Callable[[str], Path]) -> None:
    cache = disk("8m")
    environment = {"REBOOTLESS_CACHE": str(cache)}
    ended = desk.run("kernels", "fetch", desk.release, environment=environment)
    ended.refused(14, "8 MiB are free")
    assert not list(cache.glob("kernels/*/[!.]*")) and not list(cache.glob("sources/[!.]*"))


@pytest.mark.parametrize("limit", [512, 20_000])
def test_a_limit_on_the_size_of_files(desk: Desk, stock_tree: Tree, limit: int) -> None:
    """As `ulimit -f` sets it: programs die of SIGXFSZ, Python gets EFBIG."""
    (desk.folder / "tmp").mkdir()

    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = {"TMPDIR": str(desk.folder / "tmp")}
    process = start(desk.words(), environment=environment, before=set_limit)
    finish(process).refused(14)
    desk.is_clean()
    untouched(stock_tree)


# --- two at once --------------------------------------------------------------------------


@pytest.mark.parametrize("same", [False, True], ids=["two-names", "one-name"])
def test_two_builds_at_once(desk: Desk, same: bool) -> None:
    """On one cache; also of one name, in one work folder."""
    outputs = [desk.folder / f"out/{n}.rlp" for n in range(2)]
    started = []
    for number, output in enumerate(outputs):
        work = desk.folder / ("work" if same else f"work{number}")
        words = [*desk.words(workdir=work)[:-1], output]
        started.append(desk.start(*words))
    assert [finish(process).code for process in started] == [0, 0]
    first, second = (archive.read(output) for output in outputs)
    assert first.id == second.id
