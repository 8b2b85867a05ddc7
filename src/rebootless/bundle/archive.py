"""The bundle file: a zip whose every byte is determined by its content, and verified when read.

    manifest.json      what the bundle is, and the SHA-256 of everything below but the log
    modules/NAME.ko    the kernel module
    core/*.ko          the core module that some engines need, for the same kernel
    source.patch       the patch that it was built from
    source/NAME.c      the C files that it was built from, given or extracted
    match.json         the proof that what was compiled is what the kernel ships
    report.json        how it was built
    explain.json       each function: what differs, why, and where it comes from
    test.log           the log of its test in QEMU; first line: the id of the bundle it tested

A zip, so that anyone can look inside with ordinary tools. Members are sorted and carry a fixed
date and fixed permissions, so equal content gives equal files.
"""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..base.errors import BundleError, RebootlessError
from ..base.fs import atomic_write, read_bytes
from .manifest import Manifest, parse
from .naming import check_name

MANIFEST = "manifest.json"
TEST_LOG = "test.log"
SOURCE_PATCH = "source.patch"
MATCH = "match.json"
REPORT = "report.json"
EXPLAIN = "explain.json"
SOURCES = "source/"
MODULES = "modules/"
CORE = "core/rebootless_core.ko"
SUFFIX = ".rlp"

MAX_CONTENT = 512 << 20  # bytes; no real bundle comes near, a hostile one would
_DATE = (1980, 1, 1, 0, 0, 0)
_PERMISSIONS = 0o100644 << 16
_LOCAL_HEADER = 30  # bytes of what stands before each member, without its name
_END_RECORD = 22  # bytes of a zip's closing record, with no comment after it
_LEVEL = 9
# What zipfile raises, from its headers or from the deflate stream, when a zip is damaged.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OSError,
)


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory. `members` holds what the manifest lists; `test_log` what came later."""

    manifest: Manifest
    members: Mapping[str, bytes] = field(repr=False)
    test_log: str | None = field(default=None, repr=False)

    @property
    def id(self) -> str:
        """The bundle's identity, in hex; a test log does not change it."""
        return self.manifest.id

    @property
    def modules(self) -> dict[str, bytes]:
        """The kernel modules by name, in order."""
        return {
            path.removeprefix(MODULES).removesuffix(".ko"): blob
            for path, blob in sorted(self.members.items())
            if path.startswith(MODULES)
        }

    @property
    def core(self) -> bytes | None:
        """The core module; None in bundles without one."""
        return self.members[self.manifest.core.member] if self.manifest.core else None

    @property
    def source_patch(self) -> bytes:
        """The patch that the bundle was built from."""
        return self.members.get(SOURCE_PATCH, b"")

    @property
    def match(self) -> dict[str, Any]:
        """The run-pre evidence; empty if the bundle has none."""
        return _facts(self.members.get(MATCH, b"{}"), MATCH)

    @property
    def report(self) -> dict[str, Any]:
        """The build's report; empty if the bundle has none."""
        return _facts(self.members.get(REPORT, b"{}"), REPORT)

    @property
    def explanation(self) -> dict[str, Any]:
        """What there is to tell of each function; empty if the bundle has none."""
        return _facts(self.members.get(EXPLAIN, b"{}"), EXPLAIN)


def create(manifest: Manifest, members: Mapping[str, bytes]) -> Bundle:
    """A new bundle: fills the manifest's checksums from `members`.

    Raises PatchInputError for an illegal name, BundleError for a bundle without a module.
    """
    check_name(manifest.name)
    ordered = dict(sorted(members.items()))
    for path in ordered:
        if path in (MANIFEST, TEST_LOG) or not _is_plain(path):
            raise BundleError(f"a bundle cannot have a member '{path}'")
        if path.startswith(MODULES):
            check_name(path.removeprefix(MODULES).removesuffix(".ko"))
    if not any(path.startswith(MODULES) for path in ordered):
        raise BundleError("a bundle needs a kernel module")
    if manifest.core is not None and manifest.core.member not in ordered:
        raise BundleError(f"it lacks the core module {manifest.core.member} of its manifest")
    digests = tuple((path, hashlib.sha256(blob).hexdigest()) for path, blob in ordered.items())
    return Bundle(replace(manifest, members=digests), ordered)


def with_test_log(bundle: Bundle, log: str) -> Bundle:
    """The same bundle with the log of its latest test; its id stays."""
    return replace(bundle, test_log=log)


def encode(bundle: Bundle) -> bytes:
    """The bundle's file content, the same bytes for equal bundles."""
    files = {MANIFEST: _pretty(bundle.manifest), **bundle.members}
    if bundle.test_log is not None:
        files[TEST_LOG] = f"{bundle.id}\n{bundle.test_log}".encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(files):
            info = zipfile.ZipInfo(path, date_time=_DATE)
            info.create_system = 3  # Unix, wherever it is made
            info.external_attr = _PERMISSIONS
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[path], compresslevel=_LEVEL)
    return out.getvalue()


def write(bundle: Bundle, path: Path) -> None:
    """Writes the bundle to `path`, whole or not at all. Raises ResourceError."""
    atomic_write(path, encode(bundle))


def read(path: Path) -> Bundle:
    """Reads and verifies a bundle file. Raises NotFoundError, ResourceError or BundleError."""
    return decode(read_bytes(path), where=str(path))


def decode(blob: bytes, *, where: str) -> Bundle:
    """Reads and verifies a bundle: every member present, none extra, every checksum right.

    Raises BundleError, which tells a truncated file from a foreign and from a changed one.
    """
    files = _unpack(blob, where)
    if MANIFEST not in files:
        raise BundleError(f"{where}: not a bundle: it has no {MANIFEST}")
    manifest = parse(files.pop(MANIFEST), where=where)
    log = files.pop(TEST_LOG, None)
    listed = dict(manifest.members)
    for path in sorted(listed.keys() | files.keys()):
        if path not in files:
            raise _changed(where, f"its member {path} is missing")
        if path not in listed:
            raise _changed(where, f"it has a member {path} that its manifest does not list")
        if hashlib.sha256(files[path]).hexdigest() != listed[path]:
            raise _changed(where, f"its member {path} has the wrong checksum")
    try:
        bundle = create(manifest, files)
    except RebootlessError as exc:
        raise BundleError(f"{where}: {exc.message}") from exc
    if log is None:
        return bundle
    tested, _, text = log.decode(errors="replace").partition("\n")
    if tested != bundle.id:
        raise _changed(where, f"its {TEST_LOG} is of another bundle")
    return with_test_log(bundle, text)


def _unpack(blob: bytes, where: str) -> dict[str, bytes]:
    if not blob.startswith(b"PK\x03\x04"):
        what = "is empty" if not blob else "is not a bundle"
        raise BundleError(f"{where}: the file {what}", hint="a bundle is what 'build' writes")
    end = blob[-_END_RECORD:]
    if end[:4] != b"PK\x05\x06" or end[-2:] != b"\0\0":
        raise BundleError(
            f"{where}: the bundle is truncated, or something was added to its end",
            hint="copy it again from where it was built",
        )
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            return _members(archive, where)
    except _DAMAGE as exc:
        raise _changed(where, f"it cannot be unpacked ({exc})") from exc


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, bytes]:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(set(names)) != len(names):
        raise _changed(where, "it has two members of one name")
    if any(info.compress_type != zipfile.ZIP_DEFLATED or info.flag_bits for info in infos):
        raise _changed(where, "its members are not packed the way a bundle's are")
    if not _tiles(infos, archive.start_dir):
        raise _changed(where, "its members and its table of contents do not agree")
    if sum(info.file_size for info in infos) > MAX_CONTENT:
        raise BundleError(f"{where}: more than {MAX_CONTENT >> 20} MB of content; no bundle is")
    return {info.filename: archive.read(info) for info in infos}


def _tiles(infos: Sequence[zipfile.ZipInfo], directory: int) -> bool:
    """Whether the listed members fill the file up to its table of contents.

    A damaged table can swallow its next entry as a comment or an extra field. The manifest does
    not list the test log, so only the hole that a lost entry leaves tells of it.
    """
    at = 0
    for info in infos:
        if info.header_offset != at or info.extra or info.comment:
            return False
        at += _LOCAL_HEADER + len(info.orig_filename.encode()) + info.compress_size
    return at == directory


def _changed(where: str, how: str) -> BundleError:
    return BundleError(
        f"{where}: the bundle was changed or damaged: {how}",
        hint="do not apply it; get it again from where it was built",
    )


def _is_plain(path: str) -> bool:
    parts = path.split("/")
    return not path.startswith("/") and "\\" not in path and not {"", ".", ".."} & set(parts)


def _pretty(manifest: Manifest) -> bytes:
    return (json.dumps(manifest.to_json(), indent=2) + "\n").encode()


def _facts(blob: bytes, member: str) -> dict[str, Any]:
    try:
        value = json.loads(blob)
    except ValueError as exc:
        raise BundleError(f"the bundle's {member} is not JSON: {exc}") from exc
    if not isinstance(value, dict):
        raise BundleError(f"the bundle's {member} is not a JSON object")
    return value
