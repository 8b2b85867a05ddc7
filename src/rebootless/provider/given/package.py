"""One package file: what it says of itself, and the files of it that matter, unpacked once.

    cache/given/packages/NAME-FINGERPRINT/    the files, at the paths that they are installed at
                                              (of a source package: all, at the top)

Only what a build may read is written: images, configurations, modules, Module.symvers and sources.
From there on a package and a directory of the user's are the same thing.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...base import proc
from ...base.errors import ResourceError
from ...base.events import Monitor, stage
from ...base.fs import filling_directory, is_full, locked, os_failure
from ...base.workdir import fingerprint
from ..naming.base import Facts
from . import rpm

DEB_MAGIC = b"!<arch>\ndebian"
DEB_STREAM = ("dpkg-deb", "--fsys-tarfile", "-")
DEB_FIELDS = ("Package", "Version", "Architecture", "Source", "Maintainer")
OURS = ("amd64", "x86_64", "all", "noarch")
# Small files that tell about a kernel wherever a headers package has them.
TELLING = ("Module.symvers", ".config", "utsrelease.h", "kernel.release")
TARBALL = re.compile(r"\.tar(\.(xz|gz|bz2|zst))?$")
_IMAGE = re.compile(r"boot/(vmlinu[xz]|config|symvers)-[^/]+$|(usr/)?lib/modules/[^/]+/.+")
_UNREAD = re.compile(r"/(vdso|build|source|internal|initrd)(/|$)")
_SUSE_TREE = re.compile(r"usr/src/linux-[^/]+(?<!-obj)/")


@dataclass(frozen=True)
class PackageFile:
    """A package on disk."""

    path: Path
    facts: Facts

    @property
    def is_ours(self) -> bool:
        """Whether it is for this architecture, or for all."""
        return self.facts.architecture in OURS


def read(path: Path) -> PackageFile | None:
    """The package in a file, by its content; None when it is none.

    Raises PatchInputError for a damaged one, NotFoundError when a program to read it is missing.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as exc:
        raise os_failure("read", path, exc) from exc
    if start.startswith(rpm.MAGIC):
        return PackageFile(path, rpm.facts(path))
    if start.startswith(DEB_MAGIC):
        return PackageFile(path, _deb_facts(path))
    if path.suffix in (".deb", ".rpm"):
        raise rpm.damaged(path, f"its first bytes are {start[:6].hex(' ') or 'none'}")
    return None


def _deb_facts(path: Path) -> Facts:
    result = proc.run(["dpkg-deb", "-f", path.absolute(), *DEB_FIELDS], check=False)
    if result.returncode:
        raise rpm.damaged(path, result.stderr)
    fields = dict(line.split(": ", 1) for line in result.stdout.splitlines() if ": " in line)
    name, version, architecture, source, vendor = (fields.get(f, "") for f in DEB_FIELDS)
    return Facts(path.name, "deb", name, version, architecture, source or name, vendor)


def wanted(kind: str) -> Callable[[str], bool]:
    """Tells which paths of a package of that kind are unpacked."""

    def chosen(name: str) -> bool:
        if kind == "srpm":
            return "/" not in name
        if _IMAGE.match(name):
            return not _UNREAD.search(name)
        if not name.startswith("usr/src/"):
            return False
        base = name.rpartition("/")[2]
        in_tree = kind == "rpm" and _SUSE_TREE.match(name) is not None
        return in_tree or base in TELLING or TARBALL.search(base) is not None

    return chosen


def unpacked(package: PackageFile, cache: Path, monitor: Monitor) -> Path:
    """The directory with the package's files, from the cache or made now.

    Raises PatchInputError for a damaged package, ResourceError.
    """
    directory = cache / "packages" / f"{package.facts.name}-{identity(package.path)[:12]}"
    if directory.is_dir():
        return directory
    with locked(directory.with_name(f".{directory.name}.lock")):
        if directory.is_dir():
            return directory
        with (
            stage(monitor, "unpack-package", f"Unpacking {package.path.name}"),
            filling_directory(directory) as aside,
        ):
            if package.facts.kind != "deb":
                rpm.check(package.path)
            _stream(package, aside)
    return directory


def identity(path: Path) -> str:
    """What tells one file from another without reading all of it: size, time, both ends."""
    try:
        status = path.stat()
        with path.open("rb") as file:
            head = file.read(65536)
            file.seek(max(0, status.st_size - 65536))
            return fingerprint(str(status.st_size), str(status.st_mtime_ns), head, file.read())
    except OSError as exc:
        raise os_failure("read", path, exc) from exc


def _stream(package: PackageFile, directory: Path) -> None:
    """Writes the wanted files out of the stream of the package's own program."""
    argv = DEB_STREAM if package.facts.kind == "deb" else rpm.STREAM
    proc.which(argv[0], hint=rpm.HINT if argv is rpm.STREAM else "apt install dpkg")
    keep = wanted(package.facts.kind)
    problem: Exception | None = None
    with tempfile.TemporaryFile() as errors, package.path.open("rb") as source:
        process = proc.spawn(argv, stdin=source, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdout is not None
        try:
            with process.stdout, tarfile.open(fileobj=process.stdout, mode="r|") as tar:
                _write(tar, directory, keep)
                while process.stdout.read(1 << 20):  # the stream's padding: its end is no failure
                    pass
            process.wait()
        except (tarfile.TarError, EOFError, KeyError) as exc:
            problem = exc
        finally:
            proc.kill_group(process)
        errors.seek(0)
        output = errors.read().decode(errors="replace")
    if process.returncode or problem is not None:
        if is_full(directory):
            raise ResourceError(f"no space left in {directory}", hint="free some space")
        raise rpm.damaged(package.path, output or str(problem)) from problem


def _write(tar: tarfile.TarFile, directory: Path, keep: Callable[[str], bool]) -> None:
    """Writes files and links below `directory`; nothing that leads out of it."""
    directory = directory.resolve()
    for member in tar:
        name = member.name.removeprefix("./").lstrip("/")
        if not keep(name) or ".." in name.split("/"):
            continue
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent.resolve() != path.parent:
            continue  # through a link of the package's own: it could lead anywhere
        if member.isreg():
            content = tar.extractfile(member)
            assert content is not None
            with path.open("wb") as file:
                shutil.copyfileobj(content, file, 1 << 20)
            path.chmod(0o755 if member.mode & 0o100 else 0o644)
        elif member.islnk():
            first = directory / member.linkname.removeprefix("./").lstrip("/")
            if first.is_file() and not first.is_symlink():
                path.hardlink_to(first)
        elif member.issym() and _stays_inside(name, member.linkname):
            path.symlink_to(member.linkname)


def _stays_inside(name: str, target: str) -> bool:
    """Whether a symbolic link leads to a place in the same package."""
    place = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    return not target.startswith("/") and not place.startswith("..")
