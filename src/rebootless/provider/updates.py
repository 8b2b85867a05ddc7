"""Real updates out of the archive: what changed in the source between two package versions.

Debian's kernel updates within one upstream version (6.1.192-1 -> 6.1.192-2) are often a single
security fix. As archive suites keep several versions at once, such a fix can be had as a diff at
any time, together with the kernel that still lacks it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..base.events import Monitor, NullMonitor, stage
from ..base.fs import atomic_write, locked
from .catalog import flavour as flavour_of
from .debian import DebianProvider
from .packages import DebVersion
from .parallel import SerialMonitor, side_by_side
from .sourcediff import SourceDiff, changed_files, unified


@dataclass(frozen=True)
class SourceUpdate:
    """A source change between two package versions, and a kernel of the older one.

    `diff` is unified, for -p1; `files` are the paths that it touches.
    """

    old_version: str
    new_version: str
    release: str
    diff: bytes
    files: tuple[str, ...]


def find_small_update(
    provider: DebianProvider,
    flavour: str = "cloud-amd64",
    series: str | None = None,
    *,
    max_files: int = 20,
    max_lines: int = 400,
    max_pairs: int = 4,
    accept: Callable[[SourceUpdate], bool] = lambda _: True,
    monitor: Monitor | None = None,
) -> SourceUpdate | None:
    """The newest update whose source change is small; None when there is none.

    Looks at successive versions of `series` ("6.1"; all when None): first those of one upstream
    version, then others, each newest first, at most `max_pairs` of them, as each costs a download
    of both sources. A change of more than `max_files` files or `max_lines` lines is not small;
    `accept` may turn down others. Every old version has a kernel of `flavour` to fetch.
    """
    monitor = monitor or NullMonitor()
    kernels = {
        k.version: k.release
        for k in provider.offered(monitor)
        if flavour_of(k.release) == flavour and k.headers is not None and k.source is not None
    }
    names = {v: p.name.removeprefix("linux-source-") for v, p in provider.sources(monitor).items()}
    wanted = [v for v, name in names.items() if series in (None, name)]
    tried = 0
    for old, new in version_pairs(wanted, names):
        if old not in kernels:
            continue
        if tried == max_pairs:
            break
        tried += 1
        found = diff_between(
            provider, old, new, max_files=max_files, max_lines=max_lines, monitor=monitor
        )
        if found is None or not found.files:
            continue
        update = SourceUpdate(old, new, kernels[old], found.diff, found.files)
        if accept(update):
            return update
    return None


def version_pairs(versions: Iterable[str], series: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Successive versions of one series and one line of packaging, the likeliest small ones first.

    6.1.176-1 and 6.1.176-1~deb11u1 are of different lines: their difference is no update.
    """
    lines: dict[tuple[str, str], list[DebVersion]] = {}
    for text in versions:
        lines.setdefault((series[text], text.partition("~")[2]), []).append(DebVersion(text))
    pairs: list[tuple[DebVersion, DebVersion]] = []
    for line in lines.values():
        line.sort()
        pairs += itertools.pairwise(line)
    pairs.sort(key=lambda p: (p[0].upstream == p[1].upstream, p[1]), reverse=True)
    for old, new in pairs:
        yield old.text, new.text


def diff_between(
    provider: DebianProvider,
    old: str,
    new: str,
    *,
    max_files: int | None = None,
    max_lines: int | None = None,
    monitor: Monitor | None = None,
) -> SourceDiff | None:
    """What changed from source version `old` to `new`; None when it is more than the bounds allow.

    The result is kept in the cache. Raises NotFoundError when a version cannot be had.
    """
    monitor = SerialMonitor(monitor or NullMonitor())
    base = provider.cache / "updates" / f"{old}..{new}"
    with locked(base.with_name(f".{base.name}.lock")):
        known = _load(base)
        if isinstance(known, int):  # it had more files than that
            if max_files is not None and max_files <= known:
                return None
        elif known is not None:
            return known if _within(known, max_files, max_lines) else None
        paths: dict[str, Path] = {}

        def get(version: str, stop: Callable[[], bool]) -> None:
            paths[version] = provider.fetch_source(version, monitor, stop)

        side_by_side([lambda stop, v=v: get(v, stop) for v in (old, new)])  # type: ignore[misc]
        with stage(monitor, "source-diff", f"Comparing the sources {old} and {new}") as report:
            changed = changed_files(paths[old], paths[new], max_files=max_files)
            found = unified(changed) if changed is not None else None
            report.result = f"{len(found.files)} files" if found else f"over {max_files} files"
        if found is None:
            assert max_files is not None
            atomic_write(base.with_name(base.name + ".json"), json.dumps({"over": max_files}))
            return None
        _save(base, found)
        return found if _within(found, max_files, max_lines) else None


def _within(found: SourceDiff, max_files: int | None, max_lines: int | None) -> bool:
    files = len(found.files) + len(found.binary)
    return (max_files is None or files <= max_files) and (
        max_lines is None or found.lines <= max_lines
    )


def _save(base: Path, found: SourceDiff) -> None:
    facts = {"files": found.files, "lines": found.lines, "binary": found.binary}
    atomic_write(base.with_name(base.name + ".diff"), found.diff)
    atomic_write(base.with_name(base.name + ".json"), json.dumps(facts))


def _load(base: Path) -> SourceDiff | int | None:
    """The cached difference, the number of files that it is known to exceed, or None."""
    try:
        facts = json.loads(base.with_name(base.name + ".json").read_text())
        if "over" in facts:
            return int(facts["over"])
        diff = base.with_name(base.name + ".diff").read_bytes()
        return SourceDiff(diff, tuple(facts["files"]), facts["lines"], tuple(facts["binary"]))
    except (OSError, ValueError, KeyError):
        return None
