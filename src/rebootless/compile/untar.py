"""Unpacks kernel source, without the parts that no x86 build reads."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..base import proc
from ..base.errors import CommandError, PatchInputError
from ..base.fs import read_bytes
from ..kernel.image import decompress
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

# Where a patch goes on to another file, and the names of that file before and after.
_GIT_FILE = re.compile(rb"^diff --git (\S+) (\S+)\n", re.MULTILINE)
_FILE = re.compile(rb"^--- (\S+).*\n\+\+\+ (\S+).*\n(?=@@ )", re.MULTILINE)


def unpack(source: SourceTarball | SourceTree, target: Path, left_out: Sequence[str]) -> None:
    """Fills the directory `target` with the source, without the paths in `left_out`.

    A directory of the user's is only read. Raises CommandError, NotFoundError, ResourceError.
    """
    out = ["tar", "x", "-C", str(target), "--no-same-owner", "--no-wildcards"]
    out += [f"--exclude={path}" for path in left_out]
    match source:
        case SourceTarball(path, strip, patches):
            producer = [*_decompressor(path), str(path)]
            _pipe(producer, [*out, f"--strip-components={strip}"])
            for patch in patches:
                _apply(patch, target, left_out)
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


def _apply(patch: Path, target: Path, left_out: Sequence[str]) -> None:
    """Applies one of the distribution's patches, without what it changes in paths left out."""
    blob = read_bytes(patch)
    if patch.suffix in DECOMPRESSORS:
        blob = decompress(blob, name=str(patch))
    with tempfile.NamedTemporaryFile(suffix=".patch") as kept:
        kept.write(without_paths(blob, left_out))
        kept.flush()
        try:
            proc.run(["patch", "-p1", "-s", "-N", "-F1", "-d", target, "-i", kept.name])
        except CommandError as exc:
            raise PatchInputError(
                f"{patch.name} does not apply to the kernel source: {exc.message}",
                hint="patch and source have to be of the same version",
            ) from exc


def without_paths(patch: bytes, left_out: Sequence[str]) -> bytes:
    """A patch without the files below the paths `left_out`."""
    starts = list(_GIT_FILE.finditer(patch)) or list(_FILE.finditer(patch))
    ends = [match.start() for match in starts[1:]] + [len(patch)]
    prefixes = tuple(f"{path}/".encode() for path in left_out)
    kept = []
    for match, end in zip(starts, ends, strict=True):
        name = match[1] if match[2] == b"/dev/null" else match[2]
        if not name.partition(b"/")[2].startswith(prefixes):
            kept.append(patch[match.start() : end])
    return b"".join(kept)


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
