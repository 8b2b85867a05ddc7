"""Files that are whole or absent: atomic writes, directories filled aside, locks, the cache."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import NotFoundError, RebootlessError, ResourceError


def cache_root() -> Path:
    """The cache directory: $REBOOTLESS_CACHE, else $XDG_CACHE_HOME/rebootless, else ~/.cache.

    A user without a home, as in a unit or a bare system, has the system's: /var/cache/rebootless.
    """
    if explicit := os.environ.get("REBOOTLESS_CACHE"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "rebootless"
    except RuntimeError:  # how pathlib says that there is neither $HOME nor an account
        return Path("/var/cache/rebootless")


def os_failure(action: str, path: Path, exc: OSError) -> RebootlessError:
    """Translates an OSError on `path` into one of ours, with a hint for the usual causes."""
    message = f"cannot {action} {path}: {exc.strerror or exc}"
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(message, hint="free some space; nothing half-written was left behind")
    if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ResourceError(message, hint="run as a user who may write there, or as root")
    if exc.errno == errno.EFBIG:
        return ResourceError(message, hint="raise the limit on the size of files (ulimit -f)")
    if exc.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFoundError(message, hint="check the path")
    return ResourceError(message)


def is_full(directory: Path) -> bool:
    """Whether the disk of `directory` has no room left to speak of (less than 1 MiB)."""
    # Programs say so in many ways ("Wrote only 5120 of 10240 bytes"); the disk says it in one.
    return shutil.disk_usage(directory).free < 1 << 20


def read_bytes(path: Path) -> bytes:
    """The content of `path`; raises NotFoundError or ResourceError."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise os_failure("read", path, exc) from exc


def read_text(path: Path) -> str:
    """The content of `path` as text (undecodable bytes replaced)."""
    return read_bytes(path).decode(errors="replace")


def atomic_write(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
    """Writes `data` to `path` so that a reader sees the old file or the new one, whole.

    Raises ResourceError (disk full, no permission); the temporary file is removed then.
    """
    blob = data.encode() if isinstance(data, str) else data
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as out:
            out.write(blob)
            out.flush()
            os.fsync(out.fileno())
        temporary.chmod(mode)
        temporary.replace(path)
    except BaseException as exc:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        if isinstance(exc, OSError):
            raise os_failure("write", path, exc) from exc
        raise


@contextlib.contextmanager
def filling_directory(path: Path) -> Iterator[Path]:
    """Yields an empty directory beside `path` that becomes `path` when the block succeeds.

    On any exception, Ctrl-C included, the directory is removed and `path` does not come to be.
    What an earlier run that was killed left there is removed as well.
    """
    aside = path.with_name(f".{path.name}.filling")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_tree(aside)
        aside.mkdir()
        yield aside
        remove_tree(path)
        aside.replace(path)
    except BaseException as exc:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(exc, OSError):
            raise os_failure("fill", path, exc) from exc
        raise


def remove_tree(path: Path) -> None:
    """Removes a directory and everything in it, if it is there."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


@contextlib.contextmanager
def locked(
    path: Path, *, timeout: float = 600.0, waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Holds an exclusive lock on the file `path` (made if missing) for the block.

    Two processes that share a cache serialise on it; a dead owner's lock is gone with it.
    `waiting` is called once if another one has to let go of it first.
    Raises ResourceError after `timeout` seconds.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise os_failure("lock", path, exc) from exc
    try:
        deadline, told = time.monotonic() + timeout, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    waiting()
                    told = True
                if time.monotonic() > deadline:
                    raise ResourceError(
                        f"another process has held {path} for {timeout:g} s",
                        hint="wait for the other rebootless to finish, or end it",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as exc:
        raise os_failure("read", path, exc) from exc
