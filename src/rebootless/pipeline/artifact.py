"""A finished build as files: the bundle with its manifest and evidence, and the report."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from ..base.events import RecordingMonitor, stage
from ..base.fs import atomic_write, read_bytes
from ..bundle import archive
from ..bundle.manifest import (
    CallbackEntry,
    CoreEntry,
    Features,
    KnownWarning,
    Manifest,
    StateEntry,
    TargetKernel,
)
from ..bundle.manifest import PatchedFunction as FunctionEntry
from ..bundle.manifest import PatchedObject as ObjectEntry
from ..compile.core import CoreModule
from ..diff.delta import Finding
from ..engine.modinfo import parse as parse_modinfo
from ..module.features import merge_states
from ..module.resolve import VMLINUX
from .job import Job, Unit, by_object

REPORT_SCHEMA = 1


@dataclass(frozen=True)
class BuildResult:
    """A finished build. `seconds` are wall times by stage; `warnings` are findings to heed.

    `begins` tells by function where its code begins to differ: a line of the patch, mostly.
    """

    bundle_path: Path
    report_path: Path
    bundle_id: str
    manifest: Manifest
    warnings: tuple[Finding, ...]
    seconds: dict[str, float]
    begins: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return {
            "bundle": str(self.bundle_path),
            "report": str(self.report_path),
            "bundle_id": self.bundle_id,
            "manifest": self.manifest.to_json(),
            "warnings": [w.to_json() for w in self.warnings],
            "seconds": {name: round(s, 3) for name, s in self.seconds.items()},
            "begins": self.begins,
        }


def write_bundle(
    job: Job,
    units: Sequence[Unit],
    module: bytes,
    explained: dict[str, Any],
    output: Path,
    recorder: RecordingMonitor,
    core: CoreModule | None = None,
) -> BuildResult:
    """Writes the bundle to `output` and its report beside it. Raises ResourceError.

    `explained` is the document explain.json, `core` the core module for the same kernel.
    """
    from .explaining import begins, compact  # in memory by now: the explanation is made

    with stage(job.monitor, "bundle", "Writing the bundle") as shown:
        report = _report(job, units)
        members = {
            f"{archive.MODULES}{job.name}.ko": module,
            **{f"{archive.SOURCES}{name}": text for name, text in job.sources.items()},
            **({archive.SOURCE_PATCH: job.patch.text} if job.patch.files else {}),
            archive.MATCH: _json(evidence(units)),
            archive.REPORT: _json(report),
            archive.EXPLAIN: compact(explained),
            **({archive.CORE: read_bytes(core.path)} if core else {}),
        }
        bundle = archive.create(_manifest(job, units, module, core), members)
        archive.write(bundle, output)
        report_path = output.with_suffix(".report.json")
        atomic_write(report_path, _json({"bundle_id": bundle.id, **report}))
        shown.result = str(output)
    return BuildResult(
        output,
        report_path,
        bundle.id,
        bundle.manifest,
        tuple(job.warnings),
        recorder.seconds,
        begins(explained, job),
    )


def _manifest(job: Job, units: Sequence[Unit], module: bytes, core: CoreModule | None) -> Manifest:
    files = job.kernel.files
    return Manifest(
        name=job.name,
        version=job.version,
        kernel=TargetKernel(
            files.release,
            job.kernel.image.build_id,
            "x86_64",
            parse_modinfo(module, name=job.name).first("vermagic"),
            files.version,
        ),
        objects=tuple(
            ObjectEntry(
                name,
                tuple(f for unit in group for f in _functions(unit)),
                "" if name == VMLINUX else job.kernel.module(name).build_id,
            )
            for name, group in by_object(units).items()
        ),
        replace=job.replace,
        toolchain=job.toolchain,
        tool_version=metadata.version("rebootless"),
        cves=job.cves,
        warnings=tuple(
            KnownWarning(w.code, w.symbol, w.message, bool(w.accepted)) for w in job.warnings
        ),
        features=_features(units),
        core=CoreEntry(core.abi, archive.CORE) if core else None,
    )


def _functions(unit: Unit) -> Iterator[FunctionEntry]:
    assert unit.match is not None and unit.emitted is not None
    for f in unit.emitted.functions:
        proven = unit.match.proven[f.orig_symbol]
        address = proven.place if unit.pair.module == VMLINUX else None
        yield FunctionEntry(proven.name, proven.sympos or 0, f.size_old, f.size_new, address)


def _features(units: Sequence[Unit]) -> Features:
    """The callbacks in the order in which units have them, and the system states."""
    return Features(
        tuple(
            CallbackEntry(unit.pair.module, c.kind.value, c.name)
            for unit in units
            for c in unit.delta.callbacks
        ),
        tuple(StateEntry(s.id, s.version) for s in merge_states(u.delta.states for u in units)),
    )


def _report(job: Job, units: Sequence[Unit]) -> dict[str, Any]:
    """What was built and why. No times: the same input gives the same bytes."""
    return {
        "schema": REPORT_SCHEMA,
        "name": job.name,
        "title": job.patch.title,
        "kernel": job.kernel.files.release,
        "cves": list(job.cves),
        "files": [
            {"path": f.path, "added": f.added, "removed": f.removed} for f in job.patch.files
        ],
        "units": [
            {"source": u.pair.source, "object": u.pair.module, **u.delta.to_json()} for u in units
        ],
        "warnings": [w.to_json() for w in job.warnings],
    }


def evidence(units: Sequence[Unit]) -> dict[str, Any]:
    """The run-pre evidence: every function of every touched unit, and how it compared."""
    found = []
    for unit in units:
        assert unit.match is not None
        found.append(
            {
                "source": unit.pair.source,
                "object": unit.pair.module,
                "functions": [
                    {
                        "name": f.name,
                        "status": f.status.value,
                        "address": f.address if unit.pair.module == VMLINUX else None,
                        "size": f.size,
                        "reason": f.reason,
                        "explained": list(f.explained),
                    }
                    for f in unit.match.functions
                ],
                "proven_symbols": len(unit.match.proven),
            }
        )
    return {"schema": REPORT_SCHEMA, "units": found}


def _json(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode()
