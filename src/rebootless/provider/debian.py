"""Debian and its derivatives: kernels out of the package archive, kept in a cache.

    cache/kernels/RELEASE/image/     vmlinuz, config, lib/modules/RELEASE     } each with a
    cache/kernels/RELEASE/headers/   Module.symvers                           } version file
    cache/sources/VERSION/           linux-source-X.tar.xz

Each of these directories is filled aside and renamed when whole, under a lock of its own, so that
processes can share the cache, and an interrupted one leaves nothing. What is cached is used
without asking the archive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..base.errors import NotFoundError, ResourceError
from ..base.events import Monitor, NullMonitor, Warned, stage
from ..base.fs import (
    atomic_write,
    cache_root,
    filling_directory,
    read_text,
    remove_tree,
)
from . import deb, featuresets
from .apt import AptArchive
from .base import KernelFiles, KernelInfo, KernelState, SourceTarball, compiler_of
from .catalog import KernelPackages, flavour, group_packages, order
from .installed import InstalledKernel, installed_kernel, installed_kernels, running_release
from .packages import Package
from .parallel import SerialMonitor, lock_unless, side_by_side

_VERSION_FILE = ".version"


class DebianProvider:
    """Kernels of Debian archives and of this machine. See `base.Provider`."""

    def __init__(
        self,
        *,
        cache: Path | None = None,
        archive: AptArchive | None = None,
        machine_root: Path = Path("/"),
    ) -> None:
        self.cache = cache if cache is not None else cache_root()
        self.archive = archive if archive is not None else AptArchive(self.cache / "apt")
        self.machine_root = machine_root

    # --- listing --------------------------------------------------------------------------

    def list(
        self,
        monitor: Monitor | None = None,
        *,
        refresh: bool = False,
        archive: bool = True,
        all_versions: bool = False,
    ) -> tuple[KernelInfo, ...]:
        """Every kernel known, oldest first: one entry per release, its newest version.

        `archive=False` asks only this machine and the cache. `all_versions` gives one entry per
        release and version.
        """
        cached = self._cached()
        offered: tuple[KernelPackages, ...] = ()
        try:
            offered = self.offered(monitor, refresh=refresh) if archive else ()
        except (ResourceError, NotFoundError) as exc:
            if not cached:
                raise
            (monitor or NullMonitor()).emit(Warned(f"the archive is left out: {exc.message}"))
        if not all_versions:
            offered = tuple({k.release: k for k in offered}.values())  # the newest comes last
        local = {k.release: k for k in installed_kernels(self.machine_root)}
        running = running_release() if self.machine_root == Path("/") else ""
        found: list[KernelInfo] = []
        for kernel in offered:
            states = {KernelState.ARCHIVE}
            if cached.get(kernel.release) == kernel.version:
                states.add(KernelState.CACHED)
            if kernel.release in local and local[kernel.release].version in ("", kernel.version):
                states.add(KernelState.INSTALLED)
            if kernel.release == running:
                states.add(KernelState.RUNNING)
            buildable = kernel.source is not None and kernel.headers is not None
            buildable = buildable or KernelState.CACHED in states
            found.append(
                KernelInfo(
                    kernel.release,
                    kernel.version,
                    ", ".join(kernel.suites),
                    frozenset(states),
                    buildable,
                )
            )
        found += self._elsewhere(found, local, cached, running)
        return tuple(sorted(found, key=lambda k: order(k.release, k.version)))

    def offered(
        self, monitor: Monitor | None = None, *, refresh: bool = False
    ) -> tuple[KernelPackages, ...]:
        """The kernels in the archive, by release and version, oldest first."""
        return group_packages(self.archive.packages(monitor, refresh=refresh))

    def sources(self, monitor: Monitor | None = None) -> dict[str, Package]:
        """The source packages in the archive (linux-source-X), by version."""
        found = self.archive.packages(monitor)
        return {p.version: p for p in found if p.name.startswith("linux-source-")}

    # --- fetching -------------------------------------------------------------------------

    def fetch(
        self, release: str, monitor: Monitor | None = None, *, version: str | None = None
    ) -> KernelFiles:
        """Gets everything for `release`, at `version` (the installed or else the newest one).

        Image, headers and source are downloaded side by side. Raises NotFoundError when the
        release, its headers or its source cannot be had, ResourceError for network and disk.
        """
        monitor = SerialMonitor(monitor or NullMonitor())
        local = installed_kernel(release, self.machine_root)
        wanted = version or local.version or None
        if (files := self._complete(release, local, wanted)) is not None:
            return files
        kernel = self._choose(release, wanted, monitor)
        if not featuresets.has(self.cache, kernel.version, featuresets.of(release)):
            featuresets.fetch(self.archive, self.cache, kernel.version, monitor)
        jobs: list[Callable[[Callable[[], bool]], object]] = []
        if not (local.complete and local.version == kernel.version):
            jobs.append(lambda stop: self._fetch_image(kernel, monitor, stop))
        if not (local.symvers and local.version == kernel.version):
            jobs.append(lambda stop: self._fetch_headers(kernel, monitor, stop))
        jobs.append(lambda stop: self.fetch_source(kernel.version, monitor, stop))
        side_by_side(jobs)
        files = self._complete(release, local, kernel.version)
        if files is None:
            raise NotFoundError(f"the packages of {release} {kernel.version} are not complete")
        return files

    def fetch_source(
        self,
        version: str,
        monitor: Monitor | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Path:
        """The tarball of the source at exactly this version. Raises NotFoundError."""
        directory = self.cache / "sources" / version
        with lock_unless(self.cache / "sources" / f".{version}.lock", cancelled):
            if (cached := _tarball(directory)) is not None:
                return cached
            package = self.sources(monitor).get(version)
            if package is None:
                raise NotFoundError(
                    f"the archive does not have the kernel source at version {version}",
                    hint="take a kernel that is marked buildable in `rebootless kernels`",
                )
            with filling_directory(directory) as aside:
                self._unpack(
                    (package,),
                    aside,
                    monitor,
                    cancelled,
                    "fetch-source",
                    f"source {version}",
                    only=("./usr/src/*.tar.*",),
                )
                found = sorted(aside.rglob("*.tar.*"))
                if not found:
                    raise NotFoundError(f"{package.name} {version} holds no source tarball")
                found[0].rename(aside / found[0].name)
                _keep_only(aside, (found[0].name,))
        tarball = _tarball(directory)
        assert tarball is not None
        return tarball

    def _fetch_image(
        self, kernel: KernelPackages, monitor: Monitor, cancelled: Callable[[], bool]
    ) -> None:
        directory = self.cache / "kernels" / kernel.release / "image"
        with lock_unless(directory.with_name(".image.lock"), cancelled):
            if _version_in(directory) == kernel.version:
                return
            with filling_directory(directory) as aside:
                self._unpack(
                    kernel.image,
                    aside,
                    monitor,
                    cancelled,
                    "fetch-image",
                    f"image {kernel.release}",
                    exclude=("./usr/share",),
                )
                arrange_image(aside, kernel.release)
                atomic_write(aside / _VERSION_FILE, kernel.version)

    def _fetch_headers(
        self, kernel: KernelPackages, monitor: Monitor, cancelled: Callable[[], bool]
    ) -> None:
        if kernel.headers is None:
            raise NotFoundError(
                f"the archive no longer has linux-headers-{kernel.release} {kernel.version}",
                hint="take a kernel that is marked buildable in `rebootless kernels`",
            )
        directory = self.cache / "kernels" / kernel.release / "headers"
        with lock_unless(directory.with_name(".headers.lock"), cancelled):
            if _version_in(directory) == kernel.version:
                return
            with filling_directory(directory) as aside:
                self._unpack(
                    (kernel.headers,),
                    aside,
                    monitor,
                    cancelled,
                    "fetch-headers",
                    f"headers {kernel.release}",
                    only=("*/Module.symvers",),
                )
                found = sorted(aside.rglob("Module.symvers"))
                found[0].rename(aside / "Module.symvers")
                _keep_only(aside, ("Module.symvers",))
                atomic_write(aside / _VERSION_FILE, kernel.version)

    def _unpack(
        self,
        packages: tuple[Package, ...],
        aside: Path,
        monitor: Monitor | None,
        cancelled: Callable[[], bool],
        name: str,
        title: str,
        *,
        only: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
    ) -> None:
        """Downloads packages into the directory being filled, unpacks them there, drops them."""
        size = sum(p.size for p in packages) / 2**20
        with stage(monitor or NullMonitor(), name, f"Fetching {title}") as report:
            for file in self.archive.download(packages, aside, report, cancelled):
                report.detail(f"unpacking {file.name}")
                deb.extract(file, aside, only=only, exclude=exclude, cancelled=cancelled)
                file.unlink()
            report.result = f"{size:.1f} MiB"

    def _choose(self, release: str, version: str | None, monitor: Monitor) -> KernelPackages:
        """The kernel in the archive; asks again with fresh lists when it is not there."""
        for refresh in (False, True):
            known = self.offered(monitor, refresh=refresh)
            fitting = [k for k in known if k.release == release and version in (None, k.version)]
            whole = [k for k in fitting if k.source and k.headers]
            if whole:
                return whole[-1]
        if fitting:
            raise NotFoundError(
                f"the archive has the image of {release} {fitting[-1].version}, but no longer its "
                f"{'headers' if fitting[-1].source else 'source'}",
                hint="take a kernel that is marked buildable in `rebootless kernels`",
            )
        near = [k.release for k in known if k.source and flavour(k.release) == flavour(release)]
        series = [r for r in near if r.split(".")[:2] == release.split(".")[:2]]
        near = series or near
        raise NotFoundError(
            f"no source on this machine offers the kernel {release}"
            + (f" at version {version}" if version else ""),
            hint=f"kernels of that flavour: {', '.join(near[-4:])}; other suites: --suite trixie"
            if near
            else "`rebootless kernels` lists what there is; add a suite with --suite trixie",
        )

    # --- the cache ------------------------------------------------------------------------

    def _complete(
        self, release: str, local: InstalledKernel, version: str | None
    ) -> KernelFiles | None:
        """The files, when machine and cache together hold all of them at one version."""
        root = self.cache / "kernels" / release
        at_machine = local.complete and local.version and version in (None, local.version)
        chosen = local.version if at_machine else version or _version_in(root / "image")
        if not chosen or (tarball := _tarball(self.cache / "sources" / chosen)) is None:
            return None
        features = featuresets.of(release)
        if not featuresets.has(self.cache, chosen, features):
            return None
        image, config, modules = local.image, local.config, local.modules
        if not at_machine:
            if _version_in(root / "image") != chosen:
                return None
            image, config = root / "image/vmlinuz", root / "image/config"
            modules = root / "image/lib/modules" / release
        symvers = local.symvers if at_machine else None
        if symvers is None:
            if _version_in(root / "headers") != chosen:
                return None
            symvers = root / "headers/Module.symvers"
        assert image is not None and config is not None
        compiler, text = compiler_of(read_text(config), config)
        return KernelFiles(
            release,
            chosen,
            image,
            config,
            symvers,
            modules,
            SourceTarball(tarball, patches=featuresets.patches(self.cache, chosen, features)),
            compiler,
            text,
        )

    def _cached(self) -> dict[str, str]:
        """Release -> version of the kernels that are complete in the cache."""
        found = {}
        for path in sorted((self.cache / "kernels").glob("*/image")):
            version = _version_in(path)
            if not version or _version_in(path.with_name("headers")) != version:
                continue
            if _tarball(self.cache / "sources" / version) is not None:
                found[path.parent.name] = version
        return found

    def _elsewhere(
        self,
        known: Iterable[KernelInfo],
        local: dict[str, InstalledKernel],
        cached: dict[str, str],
        running: str,
    ) -> Iterable[KernelInfo]:
        """Kernels that the archive does not offer: running, installed, cached."""
        pairs = {(k.release, k.version) for k in known}
        releases = {k.release for k in known}
        for release, version in cached.items():
            if (release, version) not in pairs:
                states = {KernelState.CACHED}
                states |= {KernelState.RUNNING} if release == running else set()
                states |= {KernelState.INSTALLED} if release in local else set()
                releases.add(release)
                yield KernelInfo(release, version, "", frozenset(states), True)
        for release in sorted({*local, *([running] if running else [])} - releases):
            states = {KernelState.INSTALLED} if release in local else set()
            states |= {KernelState.RUNNING} if release == running else set()
            version = local[release].version if release in local else ""
            yield KernelInfo(release, version, "", frozenset(states), False)


def arrange_image(directory: Path, release: str) -> None:
    """Brings an unpacked image into one shape: vmlinuz, config, lib/modules/RELEASE.

    Older packages have boot/ and lib/, newer ones keep everything in usr/lib/modules/RELEASE.
    Raises NotFoundError naming what the packages lack.
    """
    target = directory / "lib/modules" / release
    merged = directory / "usr/lib/modules" / release
    if merged.is_dir() and not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        merged.rename(target)
    for name in ("vmlinuz", "config"):
        places = (directory / f"boot/{name}-{release}", target / name)
        found = next((p for p in places if p.is_file()), None)
        if found is None:
            raise NotFoundError(f"the packages of {release} hold no {name}")
        found.rename(directory / name)
    if not (target / "kernel").is_dir():
        raise NotFoundError(f"the packages of {release} hold no modules")
    _keep_only(directory, ("vmlinuz", "config", "lib"))


def _keep_only(directory: Path, names: tuple[str, ...]) -> None:
    for path in directory.iterdir():
        if path.name not in names:
            remove_tree(path)


def _version_in(directory: Path) -> str:
    try:
        return (directory / _VERSION_FILE).read_text()
    except OSError:
        return ""


def _tarball(directory: Path) -> Path | None:
    return next(iter(sorted(directory.glob("*.tar.*"))), None) if directory.is_dir() else None
