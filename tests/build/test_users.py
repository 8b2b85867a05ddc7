"""Who uses a function of a shipped kernel or module, on the stock kernel."""

from __future__ import annotations

import pytest

from rebootless.match.users import User, users_of
from rebootless.pipeline.importers import importers, own_modules
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.provider.base import KernelFiles


@pytest.fixture(scope="module")
def kernel(stock_kernel: KernelFiles) -> ShippedKernel:
    return ShippedKernel(stock_kernel)


def users(kernel: ShippedKernel, owner: str, name: str) -> dict[str, bool]:
    shipped = kernel.shipped(owner)
    (place,) = shipped.candidates(name)
    return {user.name: user.calls for user in users_of(shipped, place)}


def test_callers_and_holders_in_vmlinux(kernel: ShippedKernel) -> None:
    found = users(kernel, "vmlinux", "show_map_vma")
    assert found.get("show_map") is True and "show_map_vma" not in found
    assert users(kernel, "vmlinux", "show_map") == {"proc_pid_maps_op": False}
    # Its address is taken at boot, by code that is gone.
    assert users(kernel, "vmlinux", "version_proc_show") == {"proc_version_init": False}


def test_callers_and_holders_in_a_module(kernel: ShippedKernel) -> None:
    assert users(kernel, "binfmt_misc", "load_misc_binary") == {"misc_format": False}
    shipped = kernel.shipped("binfmt_misc")
    (place,) = shipped.candidates("bm_get_tree")
    assert [type(u) for u in users_of(shipped, place)] == [User]


def test_callers_in_modules(kernel: ShippedKernel) -> None:
    """Modules that import a function and call it; those that only have its name do not count."""
    found = set(importers(own_modules(kernel), ["__sk_flush_backlog", "loop_queue_rq"]))
    assert ("__sk_flush_backlog", "tls_sw_recvmsg", "tls") in found
    assert {symbol for symbol, _, _ in found} == {"__sk_flush_backlog"}, "loop's own is no import"
