"""Results on a terminal, in a pipe and as JSON."""

from __future__ import annotations

import enum
import json
import os
import pty
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import rebootless
from rebootless.base.events import NullMonitor
from rebootless.cli.output import Facts, Output, Page, PlainPage, cell, facts_of


class State(enum.Enum):
    ON = "on"


@dataclass(frozen=True)
class Inner:
    path: Path
    states: frozenset[State]


@dataclass(frozen=True)
class Result:
    name: str
    inner: tuple[Inner, ...]
    nothing: None = None


class WithJson:
    def to_json(self) -> dict[str, object]:
        return {"path": Path("/x")}


def render(page: Page, facts: Facts) -> None:
    page.pairs([("name", facts["name"]), ("nothing", facts["nothing"])])
    page.table(["path", "states"], [(i["path"], i["states"]) for i in facts["inner"]])
    page.table(["never"], [])


RESULT = Result("r", (Inner(Path("/a"), frozenset({State.ON})), Inner(Path("/long"), frozenset())))


def test_control_characters_are_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    """What a patch or a bundle of other origin says reaches the terminal as text only."""
    page = PlainPage()
    page.line("a\x1b[2Jb\rc\tä\r\n")
    page.pairs([("title", "x\x9b31m\x07")])
    assert capsys.readouterr().out == "a\\x1b[2Jb\\rc\tä\r\n\ntitle:  x\\x9b31m\\x07\n"


def test_results_become_json_values() -> None:
    assert facts_of(RESULT) == {
        "name": "r",
        "inner": [{"path": "/a", "states": ["on"]}, {"path": "/long", "states": []}],
        "nothing": None,
    }
    assert facts_of(WithJson()) == {"path": "/x"}
    assert facts_of({1: (True, 0.5)}) == {"1": [True, 0.5]}


@pytest.mark.parametrize("value", [[1], 3, object(), {"x": object()}])
def test_what_has_no_json_form_is_a_bug(value: object) -> None:
    with pytest.raises(TypeError):
        facts_of(value)


def test_json_is_one_document_with_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    Output(True, NullMonitor(), PlainPage()).show(RESULT, render)
    assert json.loads(capsys.readouterr().out)["schema"] == 1


def test_in_a_pipe_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    Output(False, NullMonitor(), PlainPage()).show(RESULT, render)
    assert capsys.readouterr().out == "name:  r\npath   states\n/a     on\n/long\n"


def test_cells() -> None:
    assert [cell(v) for v in (None, True, 1.234, ("a", 2), 0)] == ["", "yes", "1.23", "a, 2", "0"]


def test_on_a_terminal_the_same_words_appear_in_a_table() -> None:
    """A real terminal: a pseudo terminal around the real program."""
    try:
        leader, follower = pty.openpty()
    except OSError:
        pytest.skip("no pseudo terminal to be had here (/dev/pts)")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(rebootless.__file__).parents[1]),
        "TERM": "xterm",
        "COLUMNS": "200",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "rebootless", "doctor"], stdout=follower, env=environment
    ) as child:
        os.close(follower)
        shown = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            shown += chunk
        child.wait(30)
    os.close(leader)
    text = shown.decode()
    assert "\x1b[" in text
    assert "live patching" in text
    assert "can apply here" in text
    assert "─" in text
