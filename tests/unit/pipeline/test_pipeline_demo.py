"""Which kernel the demo takes."""

from __future__ import annotations

from rebootless.pipeline.demonstrating import best_kernel
from rebootless.provider.base import KernelInfo, KernelState


def kernel(release: str, *states: KernelState, buildable: bool = True) -> KernelInfo:
    return KernelInfo(release, "", "", frozenset(states), buildable)


OLD = kernel("6.1.0-55-cloud-amd64", KernelState.ARCHIVE)
NEW = kernel("6.1.0-56-cloud-amd64", KernelState.ARCHIVE)
OTHERS = [
    kernel("6.1.0-57-amd64"),
    kernel("6.1.0-58-cloud-amd64", buildable=False),
    kernel("6.12.117+deb12-cloud-amd64", KernelState.CACHED),
    kernel("6.18.44-local", KernelState.RUNNING),
]


def test_the_newest_of_the_series() -> None:
    assert best_kernel([OLD, NEW, *OTHERS]) == NEW
    assert best_kernel(OTHERS) is None


def test_one_that_is_there_already() -> None:
    cached = kernel(OLD.release, KernelState.ARCHIVE, KernelState.CACHED)
    assert best_kernel([cached, NEW, *OTHERS]) == cached
