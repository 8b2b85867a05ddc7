"""The share of a real update's touched units that become live patches without a line of code.

    python bench/coverage.py [--from VERSION] [--to VERSION] [--flavour cloud-amd64]
                             [--sample N --seed S] [--paths GLOB] [--results FILE] [--report]

Takes the difference of two source packages and the kernel of the older one, and does what
`translate` does: the update is split into its smallest independent parts, and each is built up to
the objects of the patch module (compile, compare, match, check, resolve). A unit is a touched .c
file that this kernel compiles; it is covered if all its parts that have an effect at run time
become live patches. `--sample` takes parts at random.

Results are JSON lines, one per part: a run goes on where the last one ended, and `--again CODE`
builds the parts once more that failed so. The plan is kept beside them. Not in the share: what has
no effect at run time (the objects are the same, or only what runs at boot or load changes).
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import gc
import json
import random
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

from rebootless.base.events import default_monitor
from rebootless.compile import desk
from rebootless.compile.tree import prepare
from rebootless.pipeline.candidate import Builder
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.provider.catalog import flavour as flavour_of
from rebootless.provider.debian import DebianProvider
from rebootless.provider.updates import diff_between
from rebootless.translate import planning
from rebootless.translate.merge import merged
from rebootless.translate.model import (
    Candidate,
    Cause,
    Outcome,
    Result,
    TranslationPlan,
    Update,
    decoded,
    encoded,
)

ROUNDS = 4  # how often a part may take in others that it turns out to need
MESSAGE = 1500
MAX_UNITS = 60
BOOT_ONLY = {"init-function", "init-data"}
Row = dict[str, Any]
# What the compiler misses; and a source line in its message, with the marks under it.
MISSING = re.compile(
    r"""[‘'](?:(?:struct|union|enum)\s)?(\w+)(?:\s*\{aka[^’']*)?[’']\s(?:undeclared|declared\sin)
    |(?:of\sfunction|named|unknown\stype\sname|to\sfunction|types\sfor|redefinition\sof
      |declaration\sof|argument\s\d+\sof|undefined\stype|incomplete\stype
      |macro|redeclaration\sof)\s[‘'"](?:(?:struct|union|enum)\s)?(\w+)
    |storage\ssize\sof\s[‘'](\w+)""",
    re.VERBOSE,
)
MARKED = re.compile(r"^\s+\d+ \|(.*)\n\s+\|([ \t]*)(\^~*)", re.MULTILINE)
INITIALIZED = re.compile(r"\.(\w+)\s*=")


@dataclass(frozen=True)
class Bench:
    """What all parts of a run share."""

    plan: TranslationPlan
    builder: Builder
    build_id: str

    @property
    def by_unit(self) -> dict[str, list[Candidate]]:
        """The parts of each touched unit; those that only include a touched header are none."""
        found: dict[str, list[Candidate]] = {}
        for candidate in self.plan.candidates:
            for unit in set(candidate.paths) & set(candidate.units):
                found.setdefault(unit, []).append(candidate)
        return found

    def old_text(self, path: str) -> str:
        """A file as the older package has it."""
        data = (self.builder.desk.tree.orig / path).read_bytes()
        return data.decode(errors="surrogateescape")


def opened(options: argparse.Namespace, stack: contextlib.ExitStack) -> Bench:
    """Fetches, prepares and plans."""
    provider, monitor = DebianProvider(), default_monitor()
    old, new = options.old, options.new
    difference = diff_between(provider, old, new, monitor=monitor)
    assert difference is not None
    kernels = (k for k in provider.offered(monitor) if k.version == old and k.headers)
    release = next((k.release for k in kernels if flavour_of(k.release) == options.flavour), None)
    if release is None:
        sys.exit(f"the archive has no kernel {options.flavour} of {old} any more")
    files = provider.fetch(release, monitor)
    kernel = ShippedKernel(files)
    mine = stack.enter_context(desk.taken(prepare(files, monitor)))
    update = Update(release, kernel.image.build_id, old, new)
    kept = options.results.with_suffix(".plan.json")
    if kept.exists():
        plan = decoded(TranslationPlan, json.loads(kept.read_text()))
    else:
        text = difference.diff.decode(errors="surrogateescape")
        plan = planning.plan(mine.tree, update, text, (), monitor)
        kept.write_text(json.dumps(encoded(plan)))
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rebootless-bench-")))
    builder = Builder(kernel, mine, scratch, max_units=MAX_UNITS)
    return Bench(plan, builder, kernel.image.build_id)


def attempt(bench: Bench, candidate: Candidate) -> Row:
    """Builds one part, with the parts that it turns out to need."""
    start = time.monotonic()
    part: Candidate | None = candidate
    for _ in range(ROUNDS):
        assert part is not None
        last = part
        result, _ = bench.builder.build(last)
        wanted = missing(result)
        if not wanted:
            break
        part = merged(bench.plan.candidates, last, wanted, bench.old_text, bench.build_id)
        if part is None or part.paths == last.paths:
            break
    refused = sorted({f.code for f in result.findings if f.is_refusal})
    outcome = result.outcome.value
    if result.outcome is Outcome.REBOOT and set(refused) <= BOOT_ONLY:
        outcome = Outcome.NO_EFFECT.value
    return {
        "key": candidate.key,
        "title": candidate.title,
        "paths": list(last.paths),
        "units": list(result.units),
        "outcome": outcome,
        "codes": refused or ([result.cause.value] if result.cause is not Cause.NONE else []),
        "symbols": [f.symbol for f in result.findings if f.is_refusal][:20],
        "warnings": sorted({f.code for f in result.findings if not f.is_refusal}),
        "functions": len(result.functions),
        "message": result.message[:MESSAGE],
        "seconds": round(time.monotonic() - start, 1),
    }


def missing(result: Result) -> set[str]:
    """The names that another try needs: what the compiler, or the resolver, did not find."""
    if result.cause is Cause.NOT_COMPILING:
        text = result.message
        found = {n for match in MISSING.finditer(text) for n in match.groups() if n}
        for line in MARKED.finditer(text):
            start, stop = len(line[2]), len(line[2]) + len(line[3])
            words = re.finditer(r"[A-Za-z_]\w*", line[1])
            found |= {w[0] for w in words if w.start() < stop and w.end() > start}
            found |= set(INITIALIZED.findall(line[1]))
        return found
    return {f.symbol for f in result.findings if f.is_refusal and f.code == "unknown-symbol"}


def known(results: Path) -> dict[str, Row]:
    """The results of earlier runs by part; the last one counts."""
    if not results.exists():
        return {}
    rows = map(json.loads, results.read_text().splitlines())
    return {row["key"]: row for row in rows}


def sampled(candidates: Sequence[Candidate], options: argparse.Namespace) -> list[Candidate]:
    """The parts that the options choose, in random order: those that compile a touched unit."""
    every = [c for c in candidates if set(c.paths) & set(c.units)]
    if options.paths:
        every = [c for c in every if any(fnmatch.fnmatch(p, options.paths) for p in c.paths)]
    random.Random(options.seed).shuffle(every)
    return every[: options.sample] if options.sample else every


def report(by_unit: Mapping[str, Sequence[Candidate]], rows: Mapping[str, Row]) -> Iterator[str]:
    """The shares of parts and of units (those of which all parts are built), and the causes."""
    whole = {u: [rows[c.key] for c in parts] for u, parts in by_unit.items()
             if all(c.key in rows for c in parts)}  # fmt: skip
    parts = {c.key: rows[c.key] for found in by_unit.values() for c in found if c.key in rows}
    acting = {k: row for k, row in parts.items() if row["outcome"] != "no-effect"}
    yield f"{len(parts)} parts built, {len(parts) - len(acting)} have no effect at run time"
    yield shared("parts", [row["outcome"] == "live-patch" for row in acting.values()])
    yield f"{len(by_unit)} units touched and compiled; all parts of {len(whole)} built"
    units = [
        [row["outcome"] == "live-patch" for row in found if row["outcome"] != "no-effect"]
        for found in whole.values()
    ]
    yield f"{sum(not u for u in units)} units have no effect at run time"
    yield shared("units, each part of them", [all(u) for u in units if u])
    yield shared("units, some part of them", [any(u) for u in units if u])
    causes: dict[str, list[Row]] = {}
    for row in acting.values():
        if row["outcome"] != "live-patch":
            causes.setdefault(" + ".join(row["codes"]), []).append(row)
    for cause, found in sorted(causes.items(), key=lambda c: -len(c[1])):
        yield f"{len(found):4}  {cause}: {', '.join(row['title'] for row in found[:6])}"
    told = Counter(w for row in acting.values() for w in row["warnings"]
                   if row["outcome"] == "live-patch")  # fmt: skip
    yield "warnings of live patches: " + ", ".join(f"{w} {n}" for w, n in told.most_common())


def shared(what: str, found: Sequence[bool]) -> str:
    """ "parts: 90 of 100 live (90.0%)"."""
    share = sum(found) / len(found) if found else 0.0
    return f"{what}: {sum(found)} of {len(found)} with an effect are live ({share:.1%})"


def run(bench: Bench, options: argparse.Namespace) -> None:
    """Builds the parts that have no result yet, and writes each result at once."""
    done, again = known(options.results), set(options.again)
    chosen = sampled(bench.plan.candidates, options)
    due = [
        c for c in chosen
        if c.key not in done or "all" in again or again & set(done[c.key]["codes"])
    ]  # fmt: skip
    print(f"{len(chosen)} of {len(bench.plan.candidates)} parts, {len(due)} to build", flush=True)
    bench.builder.desk.ask_about([unit for c in due for unit in c.units])
    for number, candidate in enumerate(due, 1):
        row = attempt(bench, candidate)
        with options.results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{number:4}/{len(due)} {row['seconds']:5.1f} s {row['outcome']:10} "
              f"{row['title'][:70]} {' '.join(row['codes'])}", flush=True)  # fmt: skip
        gc.collect()


def main() -> None:
    """Runs and prints."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--from", dest="old", default="6.1.190-1")
    parser.add_argument("--to", dest="new", default="6.1.192-1")
    parser.add_argument("--flavour", default="cloud-amd64")
    parser.add_argument("--sample", type=int, default=0, help="how many parts; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--paths", help="only parts of such files, as 'net/*'")
    parser.add_argument("--again", action="append", default=[], help="repeat what failed so")
    parser.add_argument("--results", type=Path, default=Path("coverage.jsonl"))
    parser.add_argument("--report", action="store_true", help="only print what is known")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        bench = opened(options, stack)
        if not options.report:
            run(bench, options)
        print("\n".join(report(bench.by_unit, known(options.results))))


if __name__ == "__main__":
    main()
