"""Explaining a patch: the facts when it is built, and what is made of them later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..base.errors import BundleError
from ..base.fs import atomic_write, read_bytes
from ..bundle import archive
from ..diff import diff
from ..diff.delta import FunctionChange, KernelRef
from ..elf.constants import Binding
from ..elf.reader import read as read_elf
from ..kernel.callers import direct_callers
from ..lab.report import verdict_of
from ..module.resolve import VMLINUX, Livepatch
from ..patch import csource
from ..report import facts as report_facts
from ..report import patchview
from ..report.explain import PATCH, explain_unit
from ..report.facts import Caller, UnitFacts
from .importers import importers, own_modules
from .job import Job, Unit

SCHEMA = 1
MAX_OUTSIDE = 40
MAX_CONSOLE = 200_000  # bytes


def of_build(job: Job, units: Sequence[Unit]) -> dict[str, Any]:
    """The document explain.json of a build. Raises ElfError, ResourceError."""
    outside = _Outside(job, units)
    return report_facts.to_json(tuple(_explained(job, unit, outside) for unit in units))


def _explained(job: Job, unit: Unit, outside: _Outside) -> UnitFacts:
    return explain_unit(
        unit.orig,
        unit.patched,
        unit.delta,
        source=unit.pair.source,
        owner=unit.pair.module,
        written=_written(job, unit),
        reach=lambda ref: _way(job, unit, ref),
        outside=lambda change: outside.callers(unit, change),
    )


def _written(job: Job, unit: Unit) -> str:
    """The C file, given or extracted, that replaces functions of a unit; "" with a patch alone."""
    names = {change.name for change in unit.delta.changed}
    for name, text in job.sources.items():
        source = csource.parse(text, name)
        replaces = names & {entry.old for entry in source.replacements}
        if source.unit == unit.pair.source or (not source.unit and replaces):
            return name
    return ""


def _way(job: Job, unit: Unit, ref: KernelRef) -> str:
    """How the patch module reaches a symbol; what another unit of the patch adds comes along."""
    resolved = unit.emitted.resolved.get(ref) if unit.emitted else None
    if resolved is None:
        return "unit" if ref.defined else "elsewhere"
    if isinstance(resolved, Livepatch):
        return "private"
    return "exported" if ref.name in job.kernel.exports else PATCH


class _Outside:
    """The callers of the patched functions in other units and modules, looked up once."""

    def __init__(self, job: Job, units: Sequence[Unit]) -> None:
        places: dict[int, int] = {}
        for unit in units:
            for change in unit.delta.changed:
                if (place := self._place(unit, change)) is not None:
                    places[place] = 0
        kernel = job.kernel
        self._found = direct_callers(kernel.image, kernel.symbols, places) if places else {}
        exported = {
            change.name
            for unit in units
            for change in unit.delta.changed
            if change.name in kernel.exports and not self._is_local(unit, change)
        }
        self._imported: dict[str, list[Caller]] = {}
        if exported:
            for name, function, module in importers(own_modules(kernel), exported):
                self._imported.setdefault(name, []).append(Caller(function, "call", module))

    @staticmethod
    def _place(unit: Unit, change: FunctionChange) -> int | None:
        """The address of a global function of vmlinux: a static one has no callers elsewhere."""
        symbol = change.orig_symbol
        if symbol is None or unit.pair.module != VMLINUX or unit.match is None:
            return None
        proven = unit.match.proven.get(symbol)
        return proven.place if proven and not _Outside._is_local(unit, change) else None

    @staticmethod
    def _is_local(unit: Unit, change: FunctionChange) -> bool:
        symbol = change.orig_symbol
        return symbol is None or bool(unit.orig.symbols.binding[symbol] == Binding.LOCAL)

    def callers(self, unit: Unit, change: FunctionChange) -> tuple[Caller, ...]:
        """The functions of other units that call one, by name; then those of modules."""
        place = self._place(unit, change)
        own = unit.orig.symbols.by_name
        names = {
            name.partition(".cold")[0]
            for name in (self._found.get(place, ()) if place is not None else ())
            if name.partition(".cold")[0] not in own
        }
        found = [Caller(name, "call", VMLINUX) for name in sorted(names)]
        if not self._is_local(unit, change):
            found += self._imported.get(change.name, [])
        return tuple(found[:MAX_OUTSIDE])


def begins(explained: dict[str, Any], job: Job) -> dict[str, str]:
    """Where the code of each changed function begins to differ, by name."""
    view = patchview.read(job.patch.text.decode(errors="replace"))
    return {
        function["name"]: patchview.begins(function, patchview.causes(function, view))
        for unit in explained["units"]
        for function in unit["functions"]
        if function["kind"] == "changed"
    }


def compact(facts: dict[str, Any]) -> bytes:
    """A document as JSON without blanks."""
    return (json.dumps(facts, separators=(",", ":"), ensure_ascii=False) + "\n").encode()


def explain(path: Path, patched: Path | None = None, *, html: Path | None = None) -> dict[str, Any]:
    """Everything that there is to tell of a patch, as JSON values; `html` is a page to write.

    `path` is a bundle; or the original object of a unit, and `patched` the object with the patch.
    Raises BundleError, ElfError, NotFoundError, ResourceError.
    """
    if patched is None and path.suffix == ".o":
        raise BundleError(
            f"{path} is an object file, and one alone tells of no change",
            hint="give both, `rebootless explain ORIG.o PATCHED.o`, or the bundle",
        )
    facts = _of_bundle(path) if patched is None else _of_objects(path, patched)
    if html is not None:
        from ..report.page import render  # jinja2 is for pages only

        atomic_write(html, render(facts))
    return facts


def _of_objects(before: Path, after: Path) -> dict[str, Any]:
    orig, patched = read_elf(before), read_elf(after)
    delta = diff(orig, patched)
    unit = explain_unit(orig, patched, delta, source=_source_of(orig.symbols.names, before))
    same = before.name == after.name
    return {
        "schema": SCHEMA,
        "kind": "objects",
        "title": before.name if same else f"{before.name} → {after.name}",
        "units": [unit.to_json()],
        "warnings": [w.to_json() for w in delta.warnings],
        "refused": [r.to_json() for r in delta.refused],
    }


def _source_of(names: Sequence[str], path: Path) -> str:
    """The name of an object's source file, as its first FILE symbol tells it."""
    return next((n for n in names if n.endswith((".c", ".S"))), path.name)


def _of_bundle(path: Path) -> dict[str, Any]:
    bundle = archive.read(path)
    explanation, report = bundle.explanation, bundle.report
    if explanation.get("schema", SCHEMA) != SCHEMA:
        raise BundleError(
            f"{path}: its explanation has schema {explanation['schema']!r}, and this version "
            f"reads {SCHEMA}",
            hint="use the version of rebootless that made the bundle, or a newer one",
        )
    patch = bundle.source_patch.decode(errors="replace")
    if not patch:  # written by hand: the C files are what there is to read
        patch = "\n".join(
            f"/* {name.removeprefix(archive.SOURCES)} */\n{blob.decode(errors='replace')}"
            for name, blob in sorted(bundle.members.items())
            if name.startswith(archive.SOURCES)
        )
    return {
        "schema": SCHEMA,
        "kind": "bundle",
        "id": bundle.id,
        "title": report.get("title", ""),
        "manifest": bundle.manifest.to_json(),
        "files": report.get("files", []),
        "units": _with_causes(explanation.get("units", []), patch),
        "warnings": report.get("warnings", []),
        "refused": [],
        "match": bundle.match.get("units", []),
        "patch": patch,
        "verdict": verdict_of(bundle.test_log or ""),
        "test_log": bundle.test_log or "",
        "console": _console(path) if bundle.test_log else "",
    }


def _with_causes(units: list[dict[str, Any]], patch: str) -> list[dict[str, Any]]:
    """The units, each function with the lines of the patch that show in its code."""
    view = patchview.read(patch)
    try:
        for unit in units:
            for function in unit["functions"]:
                function["causes"] = patchview.causes(function, view)
    except patchview.MALFORMED as exc:
        raise BundleError(f"the explanation is not of the form that is read here: {exc}") from exc
    return units


def _console(path: Path) -> str:
    """The end of what the guest of the latest test printed, if it is still beside the bundle."""
    console = path.with_suffix(".console.log")
    if not console.is_file():
        return ""
    return read_bytes(console)[-MAX_CONSOLE:].decode(errors="replace")
