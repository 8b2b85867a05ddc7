"""Python's cyclic garbage collector, for work that makes many objects and keeps most of them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

SELDOM = 200_000  # new objects between two looks; Python's own is 700


@contextlib.contextmanager
def seldom_collected() -> Iterator[None]:
    """Looks for cycles seldom while the block (or the decorated function) runs.

    A build keeps what it reads until its end, so that each look goes over all of it in vain: a
    sixth of the time for a patch of 20 units.
    """
    before = gc.get_threshold()
    gc.set_threshold(SELDOM, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
