"""Verifying the code of a real kernel: what it changes itself is no difference, all else is."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rebootless import pipeline
from rebootless.engine import patching
from rebootless.integrity.report import Report
from rebootless.integrity.show import whole
from rebootless.kernel.image import load as load_image
from rebootless.kernel.kallsyms import decode
from rebootless.kernel.symbols import SymbolIndex
from rebootless.pipeline.verifying import verify

pytestmark = pytest.mark.vm

Verify = Callable[[], Report]
TRACING = "/sys/kernel/tracing"
# Never called here, so that spoiling it does no harm.
VICTIM, OFFSET = "version_proc_show", 12


@pytest.fixture(scope="module")
def shared_lab(boot, tmp_path_factory) -> Iterator:
    disk = tmp_path_factory.mktemp("disk") / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    with boot(cpus=2, disk=disk, core=True) as lab:
        lab.guest.check("insmod /lib/modules/dummy.ko")
        yield lab


@pytest.fixture
def check(lab, kernel) -> Verify:
    """Verifies the guest."""
    return lambda: verify(image=kernel.image, modules=kernel.modules, machine=lab.machine)


def rewritten(report: Report, kind: str) -> int:
    """How many sites of a kind are not as shipped."""
    return sum(k.altered for v in report.verdicts for k in v.kinds if k.name == kind)


def boundary(kernel) -> int:
    """Where an instruction of the victim begins, not too near to its entry."""
    image = load_image(kernel.image)
    address = SymbolIndex(decode(image)).addresses(VICTIM)[0]
    return whole(image.read(address, 64).tobytes(), 12, 12)[1]


def assert_clean(report: Report) -> None:
    assert [d for v in report.verdicts for d in v.differences] == []
    assert [u for v in report.verdicts for u in v.undecided] == []


@pytest.fixture(scope="module")
def at_first(shared_lab, kernel) -> Report:
    """The guest before anything was done to it."""
    return verify(image=kernel.image, modules=kernel.modules, machine=shared_lab.machine)


def test_a_stock_kernel_is_as_shipped(lab, at_first: Report) -> None:
    assert_clean(at_first)
    assert {v.object for v in at_first.verdicts} >= {"vmlinux", "dummy", "virtio_blk"}
    assert at_first.skipped == ()
    for kind in ("return", "alternative", "static-call", "static-branch", "fentry"):
        assert rewritten(at_first, kind) > 50, kind


def test_tracepoints_tracers_kprobes_and_live_patches_are_accounted_for(
    lab, kernel, patches, core_module, at_first: Report, check: Verify
) -> None:
    probes = (f"p:one {VICTIM}+{boundary(kernel)}", "p:two uptime_proc_show")
    lab.guest.check(
        f"cd {TRACING}; printf 'vfs_*\\ndummy_*\\n' >set_ftrace_filter;"
        "echo function >current_tracer; echo 1 >events/sched/sched_switch/enable;"
        f"printf '%s\\n' '{probes[0]}' '{probes[1]}' >kprobe_events;"
        "echo 1 >events/kprobes/enable; sleep 1"
    )
    patching.apply(lab.machine, patches["rl_cmdline"], engine="per-task", core_module=core_module)
    patching.apply(lab.machine, patches["rl_dummy"])
    listed = lab.guest.check("cat /sys/kernel/debug/kprobes/list")
    busy = check()
    undone = [patching.undo(lab.machine, name) for name in ("rl_dummy", "rl_cmdline")]
    lab.guest.check(
        f"cd {TRACING}; echo 0 >events/kprobes/enable; echo >kprobe_events;"
        "echo 0 >events/enable; echo nop >current_tracer; echo >set_ftrace_filter"
    )
    lab.machine.remove_module("rebootless_core")
    assert_clean(busy)
    assert "[OPTIMIZED]" in listed
    assert rewritten(busy, "kprobe") == 1, listed  # that at an entry is ftrace's
    assert rewritten(busy, "static-branch") > rewritten(at_first, "static-branch")
    assert {(r.object, r.function, r.patches) for v in busy.verdicts for r in v.redirected} == {
        ("dummy", "dummy_get_stats64", ("rl_dummy",)),
        ("vmlinux", "cmdline_proc_show", ("rl_cmdline",)),
    }
    assert {s.object for s in busy.skipped} == {"rl_cmdline", "rl_dummy", "rebootless_core"}
    assert [u.still_redirected for u in undone] == [(), ()]


@pytest.mark.parametrize("target", [f"vmlinux {VICTIM}", "dummy dummy_xmit"])
def test_spoiled_code_is_told_by_function_and_bytes(lab, check: Verify, target: str) -> None:
    owner, function = target.split()
    name = function if owner == "vmlinux" else f"{owner}:{function}"
    lab.machine.load_module(b"", name="rl_poke", parameters=f"name={name} offset={OFFSET} count=2")
    report = check()
    lab.machine.remove_module("rl_poke")
    (found,) = [d for v in report.verdicts for d in v.differences]
    assert (found.object, found.function) == (owner, function)
    assert found.offset <= OFFSET < found.offset + found.size
    at = OFFSET - found.offset
    turned = bytes(b ^ 0xFF for b in found.expected[at : at + 2])
    assert found.found == found.expected[:at] + turned + found.expected[at + 2 :]
    assert found.expected_code


def test_after_an_undo_all_code_is_as_shipped(lab, patches) -> None:
    patching.apply(lab.machine, patches["rl_cmdline"])
    compared = pipeline.undo("rl_cmdline", machine=lab.machine).compared
    assert compared is not None and compared.clean is True, compared
