"""`--from-packages DIR`: kernels out of packages and directories that the user has.

    DIR/*.deb *.rpm *.dsc *.tar.*     packages of kernels, source packages, tarballs of source
    DIR, DIR/*/                       directories like the root of a system, or source trees

Of what belongs together the content decides (`parts`, `choose`); how a distribution calls its
packages only helps to say what is missing (`naming`). What was put together is kept:

    cache/given/packages/             the packages' files, see `package`
    cache/given/kernels/RELEASE-FINGERPRINT/    what has to be joined: modules, symvers, source
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ...base.errors import NotFoundError, PatchInputError, RebootlessError
from ...base.events import Monitor, NullMonitor, stage
from ...base.fs import cache_root, filling_directory, locked, read_bytes, read_text
from ...base.workdir import fingerprint
from ...kernel.image import decompress
from ..base import KernelFiles, KernelInfo, KernelState, compiler_of
from ..catalog import order
from ..installed import running_release
from ..naming import Facts, Naming, is_kernel, naming_of
from . import agree, compilers, package, source
from .choose import Chosen, choose, release_of
from .package import TARBALL, PackageFile
from .parts import Found, Image, Part, Root, find, is_root

MARKER = ".complete"


@dataclass(frozen=True)
class PackagesProvider:
    """Kernels in a folder of packages or directories. See `base.Provider`.

    `running` is the running kernel's release, which is meant when several are there and none is
    asked for.
    """

    directory: Path
    cache: Path = field(default_factory=lambda: cache_root() / "given", repr=False)
    running: str = field(default_factory=running_release, repr=False)
    _known: list[Found] = field(default_factory=list, init=False, repr=False)

    def list(self, monitor: Monitor | None = None) -> tuple[KernelInfo, ...]:
        """Every kernel whose image is in the folder, oldest first. Raises what `fetch` does."""
        infos = []
        found = self._look(monitor or NullMonitor())
        for image in {i.release: i for i in found.images}.values():
            try:
                choose(found, image.release, self._naming(found, image))
                buildable = True
            except RebootlessError:
                buildable = False
            version = image.root.facts.version if image.root.facts else ""
            states = {KernelState.GIVEN}
            states |= {KernelState.RUNNING} if image.release == self.running else set()
            infos.append(
                KernelInfo(image.release, version, image.root.origin, frozenset(states), buildable)
            )
        if not infos:
            self._release(found, None)
        return tuple(sorted(infos, key=lambda k: order(k.release, k.version)))

    def fetch(self, release: str | None = None, monitor: Monitor | None = None) -> KernelFiles:
        """Everything for a release, or for the one kernel that is there.

        Raises NotFoundError when a package is missing, PatchInputError for what is damaged, of
        another architecture, ambiguous or does not belong together, RefusedError for a kernel that
        was not built by gcc, ResourceError.
        """
        monitor = monitor or NullMonitor()
        found = self._look(monitor)
        wanted = self._release(found, release)
        image = next(i for i in found.images if i.release == wanted)
        naming = self._naming(found, image)
        chosen = choose(found, wanted, naming)
        config_text = read_text(chosen.config.path)
        _, compiler_text = compiler_of(config_text, chosen.config.path)
        program = compilers.program_for(compiler_text)
        folder = self.cache / "kernels" / f"{chosen.release}-{self._identity(chosen)[:12]}"
        with locked(folder.with_name(f".{folder.name}.lock")):
            if not (folder / MARKER).exists():
                with stage(monitor, "put-together", f"Checking that {wanted} is whole"):
                    self._put_together(chosen, config_text, naming, folder)
        modules, symvers = folder / "modules", folder / "symvers"
        return KernelFiles(
            chosen.release,
            chosen.image.root.facts.version if chosen.image.root.facts else "",
            chosen.image.path,
            chosen.config.path,
            symvers if symvers.exists() else chosen.symvers.path,
            modules if modules.is_dir() else chosen.modules[0].path,
            self._source(chosen, folder),
            program,
            compiler_text,
        )

    # --- what is there --------------------------------------------------------------------

    @cached_property
    def _packages(self) -> tuple[PackageFile, ...]:
        """The packages in the folder that may hold a part of a kernel."""
        if not self.directory.is_dir():
            raise NotFoundError(
                f"{self.directory} is no directory",
                hint="--from-packages DIR: a folder with the kernel's packages",
            )
        read = (package.read(p) for p in sorted(self.directory.iterdir()) if p.is_file())
        return tuple(p for p in read if p is not None and is_kernel(p.facts))

    def _look(self, monitor: Monitor) -> Found:
        """All parts in the folder; packages are unpacked the first time."""
        if not self._known:
            self._known.append(find(self._roots(monitor)))
        return self._known[0]

    def _roots(self, monitor: Monitor) -> Iterator[Root]:
        for item in self._packages:
            if item.is_ours:
                path = package.unpacked(item, self.cache, monitor)
                yield Root(path, item.path.name, item.facts)
        named: set[str] = set()
        for dsc in sorted(self.directory.glob("*.dsc")):
            facts = source.dsc_facts(dsc)
            named |= {p.name for p in source.dsc_files(dsc)}
            yield Root(dsc, dsc.name, facts)
        for path in sorted(self.directory.iterdir()):
            if path.is_file() and TARBALL.search(path.name) and path.name not in named:
                if ".orig.tar" in path.name or ".debian.tar" in path.name:
                    raise NotFoundError(
                        f"{path.name} is one file of a source package whose .dsc is missing",
                        hint="add the .dsc: it names the others and their hashes",
                    )
                yield Root(path, path.name)
            if path.is_dir() and is_root(path):
                yield Root(path, str(path))
        if is_root(self.directory):
            yield Root(self.directory, str(self.directory))

    def _release(self, found: Found, wanted: str | None) -> str:
        """The release that is meant; says so when what there is is for another machine."""
        try:
            return release_of(found, wanted, self.running, self.directory)
        except NotFoundError as exc:
            foreign = [p for p in self._packages if not p.is_ours]
            if foreign:
                raise PatchInputError(
                    f"{exc.message}; {foreign[0].path.name} is for {foreign[0].facts.architecture}",
                    hint="give the packages for x86_64 (amd64)",
                ) from exc
            raise

    def _naming(self, found: Found, image: Image) -> Naming:
        facts: tuple[Facts, ...] = (image.root.facts,) if image.root.facts else ()
        configs = [c for c in found.configs if c.release == image.release]
        texts = (agree.compiler_text(read_text(c.path)) for c in configs)
        return naming_of(facts, next(texts, ""))

    # --- putting together -----------------------------------------------------------------

    def _identity(self, chosen: Chosen) -> str:
        """What a kernel was put together from: paths, sizes and times."""
        paths: list[Path] = [chosen.image.path, chosen.config.path, chosen.symvers.path]
        paths += [m.path for m in chosen.modules] + list(chosen.source.paths)
        stats = ((p, p.stat()) for p in paths)
        return fingerprint(*(f"{p} {s.st_size} {s.st_mtime_ns}" for p, s in stats))

    def _put_together(self, chosen: Chosen, config_text: str, naming: Naming, folder: Path) -> None:
        """Checks that the parts belong together, and joins what a build wants in one place."""
        with filling_directory(folder) as aside:
            compiler = agree.compiler_text(config_text)
            agree.image_and_config(chosen.image, chosen.config, compiler)
            blob = read_bytes(chosen.symvers.path)
            if chosen.symvers.path.suffix in (".gz", ".xz", ".zst", ".bz2"):
                blob = decompress(blob, name=str(chosen.symvers))
                (aside / "symvers").write_bytes(blob)
            agree.symvers_and_modules(chosen.symvers, blob.decode(errors="replace"), chosen.modules)
            if len(chosen.modules) > 1:
                _link(chosen.modules, aside / "modules")
            version = source.version_of(self._source(chosen, aside))
            usual = naming.usual(chosen.release)
            agree.source_and_config(version, chosen, config_text, usual.source)
            (aside / MARKER).touch()

    def _source(self, chosen: Chosen, folder: Path) -> source.AnySource:
        of_package = {p.path.name: p.path for p in self._packages}
        return source.files_of(chosen.source, of_package.get(chosen.source.title), folder)


def _link(parts: Sequence[Part], target: Path) -> None:
    """One lib/modules/RELEASE out of several, by symbolic links; the first has a file's name."""
    for part in parts:
        for folder, _, names in os.walk(part.path):
            place = target / Path(folder).relative_to(part.path)
            place.mkdir(parents=True, exist_ok=True)
            for name in names:
                link = place / name
                if not link.is_symlink():
                    link.symlink_to((Path(folder) / name).absolute())
