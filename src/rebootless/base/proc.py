"""The one place that starts programs.

No shell is ever involved. A failed program raises `CommandError` with a command line that can be
pasted into a terminal and the end of what it printed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .errors import CommandError, NotFoundError, ResourceError

TAIL_LINES = 30


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
    process = spawn(
        argv,
        cwd=cwd,
        env=env,
        stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    data = input.encode() if input is not None else None
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
    try:
        return subprocess.Popen(
            [str(a) for a in argv],
            cwd=cwd,
            env=full_env,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    except FileNotFoundError as exc:
        raise NotFoundError(
            f"the program '{argv[0]}' is not installed", hint=f"install {argv[0]}"
        ) from exc
    except OSError as exc:
        raise ResourceError(f"cannot start {command_line(argv, cwd)}: {exc.strerror}") from exc


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a program started by `spawn` and everything that it started."""
    # No poll() here: it would reap a leader that is done while its children still run, and with
    # the leader goes the certainty that the group is still ours.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def failure(
    argv: Sequence[str | Path], cwd: Path | None, result: Result, *, hint: str | None = None
) -> CommandError:
    """The CommandError for a finished program; also for callers that run with check=False."""
    output = (result.stdout + result.stderr).strip()
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


def command_line(argv: Sequence[str | Path], cwd: Path | None = None) -> str:
    """`argv` as a line that can be pasted into a shell."""
    line = shlex.join(str(a) for a in argv)
    return f"(cd {shlex.quote(str(cwd))} && {line})" if cwd else line
