"""The one place that starts programs.

No shell is ever involved. A failed program raises `CommandError` with a command line that can be
pasted into a terminal and the end of what it printed, or `ResourceError` when it ran out of space.
Whatever was started and still runs is known here, so that an interrupt can end it (`end_all`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

from .errors import CommandError, NotFoundError, RebootlessError, ResourceError
from .fs import is_full

TAIL_LINES = 30
TERM_SECONDS = 1.0  # what a program gets to put its things in order
# As the C library, make and gcc word them (LC_ALL=C), at a line's end: source code may quote them.
NO_SPACE = re.compile(
    r"^.*\b(?:No space left on device|Disk quota exceeded|File size limit exceeded|File too large)"
    r"'?\.?(?: \(core dumped\)| signal terminated program \S+)?$",
    re.MULTILINE,
)
HELD_BACK = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_started: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Result:
    """What a finished program left: its exit status and its output as text."""

    returncode: int
    stdout: str
    stderr: str


def which(program: str, *, hint: str | None = None) -> str:
    """The full path of `program`; raises NotFoundError (with `hint`) when it is not installed."""
    path = shutil.which(program)
    if path is None:
        raise NotFoundError(
            f"the program '{program}' is not installed", hint=hint or f"install {program}"
        )
    return path


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    timeout: float | None = None,
    check: bool = True,
    hint: str | None = None,
) -> Result:
    """Runs a program to its end and returns its output.

    `env` is added to the current environment, with LC_ALL=C. `timeout` is in seconds.
    Raises NotFoundError when the program is missing, CommandError when it fails and `check` is
    set, ResourceError when it takes longer than `timeout`. The whole process group dies with it,
    so that Ctrl-C or a time-out leaves no compiler behind.
    """
    data = input.encode() if input is not None else None
    process = spawn(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE if data is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(data, timeout=timeout)
    except subprocess.TimeoutExpired as exc:
        kill_group(process)
        raise ResourceError(f"timed out after {timeout:g} s: {command_line(argv, cwd)}") from exc
    except BaseException:
        kill_group(process)
        raise
    result = Result(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))
    if check and result.returncode != 0:
        raise failure(argv, cwd, result, hint=hint)
    return result


def spawn(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] | None = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a program in its own process group and returns at once."""
    if cwd is not None and not cwd.is_dir():
        raise NotFoundError(f"cannot start {argv[0]} in {cwd}: no such directory")
    full_env = {**os.environ, "LC_ALL": "C", **(env or {})}
    for ended in [p for p in _started.copy() if p.returncode is not None]:
        _started.discard(ended)
    process: subprocess.Popen[bytes] | None = None
    try:
        with signals_held_back():
            process = subprocess.Popen(
                [str(a) for a in argv],
                cwd=cwd,
                env=full_env,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
            _started.add(process)
        return process
    except FileNotFoundError as exc:
        raise NotFoundError(
            f"the program '{argv[0]}' is not installed", hint=f"install {argv[0]}"
        ) from exc
    except OSError as exc:
        raise ResourceError(f"cannot start {command_line(argv, cwd)}: {exc.strerror}") from exc
    except BaseException:  # a signal that came meanwhile: nobody else knows of the program yet
        if process is not None:
            kill_group(process)
        raise


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Handles a signal that comes during the block at its end.

    An exception inside of Popen would lose a program that runs already. A blocked signal would
    stay blocked in the program, so it is the handlers that wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    came: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    handlers = {n: h for n in HELD_BACK if callable(h := signal.getsignal(n))}
    for held in handlers:
        signal.signal(held, note)
    try:
        yield
    finally:
        for held, handler in handlers.items():
            signal.signal(held, handler)
        for number in came:
            signal.raise_signal(number)


def end_all() -> None:
    """Ends every program that `spawn` started and that still runs, with what it started."""
    for process in _started.copy():
        kill_group(process)
        _started.discard(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a program started by `spawn` and everything that it started.

    It is asked first, so that a compiler removes its temporary files and make its targets.
    """
    # No poll() here: it would reap a leader that is done while its children still run, and with
    # the leader goes the certainty that the group is still ours.
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + TERM_SECONDS
        while not _group_has_ended(process.pid) and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _group_has_ended(leader: int) -> bool:
    """Whether nothing of a child's group runs any more.

    The leader may go before those that it started, as one does that only waits for a program in
    another namespace.
    """
    if not _has_ended(leader):
        return False
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state not in "ZX":
                return False
    return True


def _has_ended(pid: int) -> bool:
    """Whether a child has ended; it stays a zombie, which keeps its number."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def failure(
    argv: Sequence[str | Path], cwd: Path | None, result: Result, *, hint: str | None = None
) -> RebootlessError:
    """The error for a finished program; also for callers that run with check=False.

    ResourceError when it ran out of space, CommandError for all else.
    """
    output = (result.stdout + result.stderr).strip()
    if result.returncode == -signal.SIGXFSZ:
        output += f"\n{Path(str(argv[0])).name}: File size limit exceeded"
    if (full := out_of_space(output)) is not None:
        return full
    tail = "\n".join(output.splitlines()[-TAIL_LINES:])
    how = (
        f"exit status {result.returncode}"
        if result.returncode >= 0
        else f"killed by {signal.Signals(-result.returncode).name}"
    )
    return CommandError(
        f"{Path(str(argv[0])).name} failed ({how}): {command_line(argv, cwd)}\n{tail}",
        returncode=result.returncode,
        output=output,
        hint=hint,
    )


def out_of_space(output: str, directory: Path | None = None) -> ResourceError | None:
    """The error for a failed program that hit the end of a disk, of a quota or of a file's limit.

    Its output tells, or the disk of the `directory` in which it worked.
    """
    found = NO_SPACE.search(output)
    if found is None and (directory is None or not is_full(directory)):
        return None
    return ResourceError(
        f"out of space: {found.group().strip() if found else directory}",
        hint="free some space; nothing half-written was left behind",
    )


def command_line(argv: Sequence[str | Path], cwd: Path | None = None) -> str:
    """`argv` as a line that can be pasted into a shell."""
    line = shlex.join(str(a) for a in argv)
    return f"(cd {shlex.quote(str(cwd))} && {line})" if cwd else line
