"""The difference of two source tarballs, without unpacking either.

A kernel tarball is 140 MB that unpack to 1.3 GB in 80,000 files, nearly all of them the same in
both. So both are decompressed side by side and their members compared as they come by: pairs that
are equal are dropped at once, members whose partner has not come yet wait (tarballs of successive
versions have the same order, so few ever do), and only the different ones remain in memory.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ..base import proc
from ..base.errors import CommandError, NotFoundError, ResourceError

BLOCK = 512
_DECOMPRESS = {".xz": ("xz", "-dc", "-T0"), ".zst": ("zstd", "-dc"), ".gz": ("gzip", "-dc")}
_PAX_PATH = re.compile(rb"\d+ path=(.*)\n")
# The packaging's own directory, and lines that do nothing but name the version.
_PACKAGING = re.compile(r"debian(\.\w+)?/")
_STAMP = re.compile(rb"(VERSION|PATCHLEVEL|SUBLEVEL|EXTRAVERSION|NAME) *=.*\n")


@dataclass(frozen=True)
class ChangedFile:
    """A file that differs; `old` or `new` is None when it was added or removed."""

    path: str
    old: bytes | None
    new: bytes | None

    @property
    def binary(self) -> bool:
        """Whether a unified diff cannot show it."""
        return b"\0" in (self.old or b"") or b"\0" in (self.new or b"")


@dataclass(frozen=True)
class SourceDiff:
    """A unified diff (-p1, sorted by path, no times), what it touches, and how much.

    `lines` counts added and removed lines; `binary` are changed files that it cannot show.
    """

    diff: bytes
    files: tuple[str, ...]
    lines: int
    binary: tuple[str, ...] = ()


def members(tarball: Path) -> Generator[tuple[str, bytes], None, None]:
    """The regular files of a compressed tar, as (path below the top directory, content).

    Raises NotFoundError without the decompressor, CommandError when the tarball is damaged.
    """
    program = _DECOMPRESS.get(tarball.suffix)
    if program is None:
        raise NotFoundError(f"{tarball} is not a .tar.xz, .tar.zst or .tar.gz")
    process = proc.spawn([*program, tarball], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    try:
        yield from read_tar(process.stdout)
        while process.stdout.read(1 << 20):
            pass
        process.wait()
    except EOFError:
        process.wait()
        raise CommandError(
            f"{tarball} is truncated", returncode=process.returncode, hint="remove and fetch again"
        ) from None
    finally:
        process.stdout.close()
        proc.kill_group(process)
    if process.returncode != 0:
        raise CommandError(
            f"{tarball} is damaged ({program[0]} exit status {process.returncode})",
            returncode=process.returncode,
            hint="remove and fetch again",
        )


def read_tar(stream: IO[bytes]) -> Iterator[tuple[str, bytes]]:
    """Reads a tar from a pipe: ustar, GNU long names and pax paths. Raises EOFError."""
    long_name = b""
    while (header := _exactly(stream, BLOCK)) != bytes(BLOCK):
        size = int(header[124:136].strip(b" \0") or b"0", 8)
        kind = header[156:157]
        data = _exactly(stream, (size + BLOCK - 1) // BLOCK * BLOCK)[:size]
        if kind == b"L":
            long_name = data.rstrip(b"\0")
            continue
        if kind == b"x":
            if (match := _PAX_PATH.search(data)) is not None:
                long_name = match[1]
            continue
        name = long_name or _ustar_name(header)
        long_name = b""
        if kind in (b"0", b"\0"):
            path = name.decode(errors="surrogateescape").removeprefix("./")
            yield path.partition("/")[2], data


def _ustar_name(header: bytes) -> bytes:
    name = header[:100].partition(b"\0")[0]
    prefix = header[345:500].partition(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def changed_files(
    old: Path,
    new: Path,
    *,
    max_files: int | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> tuple[ChangedFile, ...] | None:
    """The files that differ between two tarballs, by path; None when more than `max_files` do.

    Packaging directories and changes of the version alone do not count.
    """
    changed: list[ChangedFile] = []
    waiting: tuple[dict[str, bytes], dict[str, bytes]] = ({}, {})
    with closing(members(old)) as left, closing(members(new)) as right:
        streams = [left, right]
        open_sides = {0, 1}
        while open_sides:
            if cancelled():
                raise ResourceError("the comparison was given up")
            for side in tuple(open_sides):
                item = next(streams[side], None)
                if item is None:
                    open_sides.discard(side)
                    continue
                path, data = item
                other = waiting[1 - side].pop(path, None)
                if other is None:
                    waiting[side][path] = data
                elif other != data:
                    before, after = (data, other) if side == 0 else (other, data)
                    _note(changed, ChangedFile(path, before, after))
            if max_files is not None and len(changed) > max_files:
                return None
    for path, data in waiting[0].items():
        _note(changed, ChangedFile(path, data, None))
    for path, data in waiting[1].items():
        _note(changed, ChangedFile(path, None, data))
    if max_files is not None and len(changed) > max_files:
        return None
    return tuple(sorted(changed, key=lambda c: c.path))


def _note(changed: list[ChangedFile], file: ChangedFile) -> None:
    if _PACKAGING.match(file.path):
        return
    if file.path == "Makefile" and file.old is not None and file.new is not None:
        file = ChangedFile(file.path, file.old, _same_version(file.old, file.new))
        if file.old == file.new:
            return
    changed.append(file)


def _same_version(old: bytes, new: bytes) -> bytes:
    """The top Makefile `new`, with the version lines of `old`."""
    stamps = iter([m[0] for m in _STAMP.finditer(old)])
    return _STAMP.sub(lambda m: next(stamps, m[0]), new)


def unified(changed: tuple[ChangedFile, ...]) -> SourceDiff:
    """The unified diff of changed files, as GNU diff makes it."""
    texts: list[bytes] = []
    lines = 0
    with tempfile.TemporaryDirectory(prefix="rebootless-diff-") as scratch:
        old_path, new_path = Path(scratch, "old"), Path(scratch, "new")
        for file in changed:
            if file.binary:
                continue
            old_path.write_bytes(file.old or b"")
            new_path.write_bytes(file.new or b"")
            text = _diff(file, old_path, new_path)
            texts.append(text)
            body = text.split(b"\n")[2:]
            lines += sum(1 for line in body if line[:1] in (b"+", b"-"))
    return SourceDiff(
        b"".join(texts),
        tuple(c.path for c in changed if not c.binary),
        lines,
        tuple(c.path for c in changed if c.binary),
    )


def _diff(file: ChangedFile, old_path: Path, new_path: Path) -> bytes:
    before = f"a/{file.path}" if file.old is not None else "/dev/null"
    after = f"b/{file.path}" if file.new is not None else "/dev/null"
    argv: list[str | Path] = ["diff", "-a", "-u", "-p", "--label", before, "--label", after]
    argv += [old_path, new_path]
    process = proc.spawn(argv, stdout=subprocess.PIPE)
    text, _ = process.communicate()
    if process.returncode not in (0, 1):
        raise CommandError(f"diff failed on {file.path}", returncode=process.returncode)
    return text
