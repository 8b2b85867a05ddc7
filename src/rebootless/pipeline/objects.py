"""Single stages on given files: the differ, the matcher, and what an artifact contains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..base.errors import BundleError, PatchInputError
from ..base.events import Monitor, NullMonitor, stage
from ..base.fs import read_bytes
from ..bundle import archive
from ..diff import Delta, diff
from ..elf.constants import SectionFlag
from ..elf.reader import parse
from ..elf.reader import read as read_elf
from ..engine import modinfo
from ..lab.report import verdict_of
from ..match import UnitMatch, match_unit
from ..module.resolve import VMLINUX
from ..provider.base import GivenKernel
from .kernel import ShippedKernel, find

SYMBOL_PREFIX = ".klp.sym."


def diff_objects(orig: Path, patched: Path) -> Delta:
    """Compares two object files of one translation unit. Raises ElfError, NotFoundError."""
    return diff(read_elf(orig), read_elf(patched))


def match_object(
    obj: Path,
    *,
    kernel: str | None = None,
    module: str | None = None,
    local: GivenKernel | None = None,
    monitor: Monitor | None = None,
) -> dict[str, Any]:
    """Matches an object file against the shipped kernel, or against one of its modules.

    Returns JSON values: the counts, and per function its status and first differing byte.
    Raises ElfError, NotFoundError, ResourceError.
    """
    monitor = monitor or NullMonitor()
    elf = read_elf(obj)
    shipped = ShippedKernel(find(kernel, local=local, monitor=monitor))
    with stage(monitor, "match", f"Matching {obj.name}"):
        match = match_unit(elf, shipped.shipped(module or VMLINUX))
    return match_facts(match) | {"kernel": shipped.files.release}


def match_facts(match: UnitMatch) -> dict[str, Any]:
    """The outcome of a match as JSON values; addresses of a module's functions are left out."""
    in_image = match.owner == VMLINUX
    return {
        "schema": 1,
        "object": match.owner,
        "functions": [
            {
                "name": f.name,
                "status": f.status.value,
                "address": f.address if in_image else None,
                "size": f.size,
                "first_difference": f.first_difference,
                "expected": f.expected.hex(),
                "found": f.found.hex(),
                "reason": f.reason,
                "explained": list(f.explained),
            }
            for f in match.functions
        ],
    }


def inspect(path: Path) -> dict[str, Any]:
    """What a bundle or a patch module contains, as JSON values; a bundle is verified first.

    Raises BundleError, ElfError, NotFoundError.
    """
    blob = read_bytes(path)
    if blob[:4] == b"\x7fELF":
        return {"schema": 1, "kind": "module", **_module_facts(blob, str(path))}
    if blob[:2] != b"PK":
        raise BundleError(
            f"{path}: neither a bundle nor a kernel module",
            hint="it may be truncated: `rebootless build` writes a new one",
        )
    bundle = archive.decode(blob, where=str(path))
    return {
        "schema": 1,
        "kind": "bundle",
        "id": bundle.id,
        "manifest": bundle.manifest.to_json(),
        "modules": [
            {"module": name, **_module_facts(module, name)}
            for name, module in bundle.modules.items()
        ],
        "report": bundle.report,
        "tested": bundle.test_log is not None,
        "verdict": verdict_of(bundle.test_log or ""),
        "test_log": bundle.test_log or "",
    }


def _module_facts(blob: bytes, name: str) -> dict[str, Any]:
    info = modinfo.parse(blob, name=name)
    if not info.name:
        raise PatchInputError(f"{name}: an ELF file, but not a kernel module")
    elf = parse(blob, name=name)
    relocations = {
        s.name: s.size // s.entsize
        for s in elf.sections
        if s.flags & SectionFlag.RELA_LIVEPATCH and s.entsize
    }
    return {
        "name": info.name,
        "livepatch": info.is_livepatch,
        "vermagic": info.first("vermagic"),
        "depends": list(info.depends),
        "livepatch_symbols": [
            n.removeprefix(SYMBOL_PREFIX) for n in elf.symbols.names if n.startswith(SYMBOL_PREFIX)
        ],
        "livepatch_relocations": relocations,
    }
