"""What a build does in a thread of its own while gcc and make are waited for.

The judgement needs half a second for a patch of 20 units, the explanation a quarter, and both can
be had while make links the module. What they are made of is imported then, too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ..base.errors import RebootlessError
from . import telling
from .job import Job, Unit

if TYPE_CHECKING:
    from ..safety import Verdict

Given = ParamSpec("Given")
Made = TypeVar("Made")


class Meanwhile:
    """One thread, which takes one thing after another; the block's end waits for them."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1)

    def __enter__(self) -> Meanwhile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=error is not None)

    def read_ahead(self, job: Job) -> None:
        """Reads the shipped kernel; what fails will fail again where it is needed."""
        self._start(job.kernel.read_ahead)

    @contextlib.contextmanager
    def judging(self, job: Job, units: Sequence[Unit]) -> Iterator[Callable[[], None]]:
        """Runs the safety checks over the matched units while the block runs.

        What they found is told at its end, and when what it yields is called. Raises RefusedError
        then, also where the block has failed: the verdict says more than what came of the patch.
        """
        verdict = self._start(_judge, job, units)

        def tell() -> None:
            telling.judge(job, verdict.result())

        try:
            yield tell
        except RebootlessError:
            tell()
            raise
        tell()

    def explain(self, job: Job, units: Sequence[Unit]) -> Future[dict[str, Any]]:
        """Makes the document explain.json of the emitted units."""
        return self._start(_explain, job, units)

    def _start(
        self, work: Callable[Given, Made], *given: Given.args, **named: Given.kwargs
    ) -> Future[Made]:
        return self._thread.submit(work, *given, **named)


def _judge(job: Job, units: Sequence[Unit]) -> Verdict:
    from .checking import check  # late: see above

    return check(job, units)


def _explain(job: Job, units: Sequence[Unit]) -> dict[str, Any]:
    from .explaining import of_build  # late: see above

    return of_build(job, units)
