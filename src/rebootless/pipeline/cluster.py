"""Candidates to workers, by Dask distributed: processes of this machine, or those of a scheduler.

A task is one candidate. It may run twice or be taken over by another worker: its result is kept by
content, and is the same whoever makes it. Only a few tasks are out at a time, so that the memory of
a run does not depend on its length.

The workers of this machine end with this process, however it ends. No dashboard is served (Dask's
HTTP servers have no pages), nothing listens but on the loopback interface, and only with a key of
the run can anyone connect.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..base.errors import NotFoundError, RebootlessError, ResourceError
from ..base.fs import cache_root
from ..translate.model import Candidate
from . import worker
from .worker import Order

if TYPE_CHECKING:
    from distributed import Client, Future

ARCHITECTURE = "x86_64"
MEMORY = 2 << 30  # bytes for a worker and its compiler; a worker that takes more is begun anew
OUT = 3  # tasks given out for each worker
RETRIES = 2
PATIENCE = 20.0  # seconds for a scheduler to answer, and for its workers
LOGGERS = ("distributed", "distributed.worker", "distributed.nanny", "distributed.scheduler",
           "distributed.core", "distributed.comm", "distributed.utils_perf", "tornado",
           "asyncio")  # fmt: skip

Ended = Callable[[Candidate, bytes | RebootlessError], None]


@dataclass(frozen=True)
class Where:
    """Who does the work: `jobs` processes here (0: as many as fit), or those of `scheduler`."""

    jobs: int = 0
    scheduler: str = ""

    @property
    def processes(self) -> int:
        """How many workers this machine has cores and memory for."""
        return self.jobs or max(1, min(os.cpu_count() or 1, _memory() // MEMORY))


def resources(compiler: str) -> dict[str, float]:
    """What a worker has to offer, in Dask's terms: its architecture and the compiler."""
    return {ARCHITECTURE: 1, compiler: 1}


def run(
    candidates: Sequence[Candidate], order: Order, where: Where, compiler: str, ended: Ended
) -> None:
    """Has every candidate built; `ended` is told of each, as they come, in this thread.

    It gets the packed result (translate.store), or why none could be made. Raises NotFoundError
    (no scheduler, or no worker for the work), ResourceError, MismatchError (another version).
    """
    if not candidates:
        return
    with _quiet(), _client(where, compiler) as client:
        _check_workers(client, compiler, order)
        units = tuple(dict.fromkeys(unit for c in candidates for unit in c.units))
        waiting = list(candidates)[::-1]
        out: dict[Future[Any], Candidate] = {}
        wanted = dict.fromkeys(resources(compiler), 1e-3)

        def give() -> None:
            # Workers come and go on a scheduler: asked each time.
            most = OUT * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
            while waiting and len(out) < most:
                candidate = waiting.pop()
                future = client.submit(
                    worker.build, order, candidate, units, key=f"translate-{candidate.key}",
                    resources=wanted, retries=RETRIES, pure=False,
                )  # fmt: skip
                out[future] = candidate

        give()
        while out:
            for future in _done(list(out)):
                ended(out.pop(future), _outcome(future))
                future.release()
            give()


def _done(futures: list[Future[Any]]) -> list[Future[Any]]:
    """Waits until one has ended; returns all that have."""
    from distributed import wait

    return list(wait(futures, return_when="FIRST_COMPLETED").done)


def _outcome(future: Future[Any]) -> bytes | RebootlessError:
    """The packed result, or the error of a worker."""
    from distributed.scheduler import KilledWorker

    try:
        packed: bytes = future.result()
        return packed
    except RebootlessError as exc:
        return exc
    except KilledWorker:
        return ResourceError(
            "the workers that had it were killed, one after the other",
            hint="give them more memory, or use fewer --jobs",
        )
    except Exception as exc:  # whatever went wrong on a worker is a failure of this one candidate
        return RebootlessError(f"the worker failed: {type(exc).__name__}: {exc}")


@contextlib.contextmanager
def _client(where: Where, compiler: str) -> Iterator[Client]:
    from distributed import Client

    if where.scheduler:
        try:
            client = Client(where.scheduler, timeout=PATIENCE)
        except (OSError, ValueError, TimeoutError) as exc:
            raise NotFoundError(
                f"no scheduler answers at {where.scheduler}: {exc}",
                hint="start one with `dask scheduler`, and give its address as tcp://HOST:PORT",
            ) from exc
        with client:
            yield client
        return
    with _local(where.processes, compiler) as cluster, Client(cluster) as own:
        yield own


def _local(processes: int, compiler: str) -> Any:
    """Workers of this machine; what they leave on disk is in the cache."""
    from distributed import LocalCluster

    folder = cache_root() / "work" / "dask"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return LocalCluster(
            n_workers=processes,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            security=True,  # who may connect may run code: nobody but us, by keys made for the run
            dashboard_address="127.0.0.1:0",
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=MEMORY,
            resources=resources(compiler),
            silence_logs=logging.CRITICAL,
            local_directory=str(folder),
        )
    except (OSError, TimeoutError) as exc:
        raise ResourceError(f"the workers could not be started: {exc}") from exc


def _check_workers(client: Client, compiler: str, order: Order) -> None:
    """Raises NotFoundError unless a worker has what the work needs, and the same program."""
    needed = resources(compiler)
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        raise NotFoundError("the scheduler has no workers", hint=_how_to_start(compiler)) from None
    known = client.scheduler_info(n_workers=-1)["workers"]
    able = [a for a, facts in known.items() if needed.keys() <= facts.get("resources", {}).keys()]
    if not able:
        raise NotFoundError(
            f"none of the scheduler's {len(known)} workers offers {' and '.join(needed)}",
            hint=_how_to_start(compiler),
        )


def _how_to_start(compiler: str) -> str:
    offered = " ".join(f"{name}=1" for name in resources(compiler))
    return f'start them with `dask worker ADDRESS --nthreads 1 --resources "{offered}"`'


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what Dask logs off the screen, here and in the workers, and its files in the cache."""
    import dask
    import distributed  # noqa: F401 (first: its own defaults must outlast what is set here)

    levels = dict.fromkeys(LOGGERS, "critical")
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    settings: dict[str, Any] = {
        "logging": levels,
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        "distributed.scheduler.allowed-failures": RETRIES,
        "temporary-directory": str(cache_root() / "work"),
    }
    with dask.config.set(settings):
        for name in LOGGERS:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def _memory() -> int:
    """The bytes of memory that programs can have now."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return MEMORY
