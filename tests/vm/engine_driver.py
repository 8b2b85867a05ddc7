"""Runs in a guest: what a test's scripts use, and what runs these; the command line, in children.

    serve()                          runs scripts, for ever; each in a child
    cli(words, dies_after=N)         the child is killed after its Nth change to the kernel
    cli(words, interrupted=True)     it gets Ctrl-C while it waits for a transition
    cli(words, user=N)               it is not root

A change is a module loaded or removed, or a write to sysfs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from rebootless.__main__ import main
from rebootless.engine.local import LocalMachine

NEVER = "--signal never"
SCRIPT, OUTPUT, STATUS = (Path("/lab", name) for name in ("script.py", "output", "status"))


def serve() -> None:
    """Runs the scripts that come, one after the other, with all modules imported already.

    To import them takes an emulated machine seconds, which a child need not spend again.
    """
    while True:
        if not SCRIPT.exists():
            time.sleep(0.05)
            continue
        text = SCRIPT.read_text()
        SCRIPT.unlink()
        child = os.fork()
        if child == 0:
            _run(text)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        STATUS.with_suffix(".new").write_text(str(ended))
        STATUS.with_suffix(".new").rename(STATUS)


def _run(text: str) -> None:
    out = os.open(OUTPUT, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(out, 1)
    os.dup2(out, 2)
    status = 1
    try:
        exec(compile(text, "script", "exec"), globals())
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def cli(words: str, *, dies_after: int = 0, interrupted: bool = False, user: int = 0) -> dict:
    """The facts that a verb printed as JSON, and its exit status as `exit`."""
    out = Path("/tmp/out")
    child = os.fork()
    if child == 0:
        os.dup2(os.open(out, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 1)
        os.dup2(os.open("/tmp/err", os.O_CREAT | os.O_TRUNC | os.O_WRONLY), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _arm(dies_after, interrupted)
        os.setuid(user)
        status = main([*words.split(), "--json"])
        sys.stdout.flush()
        os._exit(status)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = out.read_text()
    return {"exit": ended, **(json.loads(text) if text else {})}


def _arm(dies_after: int, interrupted: bool) -> None:
    changes = 0

    def counted(change):
        def run(self, *arguments, **named):
            nonlocal changes
            result = change(self, *arguments, **named)
            changes += 1
            if changes == dies_after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return run

    if dies_after:
        for name in ("load_module", "remove_module", "write"):
            setattr(LocalMachine, name, counted(getattr(LocalMachine, name)))
    if interrupted:
        sleep, armed = LocalMachine.sleep, [True]

        def once(self, seconds):
            if armed:
                armed.clear()
                os.kill(os.getpid(), signal.SIGINT)
            sleep(self, seconds)

        LocalMachine.sleep = once


def ok(words: str) -> dict:
    """A verb that has to succeed."""
    facts = cli(words)
    assert facts["exit"] == 0, (words, facts, Path("/tmp/err").read_text())
    return facts


def refused(words: str, code: str, *, user: int = 0) -> str:
    """A verb that has to fail with an error code: its message and hint."""
    facts = cli(words, user=user)
    assert facts["exit"] and facts["error"]["code"] == code, (words, facts)
    return f"{facts['error']['message']} | {facts['error']['hint']}"


def states() -> dict[str, tuple[str, str]]:
    """(engine, state) by patch, of what `status` shows."""
    return {p["name"]: (p["engine"], p["state"]) for p in ok("status")["patches"]}


def until(wanted: bool, condition) -> None:
    """Waits for the kernel."""
    deadline = time.monotonic() + 30
    while bool(condition()) is not wanted:
        assert time.monotonic() < deadline, condition()
        time.sleep(0.05)


def version() -> str:
    return Path("/proc/version").read_text()


def patience(tries: int) -> None:
    """How often the atomic engine tries before it gives up."""
    parameter = Path("/sys/module/rebootless_core/parameters/tries")
    if not parameter.exists():
        ok("apply /lab/rl_one.rlp --engine atomic")
        ok("undo rl_one")
    parameter.write_text(str(tries))


class Sleeper:
    """A process that sleeps in pipe_read()."""

    def __enter__(self):
        reading, self.writing = os.pipe()
        self.process = subprocess.Popen(["/bin/cat"], stdin=reading)
        os.close(reading)
        stack = Path(f"/proc/{self.process.pid}/stack")
        until(True, lambda: "pipe_read" in stack.read_text())
        return self.process.pid

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.writing)
