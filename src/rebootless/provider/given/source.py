"""A kernel's source out of what distributions ship it as.

tarball   with all patches applied (Debian's and Ubuntu's linux-source)
tree      a directory, perhaps spread over two packages (openSUSE's)
srpm      a tarball and patches, which the .spec numbers (Fedora, Red Hat)
dsc       a tarball and either one .diff.gz or debian/patches with its series (Debian's form)
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from pathlib import Path

from ...base import proc
from ...base.errors import NotFoundError, PatchInputError
from ...base.fs import filling_directory, read_text
from ..base import SourceTarball, SourceTree
from ..featuresets import series
from ..local import tree_version
from ..naming.base import Facts
from . import rpm
from .choose import Candidate
from .package import TARBALL
from .parts import has_makefiles, is_source

AnySource = SourceTarball | SourceTree
_PATCH_TAG = re.compile(r"^Patch(\d*)\s*:\s*(\S+)", re.MULTILINE | re.IGNORECASE)
_MACRO = re.compile(r"%\{[^}]*\}|%\w+")


def files_of(chosen: Candidate, package: Path | None, folder: Path) -> AnySource:
    """The source as a build takes it; what has to be put together first goes into `folder`.

    `package` is the source rpm itself. Raises NotFoundError (a part is missing), PatchInputError.
    """
    if chosen.kind == "tarball":
        return SourceTarball(chosen.paths[0])
    if chosen.kind == "srpm":
        assert package is not None
        return _source_rpm(chosen.paths[0], package)
    if chosen.kind == "dsc":
        return _source_deb(chosen.paths[0], folder)
    if len(chosen.paths) == 1 and is_source(chosen.paths[0]):
        return SourceTree(chosen.paths[0])
    return _joined(chosen, folder)


def version_of(source: AnySource) -> str:
    """The version in the top Makefile, e.g. "6.8.12". Raises PatchInputError when there is none."""
    if isinstance(source, SourceTree):
        return tree_version(read_text(source.path / "Makefile"))
    argv: list[str | Path] = ["tar", "-x", "-O", "-f", source.path, "--occurrence=1"]
    argv += ["--wildcards", "--no-wildcards-match-slash", "*/Makefile"]
    result = proc.run(argv, check=False)
    version = tree_version(result.stdout)
    if not version:
        raise PatchInputError(
            f"{source.path.name} holds no kernel source (no Makefile with a version)",
            hint="give the source package of the kernel, unchanged",
        )
    return version


def _joined(chosen: Candidate, folder: Path) -> SourceTree:
    """One tree out of the packages that hold it, by hard links."""
    has_code = any((path / "init/main.c").is_file() for path in chosen.paths)
    has_makes = any(has_makefiles(path) for path in chosen.paths)
    if not (has_code and has_makes):
        raise NotFoundError(
            f"{chosen.title} holds one half of the source only",
            hint="add kernel-devel-....noarch.rpm, of the same build"
            if has_code
            else "add kernel-source-....noarch.rpm, of the same build",
        )
    tree = folder / "source"
    if not tree.is_dir():
        with filling_directory(tree) as aside:
            for path in chosen.paths:
                proc.run(["cp", "-alT", path, aside])
    return SourceTree(tree)


def _source_rpm(directory: Path, package: Path) -> SourceTarball:
    """Tarball and patches of an unpacked source rpm."""
    tarballs = [p for p in directory.iterdir() if TARBALL.search(p.name)]
    tarballs.sort(key=lambda p: p.stat().st_size)
    if not tarballs:
        raise PatchInputError(f"{package.name} holds no tarball", hint="is it the kernel's?")
    names = [n for n in rpm.patches(package) if (directory / n).is_file()]
    kept = [n for n in names if (directory / n).stat().st_size]
    specs = sorted(directory.glob("*.spec"))
    if len(kept) > 1 and specs:
        kept = ordered(kept, read_text(specs[0]))
    return SourceTarball(tarballs[-1], patches=tuple(directory / n for n in kept))


def ordered(names: list[str], spec: str) -> list[str]:
    """Patch files in the order of their numbers in a .spec, whose macros may stand for anything.

    Example: "Patch1: patch-%{patchversion}-redhat.patch" is number 1, patch-6.11-redhat.patch.
    Raises PatchInputError for one that the .spec does not number.
    """
    tags = [
        (int(number or 0), value.rpartition("/")[2]) for number, value in _PATCH_TAG.findall(spec)
    ]
    numbers = {}
    for name in names:
        fitting = [n for n, value in tags if fnmatch.fnmatch(name, _MACRO.sub("*", value))]
        if not fitting:
            raise PatchInputError(
                f"the .spec does not say when the patch {name} is applied",
                hint="unpack the source, apply the patches, and put the directory in the folder",
            )
        numbers[name] = fitting[0]
    return sorted(names, key=lambda name: numbers[name])


def _source_deb(dsc: Path, folder: Path) -> SourceTarball:
    """The tarball of a deb source package, with what debian/patches or the .diff.gz adds."""
    files = dsc_files(dsc)
    origin = [f for f in files if ".orig.tar." in f.name]
    diffs = [f for f in files if f.name.endswith(".diff.gz")]
    debian = [f for f in files if ".debian.tar." in f.name]
    if len(origin) != 1 or len(diffs) + len(debian) != 1:
        raise PatchInputError(
            f"{dsc.name} is not of a form that is known (.orig.tar with .diff.gz or .debian.tar)",
            hint="unpack it with `dpkg-source -x`, and put the directory in the folder",
        )
    if diffs:
        return SourceTarball(origin[0], patches=(diffs[0],))
    if not (folder / "patches").is_dir():
        with filling_directory(folder / "patches") as aside:
            proc.run(["tar", "-x", "-f", debian[0], "-C", aside, "debian/patches"])
    return SourceTarball(origin[0], patches=series(folder / "patches/debian/patches"))


def dsc_facts(dsc: Path) -> Facts:
    """What a deb source package says of itself. Raises PatchInputError."""
    from debian.deb822 import Dsc

    fields = Dsc(read_text(dsc))
    if "Source" not in fields or "Version" not in fields:
        raise PatchInputError(f"{dsc} is no .dsc", hint="download the source package again")
    vendor = fields.get("Maintainer", "")
    return Facts(dsc.name, "dsc", fields["Source"], fields["Version"], "all", "", vendor)


def dsc_files(dsc: Path) -> tuple[Path, ...]:
    """The files of a deb source package, compared with the hashes in its .dsc.

    Raises NotFoundError for one that is not beside it, PatchInputError for one that differs.
    """
    from debian.deb822 import Dsc  # late: slow to import

    found = []
    for entry in Dsc(read_text(dsc)).get("Checksums-Sha256", []):
        path = dsc.parent / Path(entry["name"]).name
        if not path.is_file():
            raise NotFoundError(
                f"{dsc.name} names {path.name}, which is not beside it",
                hint="give all files of the source package",
            )
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise PatchInputError(
                    f"{path} is not the file that {dsc.name} names (SHA-256 differs)",
                    hint="download it again",
                )
        found.append(path)
    return tuple(found)
