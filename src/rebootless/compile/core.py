"""Compiles the core module, which the engines "atomic" and "per-task" need, for one kernel.

kbuild compiles it once per kernel, from the sources that rebootless carries; the result is kept in
the cache, under a name that follows from all that went into it:

    cache/cores/RELEASE-FINGERPRINT/rebootless_core.ko
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ..base import proc
from ..base.errors import CompileError, NotFoundError
from ..base.events import Monitor, stage
from ..base.fs import atomic_write, cache_root, locked, os_failure, read_bytes, read_text
from ..base.workdir import fingerprint
from ..provider.base import compiler_of
from ..provider.toolchain import NATIVE, Toolchain
from .originals import error_lines
from .tree import Tree, make_command

NAME = "rebootless_core"
LAYOUT = "cores-1"
ABI = re.compile(r"^#define\s+REBOOTLESS_CORE_ABI\s+(\d+)", re.MULTILINE)
SOURCES = (".c", ".h", ".S")


@dataclass(frozen=True)
class Headers:
    """What external modules of a kernel are built against, and with which compiler.

    `directory` is where kbuild works: a prepared source tree, or installed headers.
    """

    release: str
    directory: Path
    compiler: str
    toolchain: Toolchain = NATIVE

    @classmethod
    def of_tree(cls, tree: Tree) -> Headers:
        """A prepared tree of the cache."""
        return cls(tree.release, tree.orig, tree.compiler, tree.toolchain)

    @classmethod
    def installed(cls, release: str, root: Path = Path("/")) -> Headers | None:
        """The headers that are installed for `release`, as DKMS finds them; None without."""
        directory = root / "lib/modules" / release / "build"
        config = directory / ".config"
        if not config.is_file() or not (directory / "Module.symvers").is_file():
            return None
        compiler, _ = compiler_of(read_text(config), config)
        return cls(release, directory.resolve(), compiler)


@dataclass(frozen=True)
class CoreModule:
    """A compiled core module; `abi` is what patch modules must have been made for."""

    path: Path
    release: str
    abi: int


def build_core(headers: Headers, monitor: Monitor) -> CoreModule:
    """Compiles the core for a kernel, or takes it from the cache (about 15 s the first time).

    Raises CompileError with what kbuild says, NotFoundError without the kernel's headers,
    ResourceError.
    """
    sources = dict(_sources())
    found = ABI.search(sources["rebootless_core.h"].decode())
    if found is None or "core/Kbuild" not in sources:
        raise NotFoundError("this rebootless carries no core module", hint="install it again")
    key = fingerprint(LAYOUT, *_identity(headers), *(x for item in sources.items() for x in item))
    kept = cache_root() / "cores" / f"{headers.release}-{key[:12]}" / f"{NAME}.ko"
    core = CoreModule(kept, headers.release, int(found[1]))
    with locked(kept.parent.with_name(f".{kept.parent.name}.lock")):
        if not kept.exists():
            with stage(monitor, "core", f"Compiling the core module for {headers.release}"):
                atomic_write(kept, _compile(headers, sources, kept.parent.parent))
    return core


def _sources() -> Iterator[tuple[str, bytes]]:
    """The files of kmod/ that the core is made of, by path: its own, and shared headers."""
    kmod = resources.files("rebootless") / "kmod"
    for item in _sorted(kmod):
        if item.is_file() and item.name.endswith(".h"):
            yield item.name, item.read_bytes()
    for item in _sorted(kmod / "core"):
        if item.name == "Kbuild" or (item.name.endswith(SOURCES) and ".mod." not in item.name):
            yield f"core/{item.name}", item.read_bytes()


def _sorted(folder: Traversable) -> list[Traversable]:
    return sorted(folder.iterdir(), key=lambda item: item.name)


def _identity(headers: Headers) -> Iterator[str | bytes]:
    """All of the kernel that the module depends on."""
    yield headers.release
    yield headers.compiler
    yield proc.run(headers.toolchain.inside([headers.compiler, "--version"]), timeout=20).stdout
    for name in ("Module.symvers", ".config"):
        yield read_bytes(headers.directory / name)


def _compile(headers: Headers, sources: dict[str, bytes], room: Path) -> bytes:
    """The module's bytes; works in a directory in `room` that is gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(prefix=".compiling-", dir=room) as scratch:
            for name, content in sources.items():
                path = Path(scratch) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            return _make(headers, Path(scratch) / "core")
    except OSError as exc:
        raise os_failure("compile the core module in", room, exc) from exc


def _make(headers: Headers, folder: Path) -> bytes:
    # without the folder's name in the module, so that equal sources give equal bytes
    argv = make_command(
        headers.directory,
        headers.release,
        headers.compiler,
        f"M={folder}",
        "-s",
        "modules",
        flags=("-g0", f"-ffile-prefix-map={folder}/="),
    )
    result = proc.run(headers.toolchain.inside(argv), check=False, timeout=600)
    built = folder / f"{NAME}.ko"
    if result.returncode or not built.exists():
        output = f"{result.stdout}\n{result.stderr}"
        if (full := proc.out_of_space(output, folder)) is not None:
            raise full
        raise CompileError(
            f"the core module does not compile for {headers.release}:\n{error_lines(output)}",
            hint="the engine 'livepatch' works without it",
        )
    return read_bytes(built)
