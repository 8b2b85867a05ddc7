"""Real kernels for all tests: found in the archive when the tests run, never by a fixed version.

The cache is the user's own (REBOOTLESS_CACHE), so a second run is quick. Where the archive no
longer has what a test needs, the test is skipped, and the reason says so.
"""

from __future__ import annotations

import difflib
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from rebootless.base.errors import RebootlessError
from rebootless.base.events import NullMonitor
from rebootless.compile.tree import Tree, prepare
from rebootless.kernel.release import parse_release
from rebootless.provider.base import KernelFiles
from rebootless.provider.debian import DebianProvider
from rebootless.provider.updates import SourceUpdate, find_small_update

# A shell that starts the tests in the background has them ignore SIGINT, and so would every program
# that a test starts in order to interrupt it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in each run: a new find belongs to bench/fuzz.py, which prints its seed, and to
# `pytest --hypothesis-profile=explore --hypothesis-seed=N`, not to a change that has no part in it.
settings.register_profile(
    "steady",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],  # says more of the machine than of the test
)
settings.register_profile("explore", derandomize=False, deadline=None, print_blob=True)
settings.load_profile("steady")

# Hypothesis also draws constants that it finds in those of our modules that happen to be imported:
# then the examples depend on which tests ran before, and on where we are installed.
_found_in_modules = providers._get_local_constants
providers._get_local_constants = lambda: (
    providers.Constants() if settings().derandomize else _found_in_modules()
)

SERIES = "6.1"
FLAVOUR = "cloud-amd64"
Edits = Mapping[str, tuple[str, str]]

# With several workers, a file at a time each. First one that needs the kernel's files and fills the
# cache with them; then what needs none, so that nobody waits; then by length, so that all workers
# end together. What is in none of these comes in between.
FIRST = ("vm/test_engine_verbs.py", "lint/", "golden/", "vm/test_small_kernel.py")
LONG = (
    *("vm/test_patches.py", "vm/test_core.py", "vm/test_engine.py", "build/test_bad_moments.py"),
    *("vm/test_pertask.py", "vm/test_atomic.py", "vm/test_kexec.py", "build/test_from_source.py"),
    *("build/test_build_pairs.py", "vm/test_jump.py", "vm/test_verify.py", "vm/test_drive.py"),
    *("build/test_bad_input.py", "vm/"),
)
LAST = ("build/", "archive/", "unit/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order in which workers are given the files; alone, everything keeps its own order."""
    if not hasattr(config, "workerinput"):
        return
    order = [*FIRST, *LONG, "", *LAST]
    places = {path: _place(path, order) for path in {item.path for item in items}}
    items.sort(key=lambda item: places[item.path])


def _place(path: Path, order: list[str]) -> int:
    """Where the longest beginning of a path within tests/ stands in `order`."""
    name = path.relative_to(Path(__file__).parent).as_posix()
    return order.index(max((o for o in order if name.startswith(o)), key=len))


@pytest.fixture(scope="session")
def debian() -> DebianProvider:
    """The archive of this machine; skips when it cannot be reached and nothing is cached."""
    provider = DebianProvider()
    try:
        provider.list()
    except RebootlessError as exc:
        pytest.skip(f"no package archive, so NOTHING is tested with real kernels: {exc.message}")
    return provider


@pytest.fixture(scope="session")
def stock_release(debian: DebianProvider) -> str:
    """The newest cloud kernel of the series in a main suite, where versions stay.

    REBOOTLESS_TEST_KERNEL names another one.
    """
    if given := os.environ.get("REBOOTLESS_TEST_KERNEL"):
        return given
    found = [
        k.release
        for k in debian.list()
        if k.buildable
        and k.release.endswith(f"-{FLAVOUR}")
        and parse_release(k.release).series == SERIES
        and any("-security" not in suite for suite in k.origin.split(", "))
    ]
    if not found:
        pytest.skip(f"no main suite has a {SERIES} {FLAVOUR} kernel any more: NOTHING is tested")
    return found[-1]


@pytest.fixture(scope="session")
def stock_kernel(debian: DebianProvider, stock_release: str) -> KernelFiles:
    """All files of the stock kernel, fetched if need be."""
    try:
        return debian.fetch(stock_release, NullMonitor())
    except RebootlessError as exc:
        pytest.skip(f"{stock_release} cannot be fetched, so NOTHING is tested: {exc.message}")


@pytest.fixture(scope="session")
def stock_tree(stock_kernel: KernelFiles) -> Tree:
    """The stock kernel's prepared source."""
    return prepare(stock_kernel, NullMonitor())


@pytest.fixture(scope="session")
def small_update(debian: DebianProvider) -> SourceUpdate:
    """The newest small update of the series in the archive, with the kernel before it."""
    try:
        update = find_small_update(debian, FLAVOUR, SERIES)
    except RebootlessError as exc:
        pytest.skip(f"no update could be looked for: {exc.message}")
    if update is None:
        pytest.skip(f"the archive has no small update of {SERIES} now")
    return update


@pytest.fixture(scope="session")
def edit_patch() -> Callable[[Path, Edits, Path], Path]:
    """Writes a patch of a source tree: for each path, one text is replaced by another."""

    def write(tree: Path, edits: Edits, target: Path) -> Path:
        parts = []
        for path, (old, new) in edits.items():
            before = (tree / path).read_text()
            assert before.count(old) >= 1, f"{path} has no {old!r}"
            after = before.replace(old, new, 1)
            parts += difflib.unified_diff(
                before.splitlines(True), after.splitlines(True), f"a/{path}", f"b/{path}"
            )
        target.write_text("".join(parts))
        return target

    return write
