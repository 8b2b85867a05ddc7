"""The command line on real kernels: runs it, here or as a process of its own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import rebootless
from rebootless.provider.base import KernelFiles, SourceTarball

PACKAGE_ROOT = str(Path(rebootless.__file__).parents[1])
ALTERED = "fs/proc/version.c"
# Nearly all of a kernel's source, and not needed to prepare it or to compile fs/proc.
UNUSED = ("drivers", "sound", "net")
BUILD_FILES = ("Kconfig*", "Makefile*", "Kbuild*")
BUILT = ("*.o", "*.cmd", "*.a", "*.order", ".config*")


@dataclass(frozen=True)
class Ended:
    """How a run of the command ended."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *fragments: str) -> Ended:
        """Checks the exit code, the message's parts, that there is a hint, and no traceback."""
        said = f"exit {self.code}\n{self.out}\n{self.err}"
        assert self.code == code, said
        assert "Traceback" not in self.err and "object at 0x" not in self.err, said
        message, found, hint = self.err.partition("\nhint: ")
        assert "error: " in message and found and hint.strip(), said
        for fragment in fragments:
            assert fragment in message, f"no {fragment!r} in:\n{said}"
        return self


Command = Callable[..., Ended]


def start(
    words: Sequence[str | Path],
    *,
    environment: dict[str, str] | None = None,
    before: Callable[[], object] | None = None,
) -> subprocess.Popen[str]:
    """The command as a process, which Ctrl-C reaches even if it does not reach this one."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if before is not None:
            before()

    return subprocess.Popen(
        [sys.executable, "-m", "rebootless", *map(str, words)],
        env={**os.environ, "PYTHONPATH": PACKAGE_ROOT, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=prepare,
    )


def finish(process: subprocess.Popen[str], timeout: float = 120) -> Ended:
    """Waits for a started command."""
    out, err = process.communicate(timeout=timeout)
    return Ended(process.returncode, out, err)


@dataclass(frozen=True)
class OwnKernel:
    """The stock kernel as files of one's own, with a cache of its own (`environment`).

    The source lacks most drivers, and its version_proc_show is not what the image has.
    """

    options: tuple[str | Path, ...]
    cache: Path
    environment: dict[str, str]


def local_options(files: KernelFiles, **other: Path) -> tuple[str | Path, ...]:
    """--image and its companions for a kernel; `other` replaces some of the files."""
    assert isinstance(files.source, SourceTarball) and files.modules is not None
    chosen = {
        "image": files.image,
        "source_dir": files.source.path,
        "config": files.config,
        "symvers": files.symvers,
        "modules": files.modules,
        **other,
    }
    return tuple(
        word for name, path in chosen.items() for word in ("--" + name.replace("_", "-"), path)
    )


def reduced_source(tree: Path, target: Path) -> None:
    """Links the source of a prepared tree, without what was built and without most drivers."""
    built = shutil.ignore_patterns(*BUILT)

    def ignored(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(tree).parts
        found = set(built(folder, names))
        if inside and inside[0] in UNUSED:
            keep = set(shutil.ignore_patterns(*BUILD_FILES)(folder, names))
            found |= {n for n in names if n not in keep and not (Path(folder) / n).is_dir()}
        return found

    shutil.copytree(tree, target, ignore=ignored, copy_function=os.link, symlinks=True)
