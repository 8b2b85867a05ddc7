"""All candidates that are safe together, as one cumulative bundle: linked from kept parts, tested.

Nothing is compiled again. The bundle replaces every patch applied before it, as each update of a
distribution contains those before. Tested in QEMU on the very kernel; where that fails, by halves,
until it is known which candidates are to blame.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..base.errors import BundleError, CompileError, MismatchError, NotFoundError, RebootlessError
from ..base.events import Monitor, Warned, stage
from ..base.fs import atomic_write, read_bytes
from ..base.proc import which
from ..base.words import counted
from ..base.workdir import Workdir, fingerprint
from ..bundle import archive
from ..bundle.manifest import CallbackEntry, CoreEntry, Features, Manifest, StateEntry, TargetKernel
from ..bundle.manifest import PatchedFunction as FunctionEntry
from ..bundle.manifest import PatchedObject as ObjectEntry
from ..compile.tree import Tree
from ..diff.delta import CallbackKind
from ..elf.reader import parse as parse_elf
from ..engine.modinfo import parse as parse_modinfo
from ..engine.transition import Policy
from ..lab.report import FAILED, TestReport
from ..lab.scenario import run as run_scenario
from ..module.abi import check_abi
from ..module.features import merge_states
from ..module.link import PatchedFunction, PatchedObject, link
from ..module.resolve import VMLINUX
from ..translate import bisect
from ..translate.model import Candidate
from ..translate.parts import NO_ADDRESS, Part, PartUnit
from .artifact import REPORT_SCHEMA
from .cores import core_for
from .kernel import ShippedKernel
from .landing import check_module
from .linking import max_symbol
from .testing import scenario_of

MEMORY_MIB = 1024  # for all modules that an update touches
PATIENCE = 300.0  # seconds: a busy host must not make good patches fail
# Steps of a test at which a failure is none of the patch's.
NOT_OURS = ("boot", "load modules", "start workload")


@dataclass(frozen=True)
class Combined:
    """The bundle of what works together, its last test, and why others are not in it.

    `bundle` is None when there is nothing to put into one; `test` is the log, "" when no test could
    be made. `excluded` says by key what was found against a candidate.
    """

    bundle: Path | None = None
    test: str = ""
    keys: tuple[str, ...] = ()
    excluded: dict[str, str] = field(default_factory=dict)


class Combiner:
    """Links and tests candidates whose parts are at hand.

    `part_of` reads a part by its key, one at a time: only what the link needs is kept in memory.
    What came of each test is kept in the folder `verdicts`, for a run that follows an interrupted
    one, or that has the same parts.
    """

    def __init__(
        self,
        kernel: ShippedKernel,
        tree: Tree,
        name: str,
        work: Workdir,
        candidates: Sequence[Candidate],
        part_of: Callable[[str], Part],
        verdicts: Path,
        monitor: Monitor,
        toolchain: str = "",
    ) -> None:
        self.kernel = kernel
        self.tree = tree
        self.name = name
        self.work = work
        self.candidates = {c.key: c for c in candidates}
        self.part_of = part_of
        self.verdicts = verdicts
        self.monitor = monitor
        self.toolchain = toolchain
        self.why: dict[str, str] = {}
        self.test = ""

    def combine(self, output: Path, *, test: bool = True) -> Combined:
        """The bundle of all that work together, written to `output`. Raises ResourceError.

        Without `test` it is linked only. A machine without QEMU gets a warning.
        """
        keys = tuple(self.candidates)
        if not keys:
            return Combined()
        can_test = test and self._has_qemu()
        try_out = self._works if can_test else self._links
        bad = bisect.culprits(keys, lambda chosen: try_out(chosen, output))
        good = tuple(key for key in keys if key not in bad)
        excluded = {key: self.why.get(key, "it fails together with others") for key in bad}
        if not good:
            return Combined(None, "", (), excluded)
        if bad:  # the last one tried need not be the whole
            try_out(good, output)
        return Combined(output, self.test if can_test else "", good, excluded)

    def _has_qemu(self) -> bool:
        try:
            which("qemu-system-x86_64")
        except NotFoundError as exc:
            self.monitor.emit(Warned(f"nothing is tested: {exc.message}"))
            return False
        return True

    def _links(self, keys: Sequence[str], output: Path) -> bool:
        """Links and writes the bundle of these candidates; False when that fails."""
        try:
            archive.write(self.bundle(keys), output)
        except (CompileError, MismatchError) as exc:
            self._blame(keys, exc.message)
            return False
        return True

    def _works(self, keys: Sequence[str], output: Path) -> bool:
        """Links these candidates and tries them in QEMU; False when either fails."""
        kept = self.verdicts / fingerprint(self.name, *keys)
        good, bad = kept.with_suffix(archive.SUFFIX), kept.with_suffix(".json")
        with contextlib.suppress(BundleError, NotFoundError):
            content = archive.read(good)
            archive.write(content, output)
            self.test = content.test_log or ""
            return True
        with contextlib.suppress(OSError, ValueError):
            self._blame(keys, str(json.loads(bad.read_text())["why"]))
            return False
        works = self._links(keys, output) and self._passes(keys, output)
        if not works:
            atomic_write(bad, json.dumps({"why": self.why[keys[-1]]}))
        elif self.test:
            atomic_write(good, read_bytes(output))
        return works

    def _passes(self, keys: Sequence[str], output: Path) -> bool:
        title = f"Testing {counted(len(keys), 'part')} together in QEMU"
        with stage(self.monitor, "test", title) as shown:
            report = self._tested(output)
            self.test = report.text()
            shown.result = report.verdict + (f": {report.reason}" if report.reason else "")
        if report.passed:
            return True
        failed = next((s.name for s in report.steps if s.outcome == FAILED), "boot")
        if failed in NOT_OURS:
            self.monitor.emit(Warned(f"the test could not be made ({failed}): {report.reason}"))
            self.test = ""
            return True
        self._blame(keys, f"the test in QEMU failed at '{failed}': {report.reason}")
        return False

    def _tested(self, output: Path) -> TestReport:
        content = archive.read(output)
        scenario = replace(
            scenario_of(content, self.kernel.files),
            must_load=False,
            memory_mib=MEMORY_MIB,
            boot_timeout=PATIENCE,
            policy=Policy(wait=PATIENCE),
        )
        report = run_scenario(scenario, output.with_suffix(".console.log"), self.monitor)
        archive.write(archive.with_test_log(content, report.text()), output)
        return report

    def _blame(self, keys: Sequence[str], message: str) -> None:
        """The last that came to what works is what made it fail."""
        self.why[keys[-1]] = message

    def bundle(self, keys: Sequence[str]) -> archive.Bundle:
        """The candidates as one bundle, not tested. Raises CompileError, MismatchError."""
        with stage(self.monitor, "link", f"Linking {counted(len(keys), 'part')} into one module"):
            units, blobs = self._units(keys)
            module = self._link(units, blobs)
        core = core_for(self.tree, self.monitor)
        chosen = [self.candidates[key] for key in keys]
        members = {
            f"{archive.MODULES}{self.name}.ko": module,
            archive.SOURCE_PATCH: b"\n".join(c.patch for c in chosen),
            archive.MATCH: _json({"units": [json.loads(u.evidence) for u in units]}),
            archive.REPORT: _json(self._report(chosen, units)),
            **({archive.CORE: read_bytes(core.path)} if core else {}),
        }
        entry = CoreEntry(core.abi, archive.CORE) if core else None
        return archive.create(self._manifest(chosen, units, module, entry), members)

    def _units(self, keys: Sequence[str]) -> tuple[list[PartUnit], list[bytes]]:
        units: list[PartUnit] = []
        blobs: list[bytes] = []
        for key in keys:
            part = self.part_of(key)
            units += part.units
            blobs += part.objects
        return units, blobs

    def _link(self, units: Sequence[PartUnit], blobs: Sequence[bytes]) -> bytes:
        with self.work.running("4-module", "") as folder:
            module = link(
                self.name,
                objects=[_object(name, group) for name, group in _by_object(units).items()],
                units=blobs,
                make=self.tree.make,
                folder=folder,
                replace=True,
                states=merge_states(u.states for u in units),
                namespaces={n for u in units for n in u.namespaces},
                mirrors=[m for u in units for m in u.mirrors],
                max_symbol=max_symbol(self.tree),
                livepatch=self.kernel.has_livepatch,
            )
            finished = parse_elf(module, name=self.name)
            check_abi(finished, self.kernel.some_modules())
            check_module(self.kernel, finished)
        return module

    def _manifest(
        self,
        chosen: Sequence[Candidate],
        units: Sequence[PartUnit],
        module: bytes,
        core: CoreEntry | None,
    ) -> Manifest:
        kernel = self.kernel
        return Manifest(
            name=self.name,
            version="1",
            kernel=TargetKernel(
                kernel.files.release,
                kernel.image.build_id,
                "x86_64",
                parse_modinfo(module, name=self.name).first("vermagic"),
                kernel.files.version,
            ),
            objects=tuple(
                ObjectEntry(
                    name,
                    tuple(entry for unit in group for entry in _entries(unit)),
                    "" if name == VMLINUX else kernel.module(name).build_id,
                )
                for name, group in _by_object(units).items()
            ),
            replace=True,
            toolchain=self.toolchain,
            tool_version=metadata.version("rebootless"),
            cves=tuple(dict.fromkeys(cve for c in chosen for cve in c.cves)),
            features=Features(
                tuple(CallbackEntry(u.object, c.kind, c.name) for u in units for c in u.callbacks),
                tuple(StateEntry(s.id, s.version) for s in merge_states(u.states for u in units)),
            ),
            core=core,
        )

    def _report(self, chosen: Sequence[Candidate], units: Sequence[PartUnit]) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": f"{counted(len(chosen), 'part')} of an update",
            "kernel": self.kernel.files.release,
            "cves": list(dict.fromkeys(cve for c in chosen for cve in c.cves)),
            "files": [{"path": path} for path in sorted({p for c in chosen for p in c.paths})],
            "units": [json.loads(u.report) for u in units],
            "warnings": [],
        }


def _by_object(units: Sequence[PartUnit]) -> dict[str, list[PartUnit]]:
    """The units that patch something, by object: vmlinux first, then modules by name."""
    found: dict[str, list[PartUnit]] = {}
    for unit in units:
        if unit.functions or unit.callbacks:
            found.setdefault(unit.object, []).append(unit)
    return {name: found[name] for name in sorted(found, key=lambda n: (n != VMLINUX, n))}


def _object(name: str, units: Sequence[PartUnit]) -> PatchedObject:
    return PatchedObject(
        name,
        tuple(
            PatchedFunction(
                f.symbol, f.old_name, f.position, bytes.fromhex(f.code), bytes.fromhex(f.mask)
            )
            for u in units
            for f in u.functions
        ),
        tuple({CallbackKind(c.kind): c.symbol for c in u.callbacks} for u in units if u.callbacks),
    )


def _entries(unit: PartUnit) -> list[FunctionEntry]:
    return [
        FunctionEntry(
            f.old_name,
            f.position,
            f.size_old,
            f.size_new,
            None if f.address == NO_ADDRESS else f.address,
        )
        for f in unit.functions
    ]


def _json(facts: dict[str, Any]) -> bytes:
    text = json.dumps({"schema": REPORT_SCHEMA, **facts}, indent=2, sort_keys=True)
    return (text + "\n").encode()


def readable(part_of: Callable[[str], Part | None]) -> Callable[[str], Part]:
    """A reader of parts that has none missing. Raises RebootlessError for one that is gone."""

    def read(key: str) -> Part:
        part = part_of(key)
        if part is None:
            raise RebootlessError(
                f"the stored part {key} can no longer be read",
                hint="translate once more: what is missing is built again",
            )
        return part

    return read
