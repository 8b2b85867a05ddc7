"""The verb: which update, its plan, what comes of it, and where all that is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ..base.errors import NoChangeError, NotFoundError, ResourceError
from ..base.events import Monitor, Note, NullMonitor, RecordingMonitor, Warned, stage
from ..base.fs import atomic_write
from ..base.words import counted
from ..bundle import archive, naming
from ..compile.tree import prepare
from ..provider.changelog import changelog_of
from ..provider.debian import DebianProvider
from ..provider.packages import DebVersion
from ..provider.toolchain import find_compiler
from ..provider.updates import diff_between
from ..translate.changelog import entries
from ..translate.model import SCHEMA, Entry, Outcome, TranslationPlan, Update, encoded
from ..translate.page import Report, diffs, render
from ..translate.planning import plan as make_plan
from ..translate.totals import totals
from .building import check_supported
from .kernel import ShippedKernel, find, provider
from .translation import Built, Settings, Translation, selected

REPORT = ".translation.json"


@dataclass(frozen=True)
class TranslateResult:
    """What became of an update: the plan, the results in its order, and where everything lies.

    `seconds` are wall times by stage. `bundle` is None when nothing of the update can be applied.
    """

    plan: TranslationPlan
    built: Built
    bundle: Path | None
    report: Path
    seconds: dict[str, float]

    @property
    def page(self) -> Path:
        """The report as a page for a browser, beside the one in JSON."""
        return self.report.with_suffix(".html")

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        built = self.built
        return {
            "schema": SCHEMA,
            "plan": encoded(self.plan),
            "totals": encoded(totals(self.plan, built.results)),
            "results": encoded(built.results),
            "outcomes": {o.value: sum(r.outcome is o for r in built.results) for o in Outcome},
            "known_before": built.known,
            "unions": {key: list(members) for key, members in built.unions.items()},
            "bundle": str(self.bundle) if self.bundle else None,
            "tested_together": bool(built.combined.test),
            "excluded": built.combined.excluded,
            "report": str(self.report),
            "page": str(self.page),
            "seconds": {name: round(s, 3) for name, s in self.seconds.items()},
        }


def translate(
    release: str | None = None,
    to: str | None = None,
    *,
    only: Sequence[str] = (),
    limit: int | None = None,
    folder: Path = Path("out/translate"),
    settings: Settings | None = None,
    monitor: Monitor | None = None,
) -> TranslateResult:
    """Turns the update of a kernel's source package into live patches for that kernel.

    `release` is the kernel (default: the running one), `to` a version of its source package
    (default: the newest there is). `only` are patterns of paths, `limit` takes the first parts of
    the plan. Writes the bundle and the report to `folder`. What is done already is not done again,
    also after an interruption. Raises NotFoundError (no such kernel, version, scheduler or worker),
    NoChangeError (nothing to do), MismatchError (another version on a worker), CompileError (the
    source cannot be prepared), ResourceError. What goes wrong with a part is in its result.
    """
    settings = settings or Settings()
    recorder = RecordingMonitor(monitor or NullMonitor())
    files = find(release, suites=settings.suites, monitor=recorder)
    kernel = ShippedKernel(files)
    check_supported(kernel)
    tree = prepare(files, recorder)
    debian = provider(settings.suites, recorder)
    new = to or _newest(debian, files.version, recorder)
    update = Update(files.release, kernel.image.build_id, files.version, new)
    diff = _difference(debian, files.version, new, recorder)
    plan = make_plan(tree, update, diff, _said(debian, update, recorder), recorder)
    candidates = selected(plan.candidates, only, limit)
    if len(candidates) < len(plan.candidates):
        of = f"{len(candidates)} of {counted(len(plan.candidates), 'part')} chosen"
        recorder.emit(Note(of))
        plan = replace(plan, candidates=candidates)
    name = naming.default_name(f"update_{new}")
    output = folder / f"{naming.short_name(name)}{archive.SUFFIX}"
    toolchain = find_compiler(files.compiler_text, recorder).text
    built = Translation(kernel, tree, settings, recorder, toolchain).run(candidates, name, output)
    plan = replace(plan, candidates=built.candidates)
    report = output.with_suffix(REPORT)
    result = TranslateResult(plan, built, built.combined.bundle, report, recorder.seconds)
    with stage(recorder, "report", "Writing the report") as shown:
        _write(result)
        shown.result = str(result.page)
    return result


def _write(result: TranslateResult) -> None:
    """The report as a page for people, with the diffs that it links to, and as JSON."""
    built = result.built
    facts = Report(
        result.plan,
        built.results,
        result.bundle.name if result.bundle else "",
        bool(built.combined.test),
        {m: why for key, why in built.combined.excluded.items()
         for m in built.unions.get(key, (key,))},
        metadata.version("rebootless"),
    )  # fmt: skip
    atomic_write(result.report, json.dumps(result.to_json(), indent=1) + "\n")
    for name, diff in diffs(result.plan).items():
        atomic_write(result.report.parent / name, diff)
    atomic_write(result.page, render(facts))


def _said(debian: DebianProvider, update: Update, monitor: Monitor) -> tuple[Entry, ...]:
    """What the new version's changelog says; nothing, with a warning, where it cannot be had."""
    try:
        text = changelog_of(debian, update.new_version, monitor)
    except (NotFoundError, ResourceError) as exc:
        monitor.emit(Warned(f"no changelog, so no CVEs are named: {exc.message}"))
        return ()
    return entries(text, update.old_version, update.new_version)


def _newest(debian: DebianProvider, old: str, monitor: Monitor) -> str:
    """The newest version of the source package that `old` is one of. Raises NotFoundError."""
    packages = debian.sources(monitor)
    series = packages[old].name if old in packages else None
    newer = [
        version
        for version, package in packages.items()
        if package.name == series and DebVersion(old) < DebVersion(version)
    ]
    if series is None or not newer:
        raise NotFoundError(
            f"the archive has no newer source than {old}",
            hint="`--to VERSION` names one; `rebootless kernels --refresh` reads the lists anew",
        )
    return max(newer, key=DebVersion)


def _difference(debian: DebianProvider, old: str, new: str, monitor: Monitor) -> str:
    found = diff_between(debian, old, new, monitor=monitor)
    if found is None or not found.files:
        raise NoChangeError(f"the sources of {old} and {new} do not differ")
    return found.diff.decode(errors="surrogateescape")
