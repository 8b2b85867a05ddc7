"""Unpacks kernel source, without the parts that no x86 build reads."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..base import proc
from ..base.errors import PatchInputError
from ..provider.base import SourceTarball, SourceTree

OTHER_ARCHES = (
    "alpha", "arc", "arm", "arm64", "csky", "h8300", "hexagon", "ia64", "loongarch", "m68k",
    "microblaze", "mips", "nds32", "nios2", "openrisc", "parisc", "powerpc", "riscv", "s390", "sh",
    "sparc", "um", "xtensa",
)  # fmt: skip
# Two fifths of the files of a kernel's source; Kconfig files that are sourced from the rest are
# replaced by empty ones (everything in them depends on the other architecture).
LEFT_OUT = (
    *(f"arch/{arch}" for arch in OTHER_ARCHES),
    "Documentation",
    "tools/testing",
    "tools/perf",
)
# 380 MB of register descriptions, used by one driver.
AMDGPU_REGISTERS = "drivers/gpu/drm/amd/include"
# What a build leaves in the user's own tree: it must not come along, or it would be used.
BUILT = (
    "*.o", "*.a", "*.ko", "*.mod", "*.mod.c", "*.cmd", "*.order", ".git", "bzImage",
    "include/generated", "include/config", "arch/x86/include/generated", "Module.symvers",
    "System.map", ".config", ".config.old", "debian",
)  # fmt: skip
DECOMPRESSORS = {
    ".xz": ("xz", "-T2", "-dc"),
    ".zst": ("zstd", "-qdc"),
    ".gz": ("gzip", "-dc"),
    ".bz2": ("bzip2", "-dc"),
    ".tar": ("cat",),
}


def unpack(source: SourceTarball | SourceTree, target: Path, left_out: Sequence[str]) -> None:
    """Fills the directory `target` with the source, without the paths in `left_out`.

    A directory of the user's is only read. Raises CommandError, NotFoundError, ResourceError.
    """
    out = ["tar", "x", "-C", str(target), "--no-same-owner", "--no-wildcards"]
    out += [f"--exclude={path}" for path in left_out]
    match source:
        case SourceTarball(path, strip):
            producer = [*_decompressor(path), str(path)]
            _pipe(producer, [*out, f"--strip-components={strip}"])
        case SourceTree(path):
            _copy(path, out)


def _decompressor(path: Path) -> tuple[str, ...]:
    command = DECOMPRESSORS.get(path.suffix)
    if command is None:
        raise PatchInputError(
            f"{path} is no source tarball that can be read",
            hint="known compressions: " + " ".join(DECOMPRESSORS),
        )
    return command


def _copy(path: Path, out: Sequence[str]) -> None:
    """Copies the sources of a tree that may have been built in."""
    producer = ["tar", "c", "-C", str(path), "--exclude-caches", "--wildcards"]
    producer += [f"--exclude={pattern}" for pattern in BUILT]
    producer += ["--anchored", "--exclude=./vmlinux", "--exclude=./vmlinux.*", "."]
    _pipe(producer, out)


def _pipe(producer: Sequence[str], consumer: Sequence[str]) -> None:
    """Runs `producer | consumer`; both die on any exception, Ctrl-C included."""
    proc.which(producer[0])
    proc.which(consumer[0])
    read_end, write_end = os.pipe()
    running: list[subprocess.Popen[bytes]] = []
    try:
        with os.fdopen(write_end, "wb") as sink:
            running.append(proc.spawn(producer, stdout=sink, stderr=subprocess.PIPE))
        with os.fdopen(read_end, "rb") as feed:
            running.append(proc.spawn(consumer, stdin=feed, stderr=subprocess.PIPE))
        outputs = [process.communicate()[1] for process in reversed(running)][::-1]
    except BaseException:
        for process in running:
            proc.kill_group(process)
        raise
    results = [
        proc.Result(process.returncode, "", error.decode(errors="replace"))
        for process, error in zip(running, outputs, strict=True)
    ]
    failed = [
        proc.failure(argv, None, result)
        for argv, result in zip((producer, consumer), results, strict=True)
        if result.returncode != 0
    ]
    # When the second gives up (disk full), the first dies of its broken pipe.
    if failed:
        broken = results[0].returncode == -signal.SIGPIPE or "roken pipe" in results[0].stderr
        raise failed[-1] if broken else failed[0]
