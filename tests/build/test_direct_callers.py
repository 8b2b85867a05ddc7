"""Callers found in the code of a real kernel."""

from __future__ import annotations

from iced_x86 import Decoder

from rebootless.kernel.callers import direct_callers
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.provider.base import KernelFiles


def test_what_is_named_really_calls(stock_kernel: KernelFiles) -> None:
    kernel = ShippedKernel(stock_kernel)
    (many,) = kernel.symbols.addresses("seq_puts")
    (none,) = kernel.symbols.addresses("version_proc_show")  # reached through a pointer only
    found = direct_callers(kernel.image, kernel.symbols, [many, none])
    assert found[none] == ()
    assert len(found[many]) > 50
    for name in found[many][::10]:
        starts = kernel.symbols.addresses(name)
        ends = [kernel.symbols.end_of(start) or start for start in starts]
        bodies = [
            (s, bytes(kernel.image.read(s, e - s))) for s, e in zip(starts, ends, strict=True)
        ]
        assert any(
            instruction.near_branch_target == many
            for start, body in bodies
            for instruction in Decoder(64, body, ip=start)
        ), name
