"""Errors, progress events and stage folders."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebootless.base import errors, events, workdir
from rebootless.base.errors import RebootlessError, ResourceError
from rebootless.base.workdir import Workdir, fingerprint


def every_error() -> list[type[RebootlessError]]:
    found = [RebootlessError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__ == errors.__name__]


def test_each_error_code_is_its_own() -> None:
    codes = [kind.code for kind in every_error()]
    assert len(set(codes)) == len(codes)


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    text = errors.__doc__ or ""
    for kind in every_error():
        line = next(line for line in text.splitlines() if f" {kind.__name__} " in f"{line} ")
        assert line.split(kind.__name__)[1].split()[0] == str(kind.exit_code)


def test_an_error_is_its_message() -> None:
    error = errors.RefusedError("x changed", hint="do y", refusals=[1, 2])
    assert (str(error), error.hint, error.refusals) == ("x changed", "do y", (1, 2))


def test_a_stage_reports_start_progress_and_end() -> None:
    stream = io.StringIO()
    recording = events.RecordingMonitor(events.JsonMonitor(stream))
    with events.stage(recording, "compile", "Compiling") as report:
        report.detail("a.c")
        report.progress(1, 2, "b.c")
        report.result = "2 units"
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [r["event"] for r in records] == [
        "StageStarted", "StageProgress", "StageProgress", "StageFinished",
    ]  # fmt: skip
    assert all(r["schema"] == 1 for r in records)
    assert records[2]["done"] == 1
    assert records[3]["detail"] == "2 units"
    assert recording.seconds["compile"] >= 0


def test_a_stage_that_raises_is_shown_as_failed() -> None:
    stream = io.StringIO()
    with (
        pytest.raises(KeyboardInterrupt),
        events.stage(events.PlainMonitor(stream), "x", "Doing x"),
    ):
        raise KeyboardInterrupt
    assert stream.getvalue().startswith("FAILED Doing x")


def test_plain_lines() -> None:
    stream = io.StringIO()
    monitor = events.PlainMonitor(stream)
    monitor.emit(events.StageStarted("a", "A"))
    monitor.emit(events.Note("note"))
    monitor.emit(events.Warned("careful"))
    assert stream.getvalue() == "   note\nwarning: careful\n"
    monitor.emit(events.Note("fs/\x1b[2Jfile\ttab"))
    assert stream.getvalue().endswith("   fs/\\x1b[2Jfile\ttab\n"), "a name steers no terminal"


def test_the_terminal_monitor_survives_every_event(capsys: pytest.CaptureFixture[str]) -> None:
    monitor = events.RichMonitor()
    with events.stage(monitor, "a", "Stage A") as outer:
        with events.stage(monitor, "b", "Stage B") as inner:
            inner.progress(1, None, "x")
        outer.detail("[not markup")
        monitor.emit(events.Note("note \x07"))
        monitor.emit(events.Warned("careful"))
    shown = capsys.readouterr().err
    assert "note \\x07" in shown
    assert "Stage A" in shown
    assert "careful" in shown


def test_quiet_is_quiet() -> None:
    assert isinstance(events.default_monitor(quiet=True), events.NullMonitor)
    assert isinstance(events.default_monitor(json_events=True), events.JsonMonitor)


def test_a_stage_folder_is_done_for_the_same_inputs_only(tmp_path: Path) -> None:
    work = Workdir(tmp_path)
    with work.running("1-orig", "inputs A") as folder:
        (folder / "x.o").touch()
    assert work.is_done("1-orig", "inputs A")
    assert not work.is_done("1-orig", "inputs B")
    assert not work.is_done("2-patched", "inputs A")
    with work.running("1-orig", "inputs B") as folder:
        assert list(folder.iterdir()) == []
        assert not work.is_done("1-orig", "inputs A")
    assert work.is_done("1-orig", "inputs B")


def test_a_failed_stage_leaves_no_folder(tmp_path: Path) -> None:
    work = Workdir(tmp_path)
    with pytest.raises(ZeroDivisionError), work.running("1-orig", "x") as folder:
        (folder / "half.o").touch()
        raise ZeroDivisionError
    assert not work.stage("1-orig").exists()


def test_foreign_errors_of_a_stage_are_translated(tmp_path: Path) -> None:
    with pytest.raises(ResourceError), Workdir(tmp_path).running("1-orig", "x"):
        raise OSError(28, os.strerror(28))


STAGE = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
from pathlib import Path
from rebootless.base.workdir import Workdir
with Workdir(Path(sys.argv[1])).running("1-orig", "x") as folder:
    (folder / "half.o").touch()
    print("running", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_stage_is_not_done(tmp_path: Path, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STAGE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(workdir.__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(how)
        child.wait(20)
    work = Workdir(tmp_path)
    assert not work.is_done("1-orig", "x")
    with work.running("1-orig", "x") as folder:
        assert list(folder.iterdir()) == []


@given(st.lists(st.one_of(st.text(max_size=5), st.binary(max_size=5)), max_size=4))
def test_fingerprints_depend_on_where_parts_end(parts: list[str | bytes]) -> None:
    assert fingerprint(*parts) == fingerprint(*parts)
    assert fingerprint(*parts) != fingerprint(*parts, "")
    assert fingerprint("ab", "c") != fingerprint("a", "bc")


def test_brackets_in_names_reach_the_terminal() -> None:
    monitor = events.RichMonitor()
    monitor.console.file = stream = io.StringIO()
    with events.stage(monitor, "x", "Reading fix[1].patch") as report:
        report.detail("[/fs]")
        monitor.emit(events.Note("task [kworker]"))
        monitor.emit(events.Warned("no [/end]"))
        report.result = "[bold]"
    text = stream.getvalue()
    for word in ("fix[1].patch", "[kworker]", "no [/end]", "[bold]"):
        assert word in text
