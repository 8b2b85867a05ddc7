"""The judgement made while make links: told at the end, and before what failed meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from rebootless.base.errors import CompileError, RefusedError
from rebootless.base.events import RecordingMonitor, StageFinished, Warned, stage
from rebootless.base.workdir import Workdir
from rebootless.diff.delta import Finding
from rebootless.patch.source import SourcePatch
from rebootless.pipeline import checking
from rebootless.pipeline.job import Job, Unit
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.pipeline.meanwhile import Meanwhile
from rebootless.safety import Verdict

REFUSED = Verdict((Finding("layout-changed", "thing", "no"),))
WARNED = Verdict(warnings=(Finding("may-sleep-long", "f", "sleeps"),))


class Told:
    def __init__(self) -> None:
        self.events: list[object] = []

    def emit(self, event: object) -> None:
        self.events.append(event)


class Bench:
    """A job whose safety checks say what the test wants, once the block has begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.told, self.begun = Told(), threading.Event()
        patch = SourcePatch("p", b"", (), (), "", ())
        kernel = ShippedKernel(None)  # type: ignore[arg-type]
        self.job = Job("p", "1", patch, kernel, False, (), Workdir(folder), self.told)
        self.verdict = WARNED
        monkeypatch.setattr(checking, "check", self._check)

    def _check(self, job: Job, units: Sequence[Unit]) -> Verdict:
        assert self.begun.wait(10), "the checks run while the block does"
        return self.verdict


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, tmp_path)


def test_the_verdict_is_told_at_the_end(bench: Bench) -> None:
    with Meanwhile() as meanwhile:
        with meanwhile.judging(bench.job, []):
            assert not bench.told.events
            bench.begun.set()
        assert bench.told.events == [Warned("[may-sleep-long] sleeps")]


def test_or_when_it_is_asked_for_and_then_once(bench: Bench) -> None:
    bench.begun.set()
    with Meanwhile() as meanwhile, meanwhile.judging(bench.job, []) as tell:
        tell()
        assert len(bench.told.events) == 1
    assert len(bench.told.events) == 1


def test_a_refusal_stands_before_what_failed_meanwhile(bench: Bench) -> None:
    bench.verdict = REFUSED
    bench.begun.set()
    with (
        pytest.raises(RefusedError) as refused,
        Meanwhile() as meanwhile,
        meanwhile.judging(bench.job, []),
    ):
        raise CompileError("the link failed")
    assert [f.code for f in refused.value.refusals] == ["layout-changed"]


@pytest.mark.parametrize("kind", [CompileError, KeyboardInterrupt])
def test_what_failed_meanwhile_is_not_lost(bench: Bench, kind: type[BaseException]) -> None:
    if kind is KeyboardInterrupt:
        bench.verdict = REFUSED  # an interrupt is no occasion to say so
    bench.begun.set()
    with pytest.raises(kind), Meanwhile() as meanwhile, meanwhile.judging(bench.job, []):
        raise kind("meanwhile")


def test_stages_of_two_threads_are_recorded_one_at_a_time() -> None:
    class Slow(Told):
        inside = 0

        def emit(self, event: object) -> None:
            Slow.inside += 1
            assert Slow.inside == 1
            threading.Event().wait(0.001)
            super().emit(event)
            Slow.inside -= 1

    slow = Slow()
    recorder = RecordingMonitor(slow)

    def work(name: str) -> None:
        for _ in range(10):
            with stage(recorder, name, name):
                pass

    threads = [threading.Thread(target=work, args=(name,)) for name in ("check", "link")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ended = [e.name for e in slow.events if isinstance(e, StageFinished)]
    assert sorted(ended) == ["check"] * 10 + ["link"] * 10
    assert recorder.seconds.keys() == {"check", "link"}
