"""Files that are whole or absent, whatever interrupts the writer: real full disks, real locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebootless.base import fs
from rebootless.base.errors import NotFoundError, ResourceError

PACKAGE_ROOT = str(Path(fs.__file__).parents[2])


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """Every write past `size` bytes of a file fails with a real OSError from the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def in_other_process(code: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, *map(str, args)],
        env={**os.environ, "PYTHONPATH": PACKAGE_ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_atomic_write_makes_directories_and_sets_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    fs.atomic_write(path, "text\n", mode=0o600)
    assert path.read_text() == "text\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fs.atomic_write(path, b"old")
    with files_limited_to(100), pytest.raises(ResourceError) as info:
        fs.atomic_write(path, b"x" * 1000)
    assert isinstance(info.value.__cause__, OSError)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_and_nothing_stays(tiny_disk: Path) -> None:
    path = tiny_disk / "file"
    fs.atomic_write(path, b"old")
    with pytest.raises(ResourceError, match="No space left") as info:
        fs.atomic_write(path, b"x" * 200_000)
    assert info.value.hint is not None
    assert "free some space" in info.value.hint
    assert path.read_bytes() == b"old"
    assert list(tiny_disk.iterdir()) == [path]


def test_a_full_disk_while_filling_a_directory(tiny_disk: Path) -> None:
    with (
        pytest.raises(ResourceError, match="No space left"),
        fs.filling_directory(tiny_disk / "tree") as aside,
    ):
        (aside / "big").write_bytes(b"x" * 200_000)
    assert list(tiny_disk.iterdir()) == []


def test_filling_replaces_the_old_directory_at_the_end_only(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "old").touch()
    with fs.filling_directory(tree) as aside:
        (aside / "new").touch()
        assert [p.name for p in tree.iterdir()] == ["old"]
    assert [p.name for p in tree.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["tree"]


def test_an_exception_while_filling_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), fs.filling_directory(tmp_path / "tree") as aside:
        (aside / "half").touch()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


FILL = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
from pathlib import Path
from rebootless.base.fs import filling_directory
with filling_directory(Path(sys.argv[1])) as aside:
    (aside / "half").write_text("x")
    print("filling")
    time.sleep(60)
"""


def test_ctrl_c_while_filling_leaves_nothing(tmp_path: Path) -> None:
    child = in_other_process(FILL, tmp_path / "tree")
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "filling\n"
        child.send_signal(signal.SIGINT)
        child.wait(20)
    assert child.returncode == -signal.SIGINT
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_swept_by_the_next(tmp_path: Path) -> None:
    child = in_other_process(FILL, tmp_path / "tree")
    with child:
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
    assert [p.name for p in tmp_path.iterdir()] == [".tree.filling"]
    with fs.filling_directory(tmp_path / "tree") as aside:
        assert list(aside.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["tree"]


HOLD = """
import sys
from pathlib import Path
from rebootless.base.fs import locked
with locked(Path(sys.argv[1])):
    print("held")
    sys.stdin.readline()
"""


def test_a_lock_keeps_a_second_process_out_until_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    told: list[str] = []
    with in_other_process(HOLD, path) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ResourceError, match="another process") as info,
            fs.locked(path, timeout=0.2, waiting=lambda: told.append("waits")),
        ):
            pass
        assert info.value.hint and told == ["waits"], "once, however often it looks"
        holder.stdin.write("\n")
        holder.stdin.flush()
        with fs.locked(path, timeout=10):
            pass
    with fs.locked(path, waiting=lambda: told.append("nobody holds it")):
        assert told == ["waits"]


def test_a_dead_owner_does_not_hold_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with in_other_process(HOLD, path) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
        holder.wait()
        start = time.monotonic()
        with fs.locked(path, timeout=10):
            assert time.monotonic() - start < 5


COUNT = """
import sys
from pathlib import Path
from rebootless.base.fs import locked
counter = Path(sys.argv[2])
for _ in range(50):
    with locked(Path(sys.argv[1]), timeout=60):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def test_two_processes_lose_no_update_under_the_lock(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    both = [in_other_process(COUNT, tmp_path / "lock", counter) for _ in range(2)]
    for child in both:
        child.communicate(timeout=60)
    assert counter.read_text() == "100"


def test_the_lock_is_not_inherited_by_programs(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with fs.locked(path):
        sleeper = subprocess.Popen(["sleep", "30"], close_fds=False)
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        sleeper.kill()
        sleeper.wait()


def test_missing_files_are_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="none"):
        fs.read_bytes(tmp_path / "none")
    with pytest.raises(NotFoundError):
        fs.sha256_file(tmp_path / "none")


@pytest.mark.parametrize(
    ("number", "kind", "has_hint"),
    [
        (errno.ENOSPC, ResourceError, True),
        (errno.EDQUOT, ResourceError, True),
        (errno.EACCES, ResourceError, True),
        (errno.ENOENT, NotFoundError, True),
        (errno.EIO, ResourceError, False),
    ],
)
def test_os_errors_are_told_apart(number: int, kind: type[Exception], has_hint: bool) -> None:
    error = fs.os_failure("write", Path("/x"), OSError(number, os.strerror(number)))
    assert type(error) is kind
    assert (error.hint is not None) == has_hint
    assert "/x" in error.message


def test_the_cache_follows_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    monkeypatch.delenv("REBOOTLESS_CACHE", raising=False)
    assert fs.cache_root() == Path("/x/cache/rebootless")
    monkeypatch.setenv("REBOOTLESS_CACHE", "/y")
    assert fs.cache_root() == Path("/y")


def test_a_user_without_a_home_has_the_cache_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REBOOTLESS_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda _uid: {}["no account"])
    assert fs.cache_root() == Path("/var/cache/rebootless")


def test_remove_tree_does_not_follow_links(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    link = tmp_path / "link"
    link.symlink_to(kept)
    fs.remove_tree(link)
    assert not link.is_symlink()
    assert (kept / "file").exists()
    fs.remove_tree(tmp_path / "none")
