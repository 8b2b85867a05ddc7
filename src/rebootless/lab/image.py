"""Makes the initramfs of a lab guest: busybox, modules in load order, the agent, the user's files.

Kernel modules come from the kernel's own directory (lib/modules/RELEASE). Their order is found
from each module's own list of dependencies, so that no depmod has to have run; compressed modules
are stored plain.
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path

from ..base.errors import NotFoundError, PatchInputError
from ..base.fs import read_bytes
from ..base.proc import run
from ..engine import modinfo
from .cpio import CpioWriter

SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")
BUSYBOX = Path("/bin/busybox")
MODULE_FOLDER = "/lib/modules"


@dataclass(frozen=True)
class GuestImage:
    """What goes into a guest besides the lab's own files.

    `modules_dir` is the kernel's lib/modules/RELEASE (None: no modules); `load` are loaded at
    boot and `carry` only put in, under `module_path(name)`, with all that they depend on.
    `more_modules` are files of out-of-tree modules.
    `files` maps a guest path to (content, mode).
    """

    modules_dir: Path | None = None
    load: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    more_modules: tuple[Path, ...] = ()
    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)
    busybox: Path = BUSYBOX


def module_path(name: str) -> str:
    """Where a carried kernel module lies in the guest."""
    return f"{MODULE_FOLDER}/{name.replace('-', '_')}.ko"


def build(image: GuestImage) -> bytes:
    """The initramfs as bytes. Raises NotFoundError for a missing busybox or module."""
    archive = CpioWriter()
    for folder in ("proc", "sys", "dev", "tmp", "run", "root", "mnt", "lab", "sbin", "usr/bin"):
        archive.directory(folder)
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3, 0o666)
    for path, (content, mode) in image.files.items():
        archive.file(path, content, mode)
    _add_busybox(archive, image.busybox)
    scripts = resources.files(__package__) / "guest"
    archive.file("init", (scripts / "init").read_bytes(), 0o755)
    for name in ("agent", "workload"):
        archive.file(f"lab/{name}", (scripts / name).read_bytes(), 0o755)
    order = _add_modules(archive, image)
    archive.file("lab/modules", "".join(f"{path}\n" for path in order).encode())
    return archive.finish()


def _add_busybox(archive: CpioWriter, busybox: Path) -> None:
    if not busybox.exists():
        raise NotFoundError(f"no {busybox}", hint="install busybox-static")
    content = read_bytes(busybox)
    if b"/lib64/ld-linux" in content[:4096]:
        raise NotFoundError(
            f"{busybox} is linked dynamically and cannot run alone in a guest",
            hint="install busybox-static",
        )
    archive.file("bin/busybox", content, 0o755)
    for applet in run([busybox, "--list"], timeout=20).stdout.split():
        archive.symlink(f"bin/{applet}", "busybox")


def _add_modules(archive: CpioWriter, image: GuestImage) -> tuple[str, ...]:
    wanted = (*image.load, *image.carry)
    if not wanted:
        return ()
    if image.modules_dir is None:
        raise NotFoundError(
            f"the kernel modules {', '.join(wanted)} are needed, and no module directory is given"
        )
    store = ModuleStore(image.modules_dir, image.more_modules)
    for name in store.closure(wanted):
        archive.file(module_path(name), store.content(name))
    return tuple(module_path(name) for name in store.closure(image.load))


class ModuleStore:
    """The modules of one kernel: finds them by name and orders them by dependency.

    Those of `more` go before what `root` has.
    """

    def __init__(self, root: Path, more: Sequence[Path] = ()) -> None:
        self.root = root
        self.more = tuple(more)
        self._contents: dict[str, bytes] = {}

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Every module file by name (with underscores)."""
        found: dict[str, Path] = {}
        for path in (*sorted(self.root.rglob("*.ko*")), *self.more):
            stem, dot, suffix = path.name.partition(".")
            if dot + suffix in SUFFIXES:
                found[stem.replace("-", "_")] = path
        return found

    @cached_property
    def builtin(self) -> frozenset[str]:
        """The names of what other kernels have as a module and this one has built in."""
        try:
            lines = (self.root / "modules.builtin").read_text().split()
        except OSError:
            return frozenset()
        return frozenset(Path(line).stem.replace("-", "_") for line in lines)

    def content(self, name: str) -> bytes:
        """The plain bytes of a module. Raises NotFoundError, PatchInputError (cannot unpack)."""
        key = name.replace("-", "_")
        if key not in self._contents:
            if key not in self.paths:
                raise NotFoundError(f"no kernel module '{name}' in {self.root}")
            self._contents[key] = unpack(self.paths[key])
        return self._contents[key]

    def closure(self, names: Sequence[str]) -> tuple[str, ...]:
        """`names` and all that they need, in load order; what is built in is left out."""
        order: list[str] = []
        for name in names:
            self._visit(name.replace("-", "_"), order, ())
        return tuple(order)

    def _visit(self, name: str, order: list[str], path: tuple[str, ...]) -> None:
        if name in order or name in path or (name not in self.paths and name in self.builtin):
            return
        info = modinfo.parse(self.content(name), name=str(self.paths.get(name, name)))
        # softdep "pre:" names are what a module asks for at run time (crc32c for ext4 and jbd2)
        for needed in info.depends:
            self._visit(needed, order, (*path, name))
        for needed in _soft_needs(info):
            if needed in self.paths:
                self._visit(needed, order, (*path, name))
        order.append(name)


def _soft_needs(info: modinfo.ModInfo) -> tuple[str, ...]:
    needs: list[str] = []
    for line in info.tags.get("softdep", ()):
        before = False
        for word in line.split():
            if word.endswith(":"):
                before = word == "pre:"
            elif before:
                needs.append(word.replace("-", "_"))
    return tuple(needs)


def unpack(path: Path) -> bytes:
    """A module file without its compression (.xz, .gz, .zst)."""
    blob = read_bytes(path)
    try:
        match path.suffix:
            case ".xz":
                return lzma.decompress(blob)
            case ".gz":
                return gzip.decompress(blob)
            case ".zst":
                import zstandard  # imported late: most kernels need it for no module here

                return zstandard.ZstdDecompressor().decompressobj().decompress(blob)
    except (lzma.LZMAError, OSError, EOFError, zstd_error()) as exc:
        raise PatchInputError(f"{path} cannot be unpacked: {exc}") from exc
    return blob


def zstd_error() -> type[Exception]:
    """The exception of the zstd library, or a class that nothing raises when it is missing."""
    try:
        import zstandard
    except ImportError:
        return NotFoundError
    return zstandard.ZstdError
