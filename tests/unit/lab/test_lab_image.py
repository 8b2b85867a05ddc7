"""The archive a guest boots from, checked with the host's own unpacker."""

from __future__ import annotations

import lzma
import os
from pathlib import Path

import pytest
from engine_fake import module_blob

from rebootless.base.errors import NotFoundError, PatchInputError
from rebootless.base.proc import run
from rebootless.lab.cpio import CpioWriter
from rebootless.lab.image import BUSYBOX, GuestImage, ModuleStore, build, module_path, unpack

needs_busybox = pytest.mark.skipif(
    not BUSYBOX.exists(), reason=f"{BUSYBOX} is not installed, so images are NOT tested"
)


def extract(blob: bytes, folder: Path) -> Path:
    archive = folder / "archive.cpio"
    archive.write_bytes(blob)
    target = folder / "out"
    target.mkdir()
    run([BUSYBOX, "cpio", "-i", "-d", "-F", archive], cwd=target, timeout=30, check=False)
    return target


@needs_busybox
def test_cpio_comes_out_as_it_went_in(tmp_path: Path):
    writer = CpioWriter()
    blob = os.urandom(1001)
    writer.file("a/b/c", blob, 0o755)
    writer.file("a/b/c", b"second one loses")
    writer.symlink("a/link", "b/c")
    writer.file("empty", b"")
    target = extract(writer.finish(), tmp_path)
    assert (target / "a/b/c").read_bytes() == blob
    assert os.access(target / "a/b/c", os.X_OK)
    assert (target / "a/link").read_bytes() == blob
    assert (target / "empty").read_bytes() == b""


def test_cpio_is_deterministic():
    def once() -> bytes:
        writer = CpioWriter()
        writer.file("x/y", b"1")
        writer.character_device("dev/console", 5, 1)
        return writer.finish()

    assert once() == once()
    assert len(once()) % 4 == 0


def with_depends(name: str, depends: str, softdep: str = "") -> bytes:
    """A module that needs others: the tags are put in through the name."""
    tags = f"{name}\0depends={depends}" + (f"\0softdep={softdep}" if softdep else "")
    return module_blob(tags, livepatch=False)


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    root = tmp_path / "modules"
    for path, blob in {
        "kernel/fs/jbd2.ko": with_depends("jbd2", ""),
        "kernel/fs/ext4.ko": with_depends("ext4", "jbd2,mb-cache", "pre: crc32c post: other"),
        "kernel/fs/mb-cache.ko.xz": lzma.compress(with_depends("mb_cache", "")),
        "kernel/lib/crc32c.ko": with_depends("crc32c", "built"),
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(blob)
    (root / "modules.builtin").write_text("kernel/lib/built.ko\n")
    return root


def test_modules_come_in_load_order(modules: Path):
    store = ModuleStore(modules)
    assert store.closure(["ext4"]) == ("jbd2", "mb_cache", "crc32c", "ext4")
    assert store.closure(["built"]) == ()
    assert store.content("mb-cache").startswith(b"\x7fELF")
    with pytest.raises(NotFoundError, match="no kernel module 'nothing'"):
        store.closure(["nothing"])


@needs_busybox
def test_an_image_has_all_that_a_guest_needs(modules: Path, tmp_path: Path):
    image = GuestImage(modules, load=("jbd2",), carry=("ext4",), files={"/etc/x": (b"y", 0o600)})
    target = extract(build(image), tmp_path)
    assert (target / "lab/modules").read_text().split() == [module_path("jbd2")]
    assert (target / "lib/modules/mb_cache.ko").read_bytes().startswith(b"\x7fELF")
    assert (target / "etc/x").read_bytes() == b"y"
    assert os.access(target / "init", os.X_OK)
    assert str((target / "bin/insmod").readlink()) == "busybox"
    assert (target / "lab/agent").exists()


def test_modules_without_a_directory_are_an_error():
    with pytest.raises(NotFoundError):
        build(GuestImage(None, load=("loop",)))


def test_a_damaged_module_file_is_named(tmp_path: Path):
    path = tmp_path / "x.ko.xz"
    path.write_bytes(b"no xz")
    with pytest.raises(PatchInputError, match="cannot be unpacked"):
        unpack(path)


@needs_busybox
@pytest.mark.parametrize("script", ["init", "agent", "workload"])
def test_guest_scripts_are_good_shell(script: str):
    path = Path(__file__).parents[3] / "src/rebootless/lab/guest" / script
    run([BUSYBOX, "sh", "-n", path], timeout=10)
