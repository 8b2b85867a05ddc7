#!/usr/bin/env python3
"""Which kernels work: builds, proves, applies, undoes and verifies a small patch on each.

    scripts/matrix.py [--series 6.1] [--flavour rt-amd64] [--engine atomic]   only these rows
                      [--keep HOURS] [--again] [--list]

Every row is one kernel of the archive with one engine, tried in QEMU through the same functions
that users call. After each row docs/support.json and docs/support.md are written, so that a run
can be broken off at any time; what passed within --keep hours (default 24) is not run again.
The exit code is 1 when a row failed; a row that is not to be had says why and is no failure.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import support_table as table  # noqa: E402
from support_table import FAILED, MISSING, PASSED, REFUSED, Row  # noqa: E402

import rebootless  # noqa: E402
from rebootless.base.errors import (  # noqa: E402
    CompileError,
    NotFoundError,
    RebootlessError,
    RefusedError,
    ResourceError,
)
from rebootless.base.events import NullMonitor  # noqa: E402
from rebootless.base.fs import atomic_write, cache_root  # noqa: E402
from rebootless.bundle import archive  # noqa: E402
from rebootless.kernel.release import parse_release  # noqa: E402
from rebootless.lab.report import TestReport  # noqa: E402
from rebootless.provider.base import KernelInfo, KernelState  # noqa: E402

PATCH = "proc_version.patch"
CHECK = "grep 'Patched live' /proc/version\n"
# Where a series may be found when the machine's own sources do not have it.
SUITES: dict[str, tuple[str, ...]] = {
    "5.10": ("bullseye",),
    "6.1": ("bookworm",),
    "6.12": ("bookworm-backports", "trixie"),
    "7": ("trixie-backports", "forky", "sid"),
}
# The step of a row -> how the lab's steps that make it up are called
LAB_STEPS = {
    "apply": ("apply ", "code redirected", "workload goes on"),
    "check": ("check before", "check applied", "check after"),
    "undo": ("undo ",),
    "verify": ("code as before", "kernel log clean", "never rebooted"),
}


@dataclass(frozen=True)
class Kernel:
    """One line of the glance: a series and a flavour, and what the archive has of it.

    `infos` are the kernels that may be tried, the best first.
    """

    series: str
    flavour: str
    infos: tuple[KernelInfo, ...]
    suites: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Built:
    """A finished build, as the rows of its three engines tell it."""

    bundle: Path
    compiler: str
    seconds: float
    matched: tuple[int, int]


def main(argv: Sequence[str]) -> int:
    """Runs the rows that are asked for and not there yet; 1 if one of them failed."""
    options = parse(argv)
    json_path, page_path = ROOT / "docs/support.json", ROOT / "docs/support.md"
    rows = table.load(json_path)
    failed = False
    for kernel in kernels(options.series, options.flavour):
        wanted = [e for e in options.engine if options.again or not kept(rows, kernel, e, options)]
        if options.list:
            release = kernel.infos[0].release if kernel.infos else kernel.reason
            print(f"{kernel.series:5} {kernel.flavour:12} {release}: {' '.join(wanted) or 'kept'}")
            continue
        for row in run_rows(kernel, wanted):
            say(f"{row.release or row.series + ' ' + row.flavour} {row.engine}: {row.outcome}")
            if row.reason:
                say(f"    {row.reason}")
            failed |= row.outcome == FAILED
            rows[row.key] = row
            write(json_path, page_path, list(rows.values()))
    return 1 if failed else 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, values in (
        ("series", table.SERIES),
        ("flavour", table.FLAVOURS),
        ("engine", table.ENGINES),
    ):
        parser.add_argument(f"--{name}", action="append", choices=values)
    parser.add_argument("--keep", type=float, default=24.0, metavar="HOURS")
    parser.add_argument("--again", action="store_true", help="also what has passed")
    parser.add_argument("--list", action="store_true", help="only say what would run")
    options = parser.parse_args(argv)
    options.series = options.series or table.SERIES
    options.flavour = options.flavour or table.FLAVOURS
    options.engine = options.engine or table.ENGINES
    return options


def kept(
    rows: dict[tuple[int, int, int], Row], kernel: Kernel, engine: str, options: argparse.Namespace
) -> bool:
    """Whether the row has passed for this very kernel, and not too long ago."""
    row = rows.get(Row(kernel.series, kernel.flavour, engine, "", "").key)
    if row is None or row.outcome != PASSED:
        return False
    if (row.release, row.version) not in {(k.release, k.version) for k in kernel.infos}:
        return False
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(row.date)
    return age < datetime.timedelta(hours=options.keep)


def kernels(series: Sequence[str], flavours: Sequence[str]) -> Iterator[Kernel]:
    """The kernel to try for each series and flavour; further suites are asked only if need be."""
    for wanted in series:
        for flavour in flavours:
            yield find(wanted, flavour)


def find(series: str, flavour: str) -> Kernel:
    """The newest kernels of a series and flavour, those in the cache before others."""
    problems: list[str] = []
    for suites in ((), *((suite,) for suite in SUITES[series])):
        try:
            known = rebootless.kernels(suites=suites)
        except (NotFoundError, ResourceError) as exc:
            problems.append(exc.message.partition("\n")[0])
            continue
        fitting = [k for k in known if k.buildable and fits(k.release, series, flavour)]
        fitting.sort(key=lambda k: KernelState.CACHED in k.states)  # stable: the newest last
        if fitting:
            return Kernel(series, flavour, tuple(reversed(fitting)), suites)
    where = "no suite that this machine's archives offer has a kernel of it with its source"
    return Kernel(series, flavour, (), (), "; ".join([where, *problems[:1]]))


def fits(release: str, series: str, flavour: str) -> bool:
    """Whether a release is of a series ("7": any 7.x) and a flavour."""
    parsed = parse_release(release)
    same = parsed.series == series or ("." not in series and str(parsed.version[0]) == series)
    return same and parsed.flavour == flavour


def run_rows(kernel: Kernel, engines: Sequence[str]) -> Iterator[Row]:
    """Builds once, and tests with each engine; a row as soon as it is known."""
    if not engines:
        return
    blank = Row(kernel.series, kernel.flavour, "", MISSING, now(), reason=kernel.reason)
    for info in kernel.infos:
        say(f"{info.release} {info.version}")
        blank = replace(blank, release=info.release, version=info.version, reason="")
        try:
            files = rebootless.fetch(info.release, suites=kernel.suites)
            blank = replace(blank, compiler=files.compiler_text)
            built = build(info.release, kernel.suites)
        except NotFoundError as exc:  # its source package may be gone: perhaps not an older one's
            say(f"    {reason_of(exc)}")
            blank = replace(blank, reason=blank.reason or reason_of(exc))
            continue
        except RebootlessError as exc:
            outcome = outcome_of(exc)
            steps = {"build": "failed"} if outcome == FAILED else {}
            blank = replace(blank, outcome=outcome, steps=steps, reason=reason_of(exc))
            break
        for engine in engines:
            yield try_engine(replace(blank, engine=engine, date=now()), built)
        return
    yield from (replace(blank, engine=e) for e in engines)


def outcome_of(error: RebootlessError) -> str:
    """What a build that ended by `error` means for its rows."""
    if isinstance(error, RefusedError):
        return REFUSED
    missing = isinstance(error, CompileError) and "the kernel was built by" in error.message
    return MISSING if missing or isinstance(error, NotFoundError | ResourceError) else FAILED


def reason_of(error: RebootlessError) -> str:
    """The first line of what went wrong, and what mends it."""
    first = error.message.strip().partition("\n")[0]
    return f"{first} ({error.hint})" if error.hint else first


def build(release: str, suites: Sequence[str]) -> Built:
    """The example patch for a kernel. Raises what `rebootless.build` does."""
    folder = cache_root() / "matrix"
    folder.mkdir(parents=True, exist_ok=True)
    patch = folder / PATCH
    patch.write_bytes((resources.files("rebootless") / "examples" / PATCH).read_bytes())
    started = time.monotonic()
    result = rebootless.build(
        [patch],
        kernel=release,
        suites=suites,
        output=folder / f"{release}{archive.SUFFIX}",
        monitor=NullMonitor(),
    )
    seconds = time.monotonic() - started
    bundle = archive.read(result.bundle_path)
    functions = [f for unit in bundle.match["units"] for f in unit["functions"]]
    good = sum(f["status"] == "matched" for f in functions)
    return Built(result.bundle_path, result.manifest.toolchain, seconds, (good, len(functions)))


def try_engine(row: Row, built: Built) -> Row:
    """The row, after the test in QEMU with its engine."""
    check = built.bundle.with_suffix(".check")
    check.write_text(CHECK)
    started = time.monotonic()
    row = replace(row, matched=built.matched, compiler=built.compiler)
    try:
        report = rebootless.test(built.bundle, check=check, engine=row.engine)
    except RebootlessError as exc:
        return replace(
            row,
            outcome=outcome_of(exc),
            steps={"build": "ok", "match": "ok"},
            seconds={"build": round(built.seconds, 1)},
            reason=reason_of(exc),
        )
    seconds = {
        "build": round(built.seconds, 1),
        "boot": round(report.boot_seconds, 1),
        "test": round(time.monotonic() - started, 1),
        **{what.split()[0]: round(ms / 1000, 6) for what, ms in report.transition_ms},
    }
    return replace(
        row,
        outcome=PASSED if report.passed else FAILED,
        steps={"build": "ok", "match": "ok", **steps_of(report)},
        seconds=seconds,
        reason=re.sub(r"\s+", " ", report.reason),
    )


def steps_of(report: TestReport) -> dict[str, str]:
    """The lab's steps summed up: each of ours is ok when all that make it up are."""
    summed = {}
    for name, prefixes in LAB_STEPS.items():
        seen = [s.outcome for s in report.steps if s.name.startswith(prefixes)]
        if seen:
            summed[name] = "failed" if FAILED in seen else "ok"
    return summed


def write(json_path: Path, page_path: Path, rows: list[Row]) -> None:
    """Both files, each whole or as before."""
    tools = versions()
    atomic_write(json_path, json.dumps(table.document(rows, tools), indent=1) + "\n")
    atomic_write(page_path, table.page(rows, tools))


def versions() -> dict[str, str]:
    """The versions of what ran the rows."""
    shown = subprocess.run(
        ["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=False
    )
    found = re.search(r"version (\S+)", shown.stdout)
    return {
        "rebootless": metadata.version("rebootless"),
        "QEMU": found[1] if found else "unknown",
        "Python": sys.version.split()[0],
    }


def now() -> str:
    """The time, to the minute."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")


def say(text: str) -> None:
    """A line of progress."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
