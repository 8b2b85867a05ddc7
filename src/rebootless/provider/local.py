"""A kernel of the user's own: files given by hand, each checked before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..base.errors import NotFoundError, PatchInputError
from ..base.events import Monitor
from ..base.fs import read_bytes, read_text
from .base import (
    KernelFiles,
    KernelInfo,
    KernelState,
    SourceTarball,
    SourceTree,
    compiler_of,
)

_TARBALLS = (".tar.xz", ".tar.zst", ".tar.gz", ".tar.bz2", ".tar")


@dataclass(frozen=True)
class LocalProvider:
    """One kernel from a source tree (or tarball), configuration, image and Module.symvers.

    `modules` is the directory lib/modules/RELEASE; without it only code in the image can be
    patched. See `base.Provider`.
    """

    source: Path
    config: Path
    image: Path
    symvers: Path
    modules: Path | None = None

    def list(self, monitor: Monitor | None = None) -> tuple[KernelInfo, ...]:
        """The one kernel."""
        states = frozenset({KernelState.CACHED})
        return (KernelInfo(self.release(), "", "local files", states, True),)

    def release(self) -> str:
        """The release in the image's banner; raises NotFoundError or ElfError."""
        from ..kernel import image as kernel_image

        _file(self.image, "kernel image", "--image", "the vmlinuz or vmlinux that runs")
        return kernel_image.load(self.image).release

    def fetch(self, release: str | None = None, monitor: Monitor | None = None) -> KernelFiles:
        """Checks every file and gives them as KernelFiles.

        Raises NotFoundError for what is missing, PatchInputError for what is something else, or
        does not belong together (`release` given and not that of the image, foreign modules).
        """
        found = self.release()
        if release is not None and release != found:
            raise PatchInputError(
                f"{self.image} is {found}, not {release}",
                hint="give the image of the kernel that is to be patched",
            )
        compiler, text = self._check_config()
        self._check_symvers()
        if self.modules is not None:
            self._check_modules(self.modules, found)
        source = self._check_source(found)
        return KernelFiles(
            found, "", self.image, self.config, self.symvers, self.modules, source, compiler, text
        )

    def _check_source(self, release: str) -> SourceTree | SourceTarball:
        if self.source.is_file() and self.source.name.endswith(_TARBALLS):
            return SourceTarball(self.source)
        makefile = self.source / "Makefile"
        if not makefile.is_file() or not (self.source / "scripts/Kconfig.include").is_file():
            raise NotFoundError(
                f"{self.source} is not a kernel source tree (Makefile, scripts/Kconfig.include)",
                hint="--source-dir is the top of the tree, or a .tar.xz of it",
            )
        version = tree_version(read_text(makefile))
        # A distribution's release may keep .0 for every stable update: compare the series.
        if version and not release.startswith(version[: version.rfind(".") + 1]):
            raise PatchInputError(
                f"{self.source} is Linux {version}, and the image is {release}",
                hint="give the very source that the kernel was built from",
            )
        return SourceTree(self.source)

    def _check_config(self) -> tuple[str, str]:
        _file(self.config, "configuration", "--config", "/boot/config-RELEASE")
        text = read_text(self.config)
        if "CONFIG_" not in text:
            raise PatchInputError(
                f"{self.config} is not a kernel configuration", hint="it is /boot/config-RELEASE"
            )
        return compiler_of(text, self.config)

    def _check_symvers(self) -> None:
        hint = "Module.symvers, from the headers package or the kernel's build directory"
        _file(self.symvers, "table of exported symbols", "--symvers", hint)
        first = read_bytes(self.symvers)[:4096].split(b"\n", 1)[0]
        if not first.startswith(b"0x") or first.count(b"\t") < 3:
            raise PatchInputError(f"{self.symvers} is not a Module.symvers", hint=f"give {hint}")

    def _check_modules(self, modules: Path, release: str) -> None:
        if not (modules / "kernel").is_dir() and not (modules / "modules.order").is_file():
            raise NotFoundError(
                f"{modules} holds no kernel modules",
                hint=f"--modules is the directory lib/modules/{release}",
            )
        if modules.name[:1].isdigit() and modules.name != release:
            raise PatchInputError(
                f"the modules are of {modules.name}, and the image is {release}",
                hint=f"give lib/modules/{release}",
            )


def tree_version(makefile: str) -> str:
    """The version that a tree's top Makefile names, e.g. "6.1.192"; "" when it names none."""
    values = {}
    for line in makefile.splitlines()[:20]:
        name, equals, value = line.partition("=")
        if equals:
            values[name.strip()] = value.strip()
    parts = [values.get(n, "") for n in ("VERSION", "PATCHLEVEL", "SUBLEVEL")]
    return ".".join(parts) if all(p.isdigit() for p in parts) else ""


def _file(path: Path, what: str, option: str, hint: str) -> None:
    if not path.is_file():
        raise NotFoundError(f"no {what} at {path}", hint=f"{option} is {hint}")
