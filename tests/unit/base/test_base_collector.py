from __future__ import annotations

import gc

import pytest

from rebootless.base.collector import SELDOM, seldom_collected


def test_thresholds_come_back_whatever_happens() -> None:
    before = gc.get_threshold()

    @seldom_collected()
    def work() -> None:
        assert gc.get_threshold()[0] == SELDOM
        raise KeyError

    for _ in range(2):
        with pytest.raises(KeyError):
            work()
        assert gc.get_threshold() == before
