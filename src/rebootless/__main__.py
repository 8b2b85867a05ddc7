"""Where the program starts and ends: signals, and every exception's way to an exit code.

Libraries raise; only this module turns what they raised into text and a status. What is meant for
people goes to standard error; with --json the error is also a document on standard output, so that
a program that reads the output always gets one.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click

from .base import proc
from .base.errors import RebootlessError, ResourceError
from .base.fs import os_failure
from .base.words import visible
from .cli.root import root

USAGE = 64  # as in sysexits.h
INTERNAL = 70
BROKEN_PIPE = 141
SCHEMA = 1
_RESOURCES = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)


class Terminated(KeyboardInterrupt):
    """A signal asked for the end.

    For Ctrl-C, too: when a KeyboardInterrupt itself passes through exec() (as in any dataclass
    that is being imported), Python ends itself by a signal in spite of the exit code.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code (docs/exit-codes.md)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = words[: words.index("--")] if "--" in words else words
    as_json = "--json" in options
    debug = "--debug" in options or os.environ.get("REBOOTLESS_DEBUG", "") not in ("", "0")
    _handle_signals()
    try:
        with root.make_context("rebootless", words) as context:
            root.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as exc:
        return _flushed(exc.exit_code)
    except BrokenPipeError:
        return _silenced()
    except (KeyboardInterrupt, click.Abort) as exc:
        proc.end_all()
        if debug:
            traceback.print_exc()
        reason = exc.number if isinstance(exc, Terminated) else int(signal.SIGINT)
        print("interrupted, nothing was left half-done", file=sys.stderr)
        return 128 + reason
    except Exception as exc:
        if debug:
            traceback.print_exc()
        return _report(exc, as_json=as_json)
    return 0


def _handle_signals() -> None:
    """The first signal raises; one more while things are put in order does not, a third does."""
    came = 0

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal came
        came += 1
        if came == 2:
            os.write(2, b"putting things in order; once more to leave them\n")
            return
        raise Terminated(number)

    numbers = [signal.SIGTERM, signal.SIGHUP]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        numbers.append(signal.SIGINT)
    for number in numbers:
        signal.signal(number, end)


def _flushed(status: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _silenced()
    return status


def _silenced() -> int:
    """Nobody reads any more: keep Python from complaining about it at its end."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    return BROKEN_PIPE


def _report(exc: Exception, *, as_json: bool) -> int:
    status, error = describe(exc)
    if as_json:
        print(json.dumps({"schema": SCHEMA, "error": error}, indent=2, ensure_ascii=False))
    print(visible(f"error: {error['message']}"), file=sys.stderr)
    for refusal in error.get("refusals", ()):
        if str(refusal.get("message")) not in error["message"]:
            line = f"  {refusal.get('symbol')}: {refusal.get('message')}"
            print(visible(line), file=sys.stderr)
    if error["hint"]:
        print(visible(f"hint: {error['hint']}"), file=sys.stderr)
    return _flushed(status)


def describe(exc: Exception) -> tuple[int, dict[str, Any]]:
    """The exit code of an exception and what to say about it: code, message, hint."""
    match exc:
        case click.UsageError():
            context = exc.ctx.command_path if exc.ctx else "rebootless"
            return USAGE, _error("usage", exc.format_message(), f"see '{context} --help'")
        case click.ClickException():
            return USAGE, _error("usage", exc.format_message(), None)
        case RebootlessError():
            error = _error(exc.code, exc.message, exc.hint)
            if refusals := getattr(exc, "refusals", ()):
                error["refusals"] = [_refusal(refusal) for refusal in refusals]
            return exc.exit_code, error
        case MemoryError():
            hint = "close other programs, or use a machine with more memory"
            return ResourceError.exit_code, _error(ResourceError.code, "out of memory", hint)
        case OSError() if exc.errno in _RESOURCES:
            return describe(os_failure("use", Path(str(exc.filename or "a file")), exc))
        case _:
            what = str(exc).strip().partition("\n")[0]
            message = f"internal error: {type(exc).__name__}" + (f": {what}" if what else "")
            hint = "this is a bug in rebootless; please report it, with what --debug prints"
            return INTERNAL, _error("internal", message, hint)


def _error(code: str, message: str, hint: str | None) -> dict[str, Any]:
    return {"code": code, "message": message, "hint": hint}


def _refusal(refusal: object) -> dict[str, Any]:
    to_json = getattr(refusal, "to_json", None)
    return dict(to_json()) if to_json else {"symbol": "", "message": str(refusal)}


if __name__ == "__main__":
    sys.exit(main())
