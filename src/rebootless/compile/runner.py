"""Runs compilers side by side; on Ctrl-C or any error none of them is left running."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..base import proc

POLL = 0.005


@dataclass(frozen=True)
class Job:
    """Programs to run one after the other in `directory`; `name` is for messages."""

    name: str
    directory: Path
    steps: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Outcome:
    """How a job ended after `seconds`: `failed` is the step that failed, None if all went well."""

    job: Job
    failed: tuple[str, ...] | None
    output: str
    seconds: float = 0.0


class _Running:
    """A job in progress."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed at the end)
        self.step = 0
        self.started = time.monotonic()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return proc.spawn(
            self.job.steps[self.step],
            cwd=self.job.directory,
            stdout=self.output,
            stderr=self.output,
        )

    def poll(self) -> Outcome | None:
        """Goes on to the next step when one has ended; the outcome when all have."""
        code = self.process.poll()
        if code is None:
            return None
        failed = self.job.steps[self.step] if code else None
        self.step += 1
        if failed is None and self.step < len(self.job.steps):
            self.process = self._start()
            return None
        self.output.seek(0)
        text = self.output.read().decode(errors="replace")
        self.output.close()
        return Outcome(self.job, failed, text, time.monotonic() - self.started)


def run_all(
    jobs: Sequence[Job], *, parallel: int, finished: Callable[[Outcome], None]
) -> tuple[Outcome, ...]:
    """Runs all jobs, at most `parallel` at a time, and returns their outcomes in order.

    `finished` is called after each. A failed job does not stop the others.
    """
    waiting = list(enumerate(jobs))[::-1]
    running: list[tuple[int, _Running]] = []
    outcomes: dict[int, Outcome] = {}
    try:
        while waiting or running:
            while waiting and len(running) < max(1, parallel):
                index, job = waiting.pop()
                running.append((index, _Running(job)))
            for entry in list(running):
                outcome = entry[1].poll()
                if outcome is not None:
                    running.remove(entry)
                    outcomes[entry[0]] = outcome
                    finished(outcome)
            if running:
                time.sleep(POLL)
    except BaseException:
        for _, started in running:
            proc.kill_group(started.process)
        raise
    return tuple(outcomes[index] for index in range(len(jobs)))
