"""From what a verb raises to what the shell sees; every process here is a real one."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import rebootless
from rebootless.__main__ import describe
from rebootless.base import errors
from rebootless.base.errors import RebootlessError
from rebootless.cli.root import VERBS

PACKAGE_ROOT = str(Path(rebootless.__file__).parents[1])

# Runs the real main() with one more verb, `fail`, whose body is the code given.
HARNESS = """
import signal, sys, types, click
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
from rebootless import __main__
from rebootless.cli import root
from rebootless.cli.options import verb
body, *arguments = sys.argv[1:]
def command(out):
    exec(body, {"out": out})
module = types.ModuleType(root.PACKAGE + ".fail")
module.command = verb(command)
sys.modules[module.__name__] = module
root.VERBS["fail"] = root.Verb("Fails.")
sys.exit(__main__.main(["fail", *arguments]))
"""


def environment(**extra: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if k != "REBOOTLESS_DEBUG"}
    return {**clean, "PYTHONPATH": PACKAGE_ROOT, **extra}


def rebootless_run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rebootless", *arguments],
        capture_output=True, text=True, env=environment(**extra), check=False,
    )  # fmt: skip


def failing(body: str, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HARNESS, body, *arguments],
        capture_output=True, text=True, env=environment(**extra), check=False,
    )  # fmt: skip


def started(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", HARNESS, body],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip


def every_error() -> list[type[RebootlessError]]:
    found = [RebootlessError]
    for kind in found:
        found.extend(kind.__subclasses__())
    return [kind for kind in found if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_has_its_exit_code_and_its_json(kind: type[RebootlessError]) -> None:
    extra = {"returncode": 9} if kind is errors.CommandError else {}
    status, error = describe(kind("it broke", hint="mend it", **extra))
    assert status == kind.exit_code
    assert error == {"code": kind.code, "message": "it broke", "hint": "mend it"}


def test_an_error_is_two_plain_lines_on_standard_error() -> None:
    body = "from rebootless.base.errors import *; raise StalledError('stuck', hint='wait')"
    result = failing(body)
    assert (result.returncode, result.stdout) == (12, "")
    assert result.stderr == "error: stuck\nhint: wait\n"


def test_with_json_the_error_is_a_document_too() -> None:
    body = "from rebootless.base.errors import *; raise WrongKernelError('other kernel')"
    result = failing(body, "--json")
    assert result.returncode == 9
    assert json.loads(result.stdout) == {
        "schema": 1,
        "error": {"code": "wrong-kernel", "message": "other kernel", "hint": None},
    }
    assert result.stderr == "error: other kernel\n"


def test_refusals_are_listed_each() -> None:
    body = (
        "from rebootless.base.errors import *\n"
        "class F:\n"
        "    def to_json(self): return {'code': 'data', 'symbol': 'x', 'message': 'x changed'}\n"
        "raise RefusedError('cannot', refusals=[F()])"
    )
    assert "  x: x changed\n" in failing(body).stderr
    assert json.loads(failing(body, "--json").stdout)["error"]["refusals"][0]["symbol"] == "x"


def test_a_bug_is_one_line_and_a_request() -> None:
    result = failing("{}['key']")
    assert result.returncode == 70
    assert result.stderr.splitlines()[0] == "error: internal error: KeyError: 'key'"
    assert "report it" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("how", [{"flag": "--debug"}, {"env": "1"}])
def test_a_traceback_only_when_asked_for(how: dict[str, str]) -> None:
    flags = [how["flag"]] if "flag" in how else []
    result = failing("{}['key']", *flags, **({"REBOOTLESS_DEBUG": "1"} if "env" in how else {}))
    assert result.returncode == 70
    assert "Traceback" in result.stderr


def test_running_out_of_memory_for_real() -> None:
    body = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "bytearray(1 << 32)"
    )
    result = failing(body)
    assert result.returncode == 14
    assert result.stderr.startswith("error: out of memory\nhint: ")


def test_a_full_disk_that_nobody_translated() -> None:
    result = failing("f = open('/dev/full', 'wb', buffering=0); f.write(b'x')")
    assert result.returncode == 14
    assert "No space left" in result.stderr
    assert "free some space" in result.stderr


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_end_it_in_order(tmp_path: Path, number: signal.Signals, status: int) -> None:
    body = (
        "import time; from pathlib import Path; from rebootless.base.fs import filling_directory\n"
        f"with filling_directory(Path('{tmp_path}/tree')) as aside:\n"
        "    print('ready', flush=True); time.sleep(60)"
    )
    with started(body) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(number)
        assert child.wait(20) == status
        assert child.stderr.read() == "interrupted, nothing was left half-done\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("body", ["print('x' * 100, flush=True)", "print('x')"])
def test_a_reader_that_goes_away_is_no_error(body: str) -> None:
    with started(f"import time; print('go', flush=True); time.sleep(0.3); {body}") as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.readline()
        child.stdout.close()
        assert child.wait(20) == 141
        assert child.stderr.read() == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["--nonsense"],
        ["apply"],
        ["apply", "x.rlp", "--wait", "-1"],
        ["apply", "x.rlp", "--wait", "nan"],
        ["apply", "x.rlp", "--signal", "soon"],
        ["apply", "x.rlp", "--engine", "magic"],
        ["engine", "build", "--root", "x"],
        ["diff", "a"],
    ],
)
def test_usage_errors_exit_64(arguments: list[str]) -> None:
    result = rebootless_run(*arguments)
    assert result.returncode == 64
    assert result.stderr.startswith("error: ")
    assert "--help'" in result.stderr


def test_usage_errors_with_json() -> None:
    result = rebootless_run("diff", "a", "--json")
    assert json.loads(result.stdout)["error"]["code"] == "usage"


def test_a_kernel_of_ones_own_needs_all_its_files() -> None:
    result = rebootless_run("build", "x.patch", "--image", "vmlinuz", "--config", "config")
    assert result.returncode == 64
    assert "--source-dir, --symvers" in result.stderr


def test_help_shows_every_verb_but_the_hidden_one() -> None:
    shown = rebootless_run("--help")
    assert shown.returncode == 0
    for name, verb in VERBS.items():
        assert (re.search(rf"^  {name} ", shown.stdout, re.M) is None) == verb.hidden


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_the_common_options_last(name: str) -> None:
    result = rebootless_run(name, "--help")
    assert result.returncode == 0
    options = result.stdout.partition("\nCommands:")[0].rstrip().splitlines()
    tail = [line.split()[0].rstrip(",") for line in options[-4:]]
    assert tail == ["--json", "-q", "--debug", "-h"]


def test_arguments_keep_their_order() -> None:
    assert rebootless_run("diff", "--help").stdout.startswith(
        "Usage: rebootless diff [OPTIONS] ORIG PATCHED\n"
    )


def test_version() -> None:
    assert re.fullmatch(r"rebootless \d\S+\n", rebootless_run("--version").stdout)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from rebootless.__main__ import main; main(['--help'])\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    loaded = set(result.stderr.split())
    assert not loaded & {"numpy", "rich", "unidiff", "debian", "iced_x86", "zstandard"}
    assert not {m for m in loaded if m.startswith("rebootless.cli.verbs.")}
    # processor time, so that a busy machine does not count
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 0.3
