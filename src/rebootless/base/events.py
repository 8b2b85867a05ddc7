"""Progress as typed events; what shows them (terminal, pipe, JSON) are monitors of the same events.

A stage is a named, timed step:

    with stage(monitor, "compile", "Compiling 1 unit twice") as report:
        report.detail("fs/ext4/mballoc.c")
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from .words import duration, visible

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(frozen=True)
class StageStarted:
    """A stage began. `name` is stable (for machines), `title` is for people."""

    name: str
    title: str


@dataclass(frozen=True)
class StageProgress:
    """A running stage got on: `done` of `total` units (bytes, files...), or just a `detail`."""

    name: str
    detail: str = ""
    done: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class ItemDone:
    """One of many things that a running stage works through has ended: the `done`th of `total`.

    `text` says how; `left` are the seconds that the others will take, by what these took, None
    while that cannot be told.
    """

    name: str
    text: str
    done: int
    total: int
    left: float | None = None


@dataclass(frozen=True)
class StageFinished:
    """A stage ended after `seconds`; `ok` is False when it raised."""

    name: str
    title: str
    seconds: float
    ok: bool = True
    detail: str = ""


@dataclass(frozen=True)
class Note:
    """Something worth a line."""

    text: str


@dataclass(frozen=True)
class Warned:
    """Something the user should know although the work goes on."""

    text: str


Event = StageStarted | StageProgress | ItemDone | StageFinished | Note | Warned


class Monitor(Protocol):
    """Receives every event, in order."""

    def emit(self, event: Event) -> None: ...


class NullMonitor:
    """Shows nothing."""

    def emit(self, event: Event) -> None:
        """Drops the event."""


class RecordingMonitor:
    """Keeps the finished stages and their seconds, and passes every event on, one at a time.

    Stages in two threads may run at once; their seconds overlap then.
    """

    def __init__(self, inner: Monitor) -> None:
        self.inner = inner
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        with self._lock:
            if isinstance(event, StageFinished):
                self.seconds[event.name] = self.seconds.get(event.name, 0.0) + event.seconds
            self.inner.emit(event)


class PlainMonitor:
    """One line per finished stage, for pipes and logs."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr

    def emit(self, event: Event) -> None:
        match event:
            case StageFinished():
                mark = "ok " if event.ok else "FAILED"
                detail = f" ({event.detail})" if event.detail else ""
                line = f"{mark} {event.title}{detail}  {event.seconds:.1f} s"
            case ItemDone():
                line = f"   {event.done}/{event.total} {event.text}{_remaining(event)}"
            case Note():
                line = f"   {event.text}"
            case Warned():
                line = f"warning: {event.text}"
            case _:
                return
        print(visible(line), file=self.stream, flush=True)


def _remaining(event: ItemDone) -> str:
    return f"  ({duration(event.left)} left)" if event.left is not None else ""


class JsonMonitor:
    """One JSON object per event and line, for machines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream if stream is not None else sys.stderr

    def emit(self, event: Event) -> None:
        record = {"schema": 1, "event": type(event).__name__, **asdict(event)}
        print(json.dumps(record), file=self.stream, flush=True)


class RichMonitor:
    """A live line with spinner, progress and elapsed time per stage, on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.markup import escape

        def harmless(text: str) -> str:
            """Names of files, tasks and patches may hold "[...]", or steer the terminal."""
            return escape(visible(text))

        self.console = Console(stderr=True, highlight=False)
        self._escape = harmless
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def _live(self) -> Progress:
        if self._progress is None:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
            from rich.progress import TimeElapsedColumn as Elapsed

            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("[dim]{task.fields[detail]}"),
                Elapsed(),
                console=self.console,
                transient=True,
            )
            self._progress.start()
        return self._progress

    def emit(self, event: Event) -> None:
        match event:
            case StageStarted():
                title = self._escape(event.title)
                self._tasks[event.name] = self._live().add_task(title, total=None, detail="")
            case StageProgress():
                if (task := self._tasks.get(event.name)) is not None:
                    said = self._escape(event.detail)
                    self._live().update(task, completed=event.done, total=event.total, detail=said)
            case ItemDone():
                if (task := self._tasks.get(event.name)) is not None:
                    said = f"{event.done}/{event.total} {event.text}{_remaining(event)}"
                    said = self._escape(said)
                    done, total = event.done, event.total
                    self._live().update(task, completed=done, total=total, detail=said)
            case StageFinished():
                self._finish(event)
            case Note():
                self.console.print(f"  [dim]•[/dim] {self._escape(event.text)}")
            case Warned():
                self.console.print(f"  [yellow]warning:[/yellow] {self._escape(event.text)}")

    def _finish(self, event: StageFinished) -> None:
        task = self._tasks.pop(event.name, None)
        if self._progress is not None and task is not None:
            self._progress.remove_task(task)
            if not self._tasks:
                self._progress.stop()
                self._progress = None
        mark = "[green]✓[/green]" if event.ok else "[red]✗[/red]"
        title = self._escape(event.title)
        detail = f" [dim]{self._escape(event.detail)}[/dim]" if event.detail else ""
        self.console.print(f"{mark} {title}{detail} [cyan]{event.seconds:.1f} s[/cyan]")


class StageReport:
    """What a running stage may tell: see `stage`."""

    def __init__(self, monitor: Monitor, name: str) -> None:
        self._monitor = monitor
        self._name = name
        self.result = ""

    def detail(self, text: str) -> None:
        """Shows what the stage is at."""
        self._monitor.emit(StageProgress(self._name, text))

    def progress(self, done: int, total: int | None, text: str = "") -> None:
        """Shows how far the stage is."""
        self._monitor.emit(StageProgress(self._name, text, done, total))


@contextlib.contextmanager
def stage(monitor: Monitor, name: str, title: str) -> Iterator[StageReport]:
    """Times a block as a stage; set `.result` on what it yields for the closing line."""
    report = StageReport(monitor, name)
    monitor.emit(StageStarted(name, title))
    start = time.monotonic()
    try:
        yield report
    except BaseException:
        monitor.emit(StageFinished(name, title, time.monotonic() - start, ok=False))
        raise
    monitor.emit(StageFinished(name, title, time.monotonic() - start, detail=report.result))


def default_monitor(*, json_events: bool = False, quiet: bool = False) -> Monitor:
    """The monitor for standard error: rich on a terminal, plain lines in a pipe."""
    if quiet:
        return NullMonitor()
    if json_events:
        return JsonMonitor()
    return RichMonitor() if sys.stderr.isatty() else PlainMonitor()
