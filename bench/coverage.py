"""The share of a real update's touched units that become live patches without a line of code.

    python bench/coverage.py [--from VERSION] [--to VERSION] [--flavour cloud-amd64]
                             [--sample N --seed S] [--paths GLOB] [--results FILE] [--report]

Takes the difference of two source packages, and the kernel of the older one. Each touched .c file
that this kernel compiles is a unit: its change is built in this process up to the patch module's
objects (compile, compare, match, check, emit). What the change needs of headers and of other units
is added when the compiler or the resolver asks for it, edit by edit; no line is written by anyone.
Results are JSON lines, one per unit: a run goes on where the last one ended. `--again CODE` takes
the units once more that failed so.

Not in the share: units that the configuration leaves out, and those whose change has no effect at
run time (the objects are the same, or only what runs at boot changes).
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import gc
import json
import posixpath
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.edits import WORD, Changes

from rebootless.base.errors import (
    CompileError,
    MismatchError,
    NoChangeError,
    RebootlessError,
    RefusedError,
)
from rebootless.base.events import NullMonitor, default_monitor
from rebootless.base.workdir import Workdir
from rebootless.compile import desk, originals, reach, twin
from rebootless.compile.desk import Desk
from rebootless.compile.kbuild import Fate, Kbuild, Membership
from rebootless.compile.runner import run_all
from rebootless.compile.tree import Tree, left_out_of, prepare
from rebootless.compile.unit import (
    PATCHED_STAGE,
    UnitPair,
    _check,
    apply_to,
    contents_of,
    finish_originals,
    keep,
    original_jobs,
    pair_of,
    scratch_files,
)
from rebootless.patch import source
from rebootless.patch.units import Kind, classify
from rebootless.pipeline import building, layouts, telling
from rebootless.pipeline.checking import check
from rebootless.pipeline.fitting import fitted
from rebootless.pipeline.job import Job, Unit
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.pipeline.layouts import types_of
from rebootless.pipeline.linking import patched_functions
from rebootless.provider.catalog import flavour as flavour_of
from rebootless.provider.debian import DebianProvider
from rebootless.provider.updates import diff_between
from rebootless.safety.layout import type_findings
from rebootless.safety.typediff import compare_types

ROUNDS = 8
MAX_PARTS = 12  # units that one change may draw in
BOOT_ONLY = {"init-function", "init-data", "modinfo-changed"}
MESSAGE = 1500
# What the compiler, or the resolver, misses.
MISSING = re.compile(
    r"""[‘'](?:struct\s|union\s|enum\s)?(\w+)(?:\s*\{aka[^’']*)?[’']\s(?:undeclared|declared\sinside)
    |(?:of\sfunction|named|unknown\stype\sname|to\sfunction|types\sfor|redefinition\sof
      |declaration\sof|argument\s\d+\sof|undefined\stype|incomplete\stype|too\sfew\sarguments\sto
      |macro|redeclaration\sof)\s[‘'"](?:struct\s|union\s|enum\s)?(\w+)
    |storage\ssize\sof\s[‘'](\w+)
    |fatal\serror:\s(?:\S*/)?(\S+?)\.h:""",
    re.VERBOSE,
)
# A source line in a message, and the marks under it.
SHOWN = re.compile(r"^\s+\d+ \|(.*)\n\s+\|([ \t]*)(\^~*)", re.MULTILINE)
INITIALIZED = re.compile(r"\.(\w+)\s*=")
KEPT_MODULES = 8


@dataclass
class Bench:
    """What all units of a run share."""

    desk: Desk
    kernel: ShippedKernel
    changes: Changes
    kbuild: Kbuild
    scratch: Path
    monitor: NullMonitor = field(default_factory=NullMonitor)

    @property
    def tree(self) -> Tree:
        """The prepared source, as the desk has it."""
        return self.desk.tree

    def member(self, path: str) -> Membership | None:
        """What kbuild makes of a touched .c file; None if it is off."""
        if classify(path).kind is not Kind.UNIT or not self.changes.exists_before(path):
            return None
        if any(path.startswith(d + "/") for d in left_out_of(self.tree)):
            return None
        return self.kbuild.membership_if_built(path)


@dataclass
class Group:
    """One unit's change, with what it turned out to need: other units, and edits of headers."""

    units: list[str]
    edits: dict[str, set[int]] = field(default_factory=dict)

    def text(self, changes: Changes) -> bytes:
        """The patch."""
        parts = [changes.diff(path) for path in self.units]
        parts += [changes.diff(path, only) for path, only in sorted(self.edits.items())]
        return b"".join(parts)


def members(bench: Bench, group: Group) -> list[Membership]:
    """What kbuild makes of a group's units."""
    return [m for path in group.units if (m := bench.member(path)) is not None]


def compiled(bench: Bench, group: Group, job: Job) -> tuple[UnitPair, ...]:
    """The pairs of a group's own units. What else includes an edited header is left alone."""
    tree = bench.tree
    units = members(bench, group)
    many = [m.source for m in units if m.fate is Fate.LIBRARY or len(m.modules) > 1]
    if many:
        code = _Code("lib-a-or-several", many[0])
        raise RefusedError("lib.a or several modules", refusals=[code])
    bench.desk.learn(tree, units, jobs=1)
    variant = originals.Variant()
    finish_originals(original_jobs(tree, units, variant), tree, variant, 1)
    applied = apply_to(tree, job.patch, bench.monitor)
    with twin.installed(tree, contents_of(applied), scratch_files(tree, units)):
        jobs = [originals.job(tree, tree.patched, u.source, variant) for u in units]
        _check(tree, applied, run_all(jobs, parallel=1, finished=lambda _: None))
        keep(tree, units, variant, job.work, "bench")
    reach.write(job.work.stage(PATCHED_STAGE), reach.HeaderReach((), 0, ()))
    return tuple(pair_of(unit, job.work) for unit in units)


@dataclass(frozen=True)
class _Code:
    code: str
    symbol: str
    message: str = ""


def judged(job: Job, pairs: Sequence[UnitPair]) -> list[Unit]:
    """The stages after the compiler, up to the objects of the module; raises what `build` does."""
    units = building.matched(job, building.differing(job, pairs))
    telling.judge(job, check(job, units))
    found = building.emitted(job, units, pairs)
    for unit in found:
        list(patched_functions(unit))
    return found


def attempt(bench: Bench, path: str) -> dict[str, Any]:
    """Builds one unit's change, and what it needs."""
    group = Group([path])
    start = time.monotonic()
    result: dict[str, Any] = {}
    for _ in range(ROUNDS):
        result = once(bench, group)
        missing, shown, called = (
            set(result.pop(key, ())) for key in ("missing", "shown", "called")
        )
        found = draw_in(bench, group, missing | called, called) or draw_in(bench, group, shown)
        if not found:
            break
    return {
        "source": path,
        **result,
        "with": group.units[1:],
        "headers": {name: len(only) for name, only in group.edits.items()},
        "seconds": round(time.monotonic() - start, 1),
    }


def draw_in(bench: Bench, group: Group, missing: set[str], callers: Set[str] = frozenset()) -> bool:
    """Adds the header edits and units that define what is missing; False if there are none.

    Of `callers` those units are added that call them in changed lines.
    """
    before = (len(group.units), sum(map(len, group.edits.values())))
    commands = (originals.command(bench.tree, unit) for unit in group.units)
    read = {posixpath.normpath(d) for c in commands if c for d in c.dependencies}
    for name in sorted(missing):
        found = bench.changes.headers_with(name, read, group.edits)
        for header, only in found.items():
            group.edits.setdefault(header, set()).update(only)
        more = bench.changes.calling(name) if name in callers else bench.changes.defining(name)
        for unit in more:
            if unit not in group.units and len(group.units) < MAX_PARTS and bench.member(unit):
                group.units.append(unit)
    return before != (len(group.units), sum(map(len, group.edits.values())))


def once(bench: Bench, group: Group) -> dict[str, Any]:
    """One try: the outcome, and under "missing" the names that another try needs.

    What is refused for a layout is tried again with new members in free bytes.
    """
    patch = source.combine([source.parse(group.text(bench.changes), "update.patch")])
    with tempfile.TemporaryDirectory(dir=bench.scratch) as name:
        work = Workdir(Path(name))
        result = tried(bench, group, patch, work)
        if "layout-changed" not in result.get("codes", ()):
            return result
        pairs = tuple(pair_of(unit, work) for unit in members(bench, group))
        better = fitted(patch, bench.tree, pairs, bench.monitor)
        if better is None:
            return result
        again = tried(bench, group, better, work)
    return {**(again if again["outcome"] == "live" else result), "fitted": again["outcome"]}


def tried(bench: Bench, group: Group, patch: source.SourcePatch, work: Workdir) -> dict[str, Any]:
    """One build in a work folder."""
    job = Job("bench", "1", patch, bench.kernel, False, (), work, bench.monitor, tree=bench.tree)
    pairs: tuple[UnitPair, ...] = ()
    try:
        pairs = compiled(bench, group, job)
        units = judged(replace(job, pairs=pairs), pairs)
    except RebootlessError as exc:
        result = failure(exc)
        if result["outcome"] == "refused" and pairs:  # data of a changed type is changed data
            result["codes"] = sorted({*result["codes"], *type_codes(pairs)})
        return result
    return {
        "outcome": "live",
        "functions": sum(len(u.delta.changed) for u in units),
        "warnings": sorted({w.code for w in job.warnings}),
    }


def type_codes(pairs: Sequence[UnitPair]) -> set[str]:
    """What changed types are refused for, also where the comparison of code refused first."""
    failed = layouts._describe([path for pair in pairs for path in (pair.orig, pair.patched)])
    told = [pair for pair in pairs if pair.orig not in failed and pair.patched not in failed]
    return {f.code for p in told for f in type_findings(compare_types(*types_of(p))).refused}


def failure(exc: RebootlessError) -> dict[str, Any]:
    """What an error means for the unit."""
    text = exc.message[:MESSAGE]
    if isinstance(exc, NoChangeError):
        return {"outcome": "no-effect", "codes": ["no-change"], "message": text}
    if isinstance(exc, RefusedError):
        refusals: tuple[Any, ...] = exc.refusals
        codes = sorted({r.code for r in refusals})
        return {
            "outcome": "no-effect" if set(codes) <= BOOT_ONLY else "refused",
            "codes": codes,
            "symbols": [r.symbol for r in refusals][:20],
            "message": text,
            "missing": [r.symbol for r in refusals if r.code == "unknown-symbol"],
            "called": [r.symbol for r in refusals if r.code == "prototype-changed"],
        }
    if isinstance(exc, CompileError):
        names = {n for found in MISSING.finditer(exc.message) for n in found.groups() if n}
        shown = marked(exc.message) - names
        return {"outcome": "failed", "codes": ["compile"], "message": text, "missing": names,
                "shown": shown}  # fmt: skip
    code = "mismatch" if isinstance(exc, MismatchError) else type(exc).__name__
    return {"outcome": "failed", "codes": [code], "message": text}


def marked(message: str) -> set[str]:
    """The names that the compiler points at, and the members that it finds badly initialized."""
    found = set()
    for line in SHOWN.finditer(message):
        start = len(line[2])
        stop = start + len(line[3])
        found |= {m[0] for m in WORD.finditer(line[1]) if m.start() < stop and m.end() > start}
        found |= set(INITIALIZED.findall(line[1]))
    return found


def units_of(bench: Bench, options: argparse.Namespace) -> list[str]:
    """The touched units that this kernel compiles, as the options choose."""
    every = [p for p in bench.changes.paths if bench.member(p) is not None]
    if options.paths:
        every = [p for p in every if fnmatch.fnmatch(p, options.paths)]
    random.Random(options.seed).shuffle(every)
    return every[: options.sample] if options.sample else every


def known(results: Path) -> dict[str, dict[str, Any]]:
    """The results of earlier runs; the last one of a unit counts."""
    if not results.exists():
        return {}
    rows = map(json.loads, results.read_text().splitlines())
    return {row["source"]: row for row in rows}


def report(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The share, and the causes by number."""
    outcomes = Counter(row["outcome"] for row in rows)
    effect = [row for row in rows if row["outcome"] != "no-effect"]
    live = [row for row in effect if row["outcome"] == "live"]
    yield f"{len(rows)} units: " + ", ".join(f"{n} {what}" for what, n in outcomes.most_common())
    if effect:
        share = f"{len(live)} of {len(effect)}"
        yield f"live: {share} with an effect at run time ({len(live) / len(effect):.1%})"
    causes: dict[str, list[str]] = {}
    for row in effect:
        if row["outcome"] != "live":
            causes.setdefault(" + ".join(row["codes"]), []).append(row["source"])
    for cause, sources in sorted(causes.items(), key=lambda c: -len(c[1])):
        yield f"{len(sources):4}  {cause}: {', '.join(sources[:6])}"


def opened(options: argparse.Namespace, stack: contextlib.ExitStack) -> Bench:
    """Fetches and prepares all that is needed."""
    provider, monitor = DebianProvider(), default_monitor()
    old, new = getattr(options, "from"), options.to
    found = diff_between(provider, old, new, monitor=monitor)
    assert found is not None
    release = next(
        (k.release for k in provider.offered(monitor)
         if k.version == old and flavour_of(k.release) == options.flavour and k.headers), None
    )  # fmt: skip
    if release is None:
        sys.exit(f"the archive has no kernel {options.flavour} of {old} any more")
    files = provider.fetch(release, monitor)
    mine = stack.enter_context(desk.taken(prepare(files, monitor)))
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rebootless-bench-")))
    changes = Changes(found.diff, mine.tree.orig)
    return Bench(mine, ShippedKernel(files), changes, mine.kbuild, scratch)


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", default="6.1.190-1")
    parser.add_argument("--to", default="6.1.192-1")
    parser.add_argument("--flavour", default="cloud-amd64")
    parser.add_argument("--sample", type=int, default=0, help="how many units; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--paths", help="only units whose path matches, such as 'net/*'")
    parser.add_argument("--again", action="append", default=[], help="repeat what failed so")
    parser.add_argument("--results", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--report", action="store_true", help="only print what is known")
    options = parser.parse_args()
    if not options.report:
        with contextlib.ExitStack() as stack:
            run(opened(options, stack), options)
    print("\n".join(report(list(known(options.results).values()))))


def run(bench: Bench, options: argparse.Namespace) -> None:
    """Builds the units that have no result yet, and writes each result at once."""
    chosen = units_of(bench, options)
    done = known(options.results)
    again = set(options.again)
    print(f"{len(bench.changes.paths)} files touched, {len(chosen)} units chosen", flush=True)
    due = [
        path
        for path in chosen
        if path not in done or "all" in again or again & set(done[path].get("codes", ()))
    ]
    bench.desk.ask_about(due)
    for n, path in enumerate(due, 1):
        row = attempt(bench, path)
        with options.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{n:4}/{len(due)} {row['seconds']:5.1f} s {row['outcome']:9} {path} "
              f"{' '.join(row.get('codes', ()))}", flush=True)  # fmt: skip
        bench.kernel.forget(KEPT_MODULES)
        gc.collect()


if __name__ == "__main__":
    main()
