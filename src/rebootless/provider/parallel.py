"""Downloads side by side: threads that stop together, and events that do not interleave."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from ..base.errors import ResourceError
from ..base.events import Event, Monitor
from ..base.fs import locked

LOCK_TIMEOUT = 1800.0  # seconds; another process may be downloading over a slow line


class SerialMonitor:
    """Hands events of several threads to a monitor one at a time."""

    def __init__(self, inner: Monitor) -> None:
        self._inner = inner
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        with self._lock:
            self._inner.emit(event)


def side_by_side(jobs: Iterable[Callable[[Callable[[], bool]], object]]) -> None:
    """Runs jobs in threads; the first failure (or Ctrl-C) stops the others and is raised."""
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        futures = [pool.submit(job, stop.is_set) for job in jobs]
        try:
            done, _ = concurrent.futures.wait(
                futures, return_when=concurrent.futures.FIRST_EXCEPTION
            )
        finally:
            failed = [f for f in futures if f.done() and f.exception() is not None]
            if failed or not all(f.done() for f in futures):
                stop.set()
    for future in failed:
        future.result()
    for future in done:
        future.result()


@contextlib.contextmanager
def lock_unless(path: Path, cancelled: Callable[[], bool]) -> Iterator[None]:
    """Holds the lock `path`, as `fs.locked` does, but stops waiting for it when `cancelled`."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(path, timeout=0.5))
                break
            except ResourceError:
                if cancelled() or time.monotonic() > deadline:
                    raise
        yield
