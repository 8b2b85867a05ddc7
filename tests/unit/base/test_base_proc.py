"""The program gateway: failures show what to paste, and no child outlives its caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rebootless.base import proc
from rebootless.base.errors import CommandError, NotFoundError, ResourceError


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process is gone (or a zombie) within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_output_and_input_are_text() -> None:
    result = proc.run(["cat"], input="grüß\n")
    assert result == proc.Result(0, "grüß\n", "")


def test_undecodable_output_is_no_error() -> None:
    assert proc.run(["printf", r"a\377b"]).stdout == "a�b"


def test_messages_are_in_english_and_env_is_added() -> None:
    out = proc.run(["sh", "-c", "echo $LC_ALL $HOME $EXTRA"], env={"EXTRA": "e"}).stdout.split()
    assert out == ["C", os.environ["HOME"], "e"]


def test_a_failure_shows_a_line_to_paste_and_the_end_of_the_output(tmp_path: Path) -> None:
    script = "for i in $(seq 100); do echo line $i; done; echo bad thing >&2; exit 3"
    with pytest.raises(CommandError) as info:
        proc.run(["sh", "-c", script, "a b"], cwd=tmp_path, hint="mend it")
    error = info.value
    assert error.returncode == 3
    assert error.hint == "mend it"
    assert "exit status 3" in error.message
    assert "'a b'" in error.message
    assert error.message.endswith("bad thing")
    assert "line 20\n" not in error.message
    assert "line 20\n" in error.output
    pasted = error.message.splitlines()[0].partition(": ")[2]
    again = subprocess.run(["sh", "-c", pasted], capture_output=True, check=False)
    assert again.returncode == 3


def test_check_false_returns_the_status() -> None:
    assert proc.run(["false"], check=False).returncode == 1


def test_a_program_killed_by_a_signal_is_told_so() -> None:
    with pytest.raises(CommandError, match="killed by SIGSEGV"):
        proc.run(["sh", "-c", "kill -SEGV $$"])


def test_a_missing_program_has_a_hint() -> None:
    with pytest.raises(NotFoundError) as info:
        proc.run(["no-such-program-x"])
    assert info.value.hint == "install no-such-program-x"
    with pytest.raises(NotFoundError):
        proc.which("no-such-program-x")
    assert Path(proc.which("sh")).is_absolute()


def test_a_file_that_cannot_be_run(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/shell\n")
    with pytest.raises(ResourceError, match="cannot start"):
        proc.run([script])


def test_a_missing_working_directory_is_not_a_missing_program(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="none: no such directory"):
        proc.run(["true"], cwd=tmp_path / "none")


def test_a_time_out_ends_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 60 & echo $! > {pids}; echo $$ >> {pids}; wait"
    start = time.monotonic()
    with pytest.raises(ResourceError, match=r"timed out after 0\.5 s"):
        proc.run(["sh", "-c", script], timeout=0.5)
    assert time.monotonic() - start < 10
    for pid in pids.read_text().split():
        assert gone(int(pid))


def test_a_time_out_ends_children_that_outlived_their_parent(tmp_path: Path) -> None:
    """The shell is done at once; its child holds the pipe open and must not stay behind."""
    pid_file = tmp_path / "pid"
    with pytest.raises(ResourceError, match="timed out"):
        proc.run(["sh", "-c", f"sleep 60 & echo $! > {pid_file}"], timeout=0.5)
    assert gone(int(pid_file.read_text()))


CTRL_C = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
from rebootless.base import proc
try:
    proc.run(["sh", "-c", "sleep 60 & echo $! > " + sys.argv[1] + "; wait"])
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_ends_the_whole_group(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    child = subprocess.Popen(
        [sys.executable, "-c", CTRL_C, str(pid_file)],
        env={**os.environ, "PYTHONPATH": str(Path(proc.__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not (pid_file.exists() and pid_file.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    sleeper = int(pid_file.read_text())
    child.send_signal(signal.SIGINT)
    out, _ = child.communicate(timeout=20)
    assert out == "interrupted\n"
    assert gone(sleeper)


def test_kill_group_of_a_finished_program_is_harmless() -> None:
    process = proc.spawn(["true"])
    process.wait()
    proc.kill_group(process)
    assert process.returncode == 0


def test_a_program_that_is_killed_may_put_its_things_in_order(tmp_path: Path) -> None:
    left = tmp_path / "temporary"
    script = f"trap 'rm {left}; exit 1' TERM; touch {left}; while :; do sleep 0.01; done"
    process = proc.spawn(["sh", "-c", script])
    while not left.exists():
        time.sleep(0.01)
    proc.kill_group(process)
    assert not left.exists()


def test_a_program_that_does_not_listen_is_killed_all_the_same(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    process = proc.spawn(["sh", "-c", f"trap '' TERM; touch {ready}; while :; do sleep 9; done"])
    while not ready.exists():
        time.sleep(0.01)
    proc.end_all()
    assert process.returncode == -signal.SIGKILL


SIGNAL_IN_POPEN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from rebootless.base import proc
whole = subprocess.Popen.__init__
def started(self, *arguments, **options):
    whole(self, *arguments, **options)
    os.kill(os.getpid(), signal.SIGINT)
    print("begun", self.pid, flush=True)
subprocess.Popen.__init__ = started
try:
    proc.spawn(["sleep", "60"])
except KeyboardInterrupt:
    proc.end_all()
    print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_a_signal_while_a_program_starts_waits_for_it() -> None:
    child = subprocess.run(
        [sys.executable, "-c", SIGNAL_IN_POPEN],
        env={**os.environ, "PYTHONPATH": str(Path(proc.__file__).parents[2])},
        capture_output=True, text=True, check=False, timeout=20,
    )  # fmt: skip
    begun, interrupted = child.stdout.splitlines()
    assert interrupted == "interrupted True"
    assert gone(int(begun.split()[1]))


@pytest.mark.parametrize(
    ("line", "is_full"),
    [
        ("tar: a: Cannot write: No space left on device", True),
        ("cc1: error: error writing to -: File too large", True),
        ("make[1]: *** [a:1: b] File size limit exceeded (core dumped)", True),
        ("gcc: error: File size limit exceeded signal terminated program cc1", True),
        ('a.c:1:1: error: puts("No space left on device")', False),
    ],
)
def test_a_full_disk_is_told_from_code_that_speaks_of_one(line: str, is_full: bool) -> None:
    found = proc.out_of_space(f"before\n{line}\nafter")
    assert (found is not None) == is_full
    if found is not None:
        assert line in found.message and found.hint


def test_command_line_quotes() -> None:
    assert proc.command_line(["cc", "-DX=a b"], Path("/a dir")) == ("(cd '/a dir' && cc '-DX=a b')")
