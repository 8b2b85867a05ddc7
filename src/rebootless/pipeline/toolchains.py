"""Toolchain roots: which there are, making one ahead of a build, removing one."""

from __future__ import annotations

from collections.abc import Sequence

from ..base.events import Monitor, NullMonitor
from ..provider import rootmaking, toolroots
from ..provider.toolroots import Root
from .kernel import find


def toolchains() -> dict[str, object]:
    """The roots that are there, and whether more can be made on this machine."""
    return {"toolchains": toolroots.roots(), "can_make": toolroots.makes_roots()}


def toolchain_make(
    release: str | None = None,
    *,
    compiler: str = "",
    suite: str = "",
    suites: Sequence[str] = (),
    monitor: Monitor | None = None,
) -> Root:
    """Makes a root with the compiler of a kernel (default: the running one), unless there is one.

    `compiler` is a version line, to be given instead of a kernel; `suite` the only suite to look
    in; `suites` are where the kernel may be found. Raises as `rootmaking.obtain` does, and what
    `find` does.
    """
    monitor = monitor or NullMonitor()
    wanted = compiler or find(release, suites=suites, monitor=monitor).compiler_text
    return rootmaking.new_root(wanted, monitor, suite=suite)


def toolchain_remove(name: str) -> Root:
    """Removes a root; trees that were prepared in it are prepared anew when they are needed."""
    return toolroots.remove(name)
