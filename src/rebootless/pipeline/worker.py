"""What a worker of translate does, in a process of its own: candidates of one kernel, one by one.

A worker needs this program in the same version (its rules are compared), the kernel's compiler,
and disk for a prepared tree. All else it gets by itself, by the kernel's release, into its own
cache: the worker may be on another machine. It sits at a desk of that tree until it ends.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base.errors import MismatchError, WrongKernelError
from ..base.events import NullMonitor
from ..compile import desk
from ..compile.tree import prepare
from ..translate.model import Candidate
from ..translate.store import Store, is_kept, pack, rules
from .candidate import Builder
from .kernel import ShippedKernel, find


@dataclass(frozen=True)
class Order:
    """What all candidates of a run have in common: given to each worker with each of them.

    `results` is a folder for results other than the one in the worker's cache, "" for that.
    """

    release: str
    build_id: str
    rules: str
    suites: tuple[str, ...] = ()
    max_units: int = 60
    results: str = ""


@dataclass(frozen=True)
class Seat:
    """A worker that is ready: its builder, and its own store."""

    builder: Builder
    store: Store
    open: contextlib.ExitStack


_seats: dict[Order, Seat] = {}


def build(order: Order, candidate: Candidate, coming: Sequence[str] = ()) -> bytes:
    """The packed result of a candidate (translate.store), from the worker's store or built now.

    `coming` are units that the worker may get later: kbuild is asked about all of them at once.
    Raises MismatchError (another version of the program), WrongKernelError, and what a builder
    raises of this machine (ResourceError, CommandError, NotFoundError).
    """
    if order.rules != rules():
        raise MismatchError(
            "the worker has another version of rebootless than the one that gives it work",
            hint="install the same version everywhere",
        )
    store = Store(Path(order.results) if order.results else None)
    if store.has(candidate.key):  # done before a worker or the whole run was killed
        return store.path(candidate.key).read_bytes()
    seat = _seats.get(order) or _sit(order, store)
    seat.builder.desk.ask_about([*candidate.units, *coming])
    result, part = seat.builder.build(candidate)
    packed = pack(result, part)
    if is_kept(result):
        store.put_packed(candidate.key, packed)
    return packed


def _sit(order: Order, store: Store) -> Seat:
    """Makes everything ready: the kernel's files, the tree, a desk (seconds, or a download)."""
    leave()  # the work for another kernel
    kernel = ShippedKernel(find(order.release, suites=order.suites, monitor=NullMonitor()))
    if kernel.image.build_id != order.build_id:
        raise WrongKernelError(
            f"the worker's {order.release} has build-id {kernel.image.build_id}, and the work is "
            f"for {order.build_id}"
        )
    kernel.read_ahead()
    with contextlib.ExitStack() as stack:
        mine = stack.enter_context(desk.taken(prepare(kernel.files, NullMonitor())))
        builder = Builder(kernel, mine, mine.scratch, max_units=order.max_units)
        _seats[order] = Seat(builder, store, stack.pop_all())
    return _seats[order]


def leave() -> None:
    """Gets up from the desk, and removes what lies around."""
    for order in list(_seats):
        _seats.pop(order).open.close()


def version() -> tuple[str, str, int]:
    """The worker's rules, its cache, and its process: for those who give it work."""
    from ..base.fs import cache_root

    return rules(), str(cache_root()), os.getpid()
