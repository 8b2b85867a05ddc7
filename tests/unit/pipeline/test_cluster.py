"""The workers of this machine: one run after the other, on loopback only, and gone at the end."""

from __future__ import annotations

import psutil
import pytest

from rebootless.pipeline import cluster, worker
from rebootless.pipeline.cluster import Where
from rebootless.translate.store import rules


def test_workers_come_and_go(capfd: pytest.CaptureFixture[str]) -> None:
    """Twice, as a run does that has parts to build as one."""
    here = psutil.Process()
    for _ in range(2):
        before = set(here.children(recursive=True))
        with cluster._quiet(), cluster._client(Where(1), "gcc-0") as client:
            wanted = dict.fromkeys(cluster.resources("gcc-0"), 1e-3)
            said, _, pid = client.submit(worker.version, resources=wanted, pure=False).result()
            assert said == rules() and pid != here.pid
            family = [here, *here.children(recursive=True)]
            ends = [c for p in family for c in p.net_connections() if c.status == "LISTEN"]
            assert ends and {c.laddr.ip for c in ends} == {"127.0.0.1"}
        started = [p for p in set(family) - before if p != here]
        workers = [p for p in started if p.pid == pid]
        assert workers and not psutil.wait_procs(workers, timeout=30)[1]
    assert capfd.readouterr() == ("", "")
