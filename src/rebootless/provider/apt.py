"""A private apt: own lists, own state, the machine's sources and keys.

    cache/apt/apt.conf            what differs from the machine's apt configuration
    cache/apt/sources.list.d/     the machine's entries, and the suites that were asked for
    cache/apt/lists/              package lists, verified by apt against the archive's signature
    cache/apt/index.json          the kernel packages in them

apt does all that concerns trust: it checks the signature of each suite and the hash of each list,
and each package is downloaded by apt's own helper against the hash in the list. Nothing of the
machine's is written, so no privilege is needed. Sources that offer no kernels (third parties') are
found out once and then left alone; one that fails never breaks the others.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..base import proc
from ..base.errors import NotFoundError, RebootlessError, ResourceError
from ..base.events import Monitor, NullMonitor, StageReport, Warned, stage
from ..base.fs import atomic_write, cache_root, is_full, locked
from ..base.workdir import fingerprint
from . import apt_config
from . import sources as apt_sources
from .apt_errors import download_failure, problem_of
from .packages import ListFile, Package, read_lists
from .sources import Source

HELPER = "/usr/lib/apt/apt-helper"
MAX_AGE = 3600.0  # seconds until lists count as old
RETRY_AGE = 300.0  # seconds until a failed refresh is tried again on its own
LISTS_SPACE = 150 << 20  # bytes; a large suite is 30 MB of lists
UPDATE_TIMEOUT = 600.0  # seconds
_LIST_END = "_Packages"
_HINT_APT = "rebootless reads Debian's archive through apt; on other systems give your own files"


@dataclass(frozen=True)
class _Memory:
    """What is remembered between runs: suites asked for, addresses without kernels."""

    suites: tuple[tuple[str, str], ...] = ()
    barren: tuple[str, ...] = ()


class AptArchive:
    """The archives that this machine's apt knows, seen through a private root.

    `machine_sources` replaces what is read from the machine's configuration.
    """

    def __init__(
        self, root: Path | None = None, *, machine_sources: Sequence[Source] | None = None
    ) -> None:
        self.root = root if root is not None else cache_root() / "apt"
        self._given = tuple(machine_sources) if machine_sources is not None else None
        self._packages: tuple[Package, ...] | None = None
        self._problems: dict[tuple[str, str], str] = {}

    def packages(
        self, monitor: Monitor | None = None, *, refresh: bool = False
    ) -> tuple[Package, ...]:
        """Every kernel package on offer; lists older than an hour are refreshed first.

        Raises NotFoundError without apt or sources, ResourceError when no list can be had at all.
        A refresh that fails although older lists exist is a warning.
        """
        return tuple(p for p in self._known(monitor, refresh) if p.name.startswith("linux-"))

    def compilers(self, monitor: Monitor | None = None) -> tuple[Package, ...]:
        """Every gcc-N package in the same lists. Raises what `packages` does."""
        return tuple(p for p in self._known(monitor, False) if p.name.startswith("gcc-"))

    def sources_of(self, suite: str) -> tuple[Source, ...]:
        """The entries for a suite that is known, and for its security suite if there is one."""
        names = (suite, f"{suite.split('-')[0]}-security")
        wanted = self._wanted(self._memory())
        return tuple(s for s in wanted if s.suite in names and self._list_files((s,)))

    def codename(self, suite: str) -> str:
        """What a suite that is known calls itself ("trixie" for stable); `suite` if it does not."""
        for path in sorted((self.root / "lists").glob(f"*_dists_{suite}_*Release")):
            with contextlib.suppress(OSError):
                found = re.search(r"^Codename: (\S+)$", path.read_text(), re.MULTILINE)
                if found is not None:
                    return found[1]
        return suite

    def add_suite(self, suite: str, monitor: Monitor | None = None) -> None:
        """Adds another suite of the same archives ("trixie", "sid"...) to the private root.

        It stays there. Its security suite comes along where there is one. Raises NotFoundError
        when no source has such a suite, or it has no kernels.
        """
        monitor = monitor or NullMonitor()
        with locked(self.root / "lock"):
            before = self._memory()
            guesses = apt_sources.other_suite(self._base_sources(before), suite)
            known = {s.key for s in self._wanted(before)}
            if any(g.suite == suite and g.key in known for g in guesses):
                return  # other addresses, which lack it, were asked when it was added
            new = tuple(g for g in guesses if g.key not in known)
            keys = (*before.suites, *(g.key for g in new))
            self._refresh(_Memory(keys, before.barren), monitor, quiet=True)
            exist = {lst.source.key for lst in self._list_files(self._wanted(_Memory(keys)))}
            kept = tuple(g.key for g in new if g.key in exist)
            self._save(_Memory((*before.suites, *kept), before.barren))
            self._write_sources(self._wanted(self._memory()))
            self._stamp(self._wanted(self._memory()), self._stamp_time())
            self._packages = None
            if not any(name == suite for _, name in kept):
                reasons = [self._problems.get(g.key, "") for g in new if g.suite == suite]
                raise NotFoundError(
                    f"no source offers the suite '{suite}': {'; '.join(filter(None, reasons))}",
                    hint="check its name (e.g. trixie, sid, bookworm-backports) and the network",
                )

    def download(
        self,
        packages: Sequence[Package],
        directory: Path,
        report: StageReport | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> tuple[Path, ...]:
        """Downloads packages into `directory`, verified by apt; returns the files in that order.

        Raises NotFoundError for a package that is gone from the archive, ResourceError when the
        network or the disk fails, or when `cancelled` says so.
        """
        targets = [directory / Path(p.uri).name for p in packages]
        argv: list[str | Path] = [HELPER, "-c", self._config(), "-q", "download-file"]
        for package, target in zip(packages, targets, strict=True):
            if not package.sha256:
                raise ResourceError(f"the archive gives no SHA-256 for {package.name}")
            argv += [package.uri, target, f"SHA256:{package.sha256}"]
        need_space(directory, sum(p.size + p.installed_size for p in packages))
        # Standard error has the errors alone: too little to fill the pipe.
        process = proc.spawn(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        total = sum(p.size for p in packages)
        try:
            while process.poll() is None:
                if cancelled():
                    raise ResourceError("the download was given up")
                if report is not None:
                    done = sum(t.stat().st_size for t in targets if t.exists())
                    report.progress(done, total, f"{done >> 20} of {total >> 20} MiB")
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
            output = process.stderr.read().decode(errors="replace")
        finally:
            proc.kill_group(process)
            process.stderr.close()
        if process.returncode != 0:
            if is_full(directory):
                output += "\nE: No space left on device"
            raise download_failure(packages, output)
        return tuple(targets)

    # --- inside ---------------------------------------------------------------------------

    def _known(self, monitor: Monitor | None, refresh: bool) -> tuple[Package, ...]:
        if self._packages is None or refresh:
            with locked(self.root / "lock"):
                self._packages = self._read(monitor or NullMonitor(), refresh)
        return self._packages

    def _read(self, monitor: Monitor, refresh: bool) -> tuple[Package, ...]:
        memory = self._memory()
        if refresh:  # who had no kernels may have some now
            memory = _Memory(memory.suites, ())
        wanted = self._wanted(memory)
        lists = self._list_files(wanted)
        if refresh or not lists or self._is_old(wanted):
            self._refresh(memory, monitor)
            lists = self._list_files(wanted)
        if not lists:
            raise self._no_lists(wanted)
        found = read_lists(lists, HELPER, self.root / "index.json")
        fertile = {lst.source.key[0] for lst in lists if found[lst.path.name]}
        barren = {lst.source.key[0] for lst in lists} - fertile
        if barren - set(memory.barren):
            self._save(_Memory(memory.suites, tuple(sorted(barren | set(memory.barren)))))
            self._stamp(self._wanted(self._memory()), self._stamp_time())
        return tuple(p for packages in found.values() for p in packages)

    def _refresh(self, memory: _Memory, monitor: Monitor, *, quiet: bool = False) -> None:
        """Runs apt's update over the wanted sources and notes which of them failed."""
        proc.which("apt-get", hint=_HINT_APT)
        need_space(self.root, LISTS_SPACE)  # apt would hang on a full disk
        wanted = self._wanted(memory)
        if not wanted:
            raise NotFoundError(
                "apt has no sources that may offer kernels",
                hint="add a Debian entry to /etc/apt/sources.list.d, or give your own files",
            )
        self._write_sources(wanted)
        with stage(monitor, "update-lists", "Reading the package lists of the archive") as report:
            # apt's own package cache would cost a second more, and is of no use here.
            argv: list[str | Path] = ["apt-get", "-c", self._config(), "-q", "update"]
            argv += ["-o", "pkgCacheFile::Generate=false"]
            result = proc.run(argv, check=False, timeout=UPDATE_TIMEOUT)
            output = result.stdout + result.stderr
            report.result = f"{len(wanted)} suites"
        if "o space left on device" in output:
            raise ResourceError(
                f"no space left for package lists in {self.root}", hint="free some space"
            )
        self._problems = {s.key: p for s in wanted if (p := problem_of(s, output))}
        asked = set(memory.suites)
        failed = any(s.key in self._problems for s in wanted if s.key not in asked)
        if not quiet:
            for source in wanted:
                if (problem := self._problems.get(source.key)) and self._list_files((source,)):
                    monitor.emit(Warned(f"using an older list of {source}: {problem}"))
                elif problem:
                    monitor.emit(Warned(f"leaving out {source}: {problem}"))
        age = MAX_AGE - RETRY_AGE if failed else 0.0
        self._stamp(wanted, time.time() - age)

    def _no_lists(self, wanted: Sequence[Source]) -> RebootlessError:
        reasons = [f"  {s}: {self._problems.get(s.key, 'no list')}" for s in wanted]
        return ResourceError(
            "no package list could be read:\n" + "\n".join(reasons),
            hint="check the network and the proxy (http_proxy), or work from a filled cache",
        )

    def _list_files(self, wanted: Sequence[Source]) -> tuple[ListFile, ...]:
        """The lists on disk of these sources, however apt keeps them compressed."""
        there = {
            p.name.partition(_LIST_END)[0]: p for p in (self.root / "lists").glob("*Packages*")
        }
        found = []
        for source in wanted:
            for name in apt_sources.list_names(source, native_architecture()):
                if (path := there.get(name)) is not None:
                    found.append(ListFile(path, source))
        return tuple(found)

    def _base_sources(self, memory: _Memory) -> tuple[Source, ...]:
        found = self._given if self._given is not None else machine_sources()
        return tuple(s for s in found if s.uri.rstrip("/") not in memory.barren)

    def _wanted(self, memory: _Memory) -> tuple[Source, ...]:
        base = self._base_sources(memory)
        extra = []
        for uri, suite in memory.suites:
            for like in base:
                if like.uri.rstrip("/") == uri:
                    extra.append(replace(like, suite=suite, where="asked for"))
                    break
        every = apt_sources.merge((*base, *extra))
        return apt_sources.for_architecture(every, native_architecture())

    def _write_sources(self, wanted: Sequence[Source]) -> None:
        atomic_write(self.root / "sources.list.d" / "all.sources", apt_sources.render(wanted))

    def _config(self) -> Path:
        return apt_config.write(self.root)

    def _memory(self) -> _Memory:
        with contextlib.suppress(OSError, ValueError, KeyError):
            data = json.loads((self.root / "memory.json").read_text())
            return _Memory(tuple((u, s) for u, s in data["suites"]), tuple(data["barren"]))
        return _Memory()

    def _save(self, memory: _Memory) -> None:
        data = {"suites": memory.suites, "barren": memory.barren}
        atomic_write(self.root / "memory.json", json.dumps(data))

    def _stamp(self, wanted: Sequence[Source], when: float) -> None:
        path = self.root / "updated"
        atomic_write(path, fingerprint(apt_sources.render(wanted)))
        os.utime(path, (when, when))

    def _stamp_time(self) -> float:
        return (self.root / "updated").stat().st_mtime

    def _is_old(self, wanted: Sequence[Source]) -> bool:
        try:
            text = (self.root / "updated").read_text()
            age = time.time() - self._stamp_time()
        except OSError:
            return True
        return text != fingerprint(apt_sources.render(wanted)) or not 0 <= age < MAX_AGE


def machine_sources() -> tuple[Source, ...]:
    """The enabled entries of this machine's apt; raises NotFoundError when there is no apt."""
    proc.which("apt-config", hint=_HINT_APT)
    places = ["LIST", "Dir::Etc::sourcelist/f", "PARTS", "Dir::Etc::sourceparts/d"]
    text = proc.run(["apt-config", "shell", *places]).stdout
    found = dict(re.findall(r"^(\w+)='(.*)'$", text, re.MULTILINE))
    return apt_sources.read_sources(
        Path(found.get("LIST", "/etc/apt/sources.list")),
        Path(found.get("PARTS", "/etc/apt/sources.list.d")),
    )


_architecture: list[str] = []
_architecture_lock = threading.Lock()


def native_architecture() -> str:
    """Debian's name for this machine's architecture, e.g. "amd64"."""
    with _architecture_lock:
        if not _architecture:
            result = proc.run(["dpkg", "--print-architecture"], hint=_HINT_APT)
            _architecture.append(result.stdout.strip())
        return _architecture[0]


def need_space(directory: Path, size: int) -> None:
    """Raises ResourceError when fewer than `size` bytes are free where `directory` is."""
    while not directory.exists():
        directory = directory.parent
    if (free := shutil.disk_usage(directory).free) < size:
        raise ResourceError(
            f"{size >> 20} MiB are needed in {directory}, and {free >> 20} MiB are free",
            hint="free some space, or set REBOOTLESS_CACHE to a directory on a larger disk",
        )
