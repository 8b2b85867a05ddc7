"""Landing pads of IBT kernels: what `safety/landing.py` judges, asked of the matched units."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from ..base.errors import CompileError
from ..diff.delta import Finding, KernelRef
from ..diff.normalize import normalize
from ..elf.model import ElfFile
from ..module.resolve import VMLINUX, Livepatch, Plain, Resolved, owner_of
from ..safety.landing import ImagePads, ModulePads, check_pointers, missing_pads
from .job import Job, Unit
from .kernel import ShippedKernel

IBT = "X86_KERNEL_IBT"


def pointers_into_kernel(job: Job, units: Sequence[Unit]) -> list[Finding]:
    """The functions of the kernel that emitted units point to and that no pointer may lead to."""
    if not job.kernel.config.enabled(IBT):
        return []
    pads = _Pads(job)
    found: list[Finding] = []
    for unit in units:
        assert unit.emitted is not None
        lands = functools.partial(pads.lands, unit.emitted.resolved)
        found += check_pointers(unit.delta.pieces, normalize(unit.orig), lands)
    return found


def check_module(kernel: ShippedKernel, module: ElfFile) -> None:
    """Raises CompileError when a function that the module itself points to has no landing pad."""
    missing = missing_pads(normalize(module)) if kernel.config.enabled(IBT) else ()
    if missing:
        raise CompileError(
            f"{module.name} points to functions without a landing pad (CONFIG_{IBT}): "
            + ", ".join(missing[:4]),
            hint="is a function of the patch `__noendbr`, or an alias of an assembly one?",
        )


class _Pads:
    """The landing pads of whatever object a reference is resolved to."""

    def __init__(self, job: Job) -> None:
        self._kernel = job.kernel
        self._objects: dict[str, ImagePads | ModulePads] = {}

    def lands(self, resolved: Mapping[KernelRef, Resolved], ref: KernelRef) -> bool | None:
        target = resolved.get(ref)
        if isinstance(target, Livepatch):
            return (
                None
                if target.offset
                else self._of(target.object).lands(target.name, target.position)
            )
        if isinstance(target, Plain) and (export := self._kernel.exports.get(target.name)):
            return self._of(owner_of(export)).lands(target.name, 0)
        return None

    def _of(self, owner: str) -> ImagePads | ModulePads:
        if owner not in self._objects:
            self._objects[owner] = (
                ImagePads(self._kernel.image, self._kernel.symbols)
                if owner == VMLINUX
                else ModulePads(self._kernel.module(owner))
            )
        return self._objects[owner]
