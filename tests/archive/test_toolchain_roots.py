"""Toolchain roots out of the distribution's own archive. The root stays in the user's cache."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebootless.base import proc
from rebootless.base.errors import CompileError, NotFoundError, RebootlessError
from rebootless.base.events import NullMonitor
from rebootless.elf.reader import read as read_elf
from rebootless.provider import rootmaking, toolroots
from rebootless.provider.apt import AptArchive
from rebootless.provider.packages import DebVersion
from rebootless.provider.toolchain import Toolchain, find_compiler

pytestmark = pytest.mark.archive
QUIET = NullMonitor()


@pytest.fixture(scope="module")
def wanted() -> str:
    """The version line of the newest compiler in the suite "stable"."""
    archive = AptArchive(toolroots.folder() / ".apt")
    try:
        toolroots.check_enter()
        archive.add_suite("stable", QUIET)
        codename = archive.codename("stable")
        found = [
            p
            for p in archive.compilers(QUIET)
            if archive.codename(p.suite) == codename and "-security" not in p.suite
        ]
    except RebootlessError as exc:
        pytest.skip(f"no toolchain root can be made, so NOTHING of them is tested: {exc.message}")
    newest = max(found, key=lambda p: int(p.name.removeprefix("gcc-")))
    upstream = DebVersion(newest.version).upstream
    return f"{newest.name} (Debian {newest.version}) {upstream}"


@pytest.fixture(scope="module")
def toolchain(wanted: str) -> Toolchain:
    """That compiler in a root, also on a machine that has it."""
    return rootmaking.new_root(wanted, QUIET, suite="stable").toolchain(wanted)


@pytest.fixture
def lists(tmp_path: Path, wanted: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own that has package lists and no root."""
    cache = tmp_path / "cache"
    shutil.copytree(toolroots.folder() / ".apt", cache / "toolchains/.apt")
    monkeypatch.setenv("REBOOTLESS_CACHE", str(cache))
    yield cache


def test_programs_of_the_root_work_on_files_of_this_machine(
    wanted: str, toolchain: Toolchain, tmp_path: Path
) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    (tmp_path / "x.c").write_text("int x(void) { return 1; }\n")
    proc.run(toolchain.inside([toolchain.program, "-c", "x.c"]), cwd=tmp_path)
    comment = next(s for s in read_elf(tmp_path / "x.o").sections if s.name == ".comment")
    assert wanted.partition("(")[2].encode() in bytes(comment.data)

    # a host program runs with the C library that it was linked with
    (tmp_path / "y.c").write_text(
        "#include <gelf.h>\n#include <openssl/evp.h>\nint main(void) { return 3; }\n"
    )
    proc.run(toolchain.inside(["gcc", "-o", "y", "y.c"]), cwd=tmp_path)
    assert proc.run(toolchain.inside([tmp_path / "y"]), check=False).returncode == 3

    script = "touch /usr/x 2>/dev/null || echo read-only; id -u; pwd; echo | awk '{print \"awk\"}'"
    said = proc.run(toolchain.inside(["sh", "-c", script]), cwd=tmp_path).stdout.split()
    assert said == ["read-only", str(os.geteuid()), str(tmp_path), "awk"]
    assert Path("/proc/self/mounts").read_text() == mounts


def test_what_runs_in_the_root_ends_in_good_order(toolchain: Toolchain, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("out:\n\techo half > out; echo $$$$ > pid; sleep 600\n")
    process = proc.spawn(toolchain.inside(["make", "-s", "-C", tmp_path, "out"]))
    pid = tmp_path / "pid"
    deadline = time.monotonic() + 60
    while not (pid.exists() and pid.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    proc.kill_group(process)
    assert not (tmp_path / "out").exists()  # make itself took it away
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_a_compiler_of_this_machine_stays_where_it_is() -> None:
    path = shutil.which("gcc")
    if path is None:
        pytest.skip("no gcc is installed here")
    text = proc.run([path, "--version"]).stdout.splitlines()[0]
    assert rootmaking.obtain(text, QUIET) == find_compiler(text)


def test_a_root_that_is_there_needs_no_archive(
    wanted: str, toolchain: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path(toolchain.enter[0]).parent
    (tmp_path / "toolchains").mkdir()
    (tmp_path / "toolchains" / made.name).symlink_to(made)
    monkeypatch.setenv("REBOOTLESS_CACHE", str(tmp_path))
    assert rootmaking.new_root(wanted, QUIET).toolchain(wanted).exact
    assert not (tmp_path / "apt").exists()


def test_an_interrupt_leaves_nothing(wanted: str, lists: Path) -> None:
    program = "import sys; from rebootless.__main__ import main; sys.exit(main(sys.argv[1:]))"
    words = ["toolchain", "make", "--compiler", wanted, "--from", "stable"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list((lists / "toolchains").glob(".*.filling/root/var")):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"no root was begun: {process.communicate()[0]}")
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    left = {p.name for p in (lists / "toolchains").iterdir() if not p.name.endswith(".lock")}
    assert left == {".apt"}


def test_what_cannot_be_had_is_told(
    wanted: str, lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = wanted.split()[0]
    with pytest.raises(CompileError, match=r"no suite has that version") as caught:
        rootmaking.new_root(f"{program} (Debian 1.2.3-4) 1.2.3", QUIET, suite="stable")
    assert caught.value.hint is not None and wanted.split()[2].rstrip(")") in caught.value.hint
    with pytest.raises(CompileError, match="is no gcc"):
        rootmaking.new_root("Debian clang version 19.1.7", QUIET)
    with pytest.raises(NotFoundError, match="nosuch"):
        rootmaking.new_root(wanted, QUIET, suite="nosuch")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotFoundError) as missing:
        rootmaking.new_root(wanted, QUIET, suite="stable")
    assert missing.value.hint == "apt install mmdebstrap bubblewrap"
