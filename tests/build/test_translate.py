"""translate on a real update: through the verb, killed in the middle twice, to a tested bundle."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from rebootless.base.events import NullMonitor
from rebootless.bundle import archive
from rebootless.compile import commands, desk, originals, twin
from rebootless.compile.originals import Variant
from rebootless.compile.tree import Tree
from rebootless.compile.unit import build_originals
from rebootless.provider.updates import SourceUpdate

UNITS = ("fs/proc/version.c", "net/core/net_namespace.c")  # the second one exports symbols


@pytest.mark.parametrize("source", UNITS)
def test_an_original_made_at_a_desk_is_kbuilds_own(stock_tree: Tree, source: str) -> None:
    """The command that make -n tells, run in a desk's twin, gives kbuild's object and record."""
    kbuilds = build_originals(stock_tree, [source], NullMonitor(), variant=Variant())[source]
    recorded = originals.command(stock_tree, source)
    assert recorded is not None
    with desk.taken(stock_tree) as mine:
        assert mine.tree.patched != stock_tree.patched
        commands.ask(stock_tree, [mine.kbuild.membership(source)])
        asked = commands.asked(stock_tree, source)
        assert asked is not None and asked.line == recorded.line
        job = originals.job_of(mine.tree, mine.tree.patched, source, asked, Variant())
        with twin.installed(mine.tree, {}, mine._outputs(source)):
            assert mine._succeeds(job)
            made = (mine.tree.patched / originals.object_path(source)).read_bytes()
            assert mine._versions(source, asked) == recorded.versions
    assert made == kbuilds.read_bytes()
    assert bool(recorded.versions) == (source == UNITS[1])


def test_two_at_one_tree_have_a_desk_each(stock_tree: Tree) -> None:
    with desk.taken(stock_tree) as one:
        first = one.tree.desk
        with desk.taken(stock_tree) as other:
            assert other.tree.desk != first
    with desk.taken(stock_tree) as again:
        assert again.tree.desk == first


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """What a test has started; what still runs at its end is ended, with all it has started."""
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def run(update: SourceUpdate, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """The verb in a process group of its own; what it tells goes to a file."""
    argv = [sys.executable, "-m", "rebootless", "translate", "--from", update.release,
            "--to", update.new_version, "--jobs", "1", "--results", str(folder / "results"),
            "-o", str(folder / "out"), "--json", *more]  # fmt: skip
    with (folder / "out.json").open("wb") as out, (folder / "told").open("wb") as told:
        return subprocess.Popen(argv, stdout=out, stderr=told, start_new_session=True)


def wait_until(what: Callable[[], object], process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 400
    while not what():
        assert process.poll() is None, (folder / "told").read_text()
        assert time.monotonic() < deadline, (folder / "told").read_text()
        time.sleep(0.1)


def kept(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_mtime_ns for p in (folder / "results").glob("??/*.zip")}


def compiling_worker(main: int) -> psutil.Process | None:
    """The worker, a descendant of `main`, that has a compiler running."""
    for process in psutil.Process(main).children(recursive=True):
        try:
            if process.name() == "cc1" and (driver := process.parent()):
                return driver.parent()
        except psutil.NoSuchProcess:
            continue
    return None


def test_killed_twice_and_nothing_built_twice(
    small_update: SourceUpdate, tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    """The whole run is killed after its first result; of the next one, a worker at its work."""
    process = run(small_update, tmp_path, "--no-test")
    started.append(process)
    wait_until(lambda: kept(tmp_path), process, tmp_path)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive, "workers end with the process that has started them"
    before = kept(tmp_path)

    process = run(
        small_update, tmp_path, *(() if shutil.which("qemu-system-x86_64") else ["--no-test"])
    )
    started.append(process)
    found: list[psutil.Process] = []

    def is_working_or_done() -> bool:
        if worker := compiling_worker(process.pid):
            found.append(worker)
        return bool(found) or b"ok " in (tmp_path / "told").read_bytes().splitlines()[-1:]

    wait_until(is_working_or_done, process, tmp_path)
    if found:  # an update of one part has nothing left to do
        assert found[0].pid != process.pid
        found[0].kill()
    assert process.wait(timeout=1800) == 0, (tmp_path / "told").read_text()

    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["known_before"] == len(before) > 0
    after = kept(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == len(facts["results"])
    assert {r["outcome"] for r in facts["results"]} <= {"live-patch", "no-effect", "reboot"}
    assert facts["outcomes"]["live-patch"] > 0 and not facts["excluded"]
    check_bundle(Path(facts["bundle"]), facts["tested_together"], facts)


def check_bundle(path: Path, tested: bool, facts: dict[str, object]) -> None:
    """The bundle is cumulative, has every function, and the log of its test."""
    bundle = archive.read(path)
    assert bundle.manifest.replace
    results = facts["results"]
    assert isinstance(results, list)
    functions = {f["name"] for r in results for f in r["functions"]}
    assert {f.name for _, f in bundle.manifest.functions} == functions
    assert len(bundle.modules) == 1
    if tested:
        assert bundle.test_log is not None and "verdict: passed" in bundle.test_log
