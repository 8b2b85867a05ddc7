"""Images: every compression, damaged files, reading by address."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from pathlib import Path

import lz4.block
import pytest
import zstandard
from kernel_files import (
    BANNER,
    BUILD_ID,
    RODATA,
    TEXT,
    make_bzimage,
    make_vmlinux,
    need_real_images,
)

from rebootless.base.errors import ElfError, NotFoundError
from rebootless.kernel import image


def lz4_legacy(data: bytes) -> bytes:
    out = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), image.LZ4_BLOCK):
        block = lz4.block.compress(data[at : at + image.LZ4_BLOCK], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


def xz_kernel(data: bytes) -> bytes:
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 6}]
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)


METHODS = {
    "gzip": gzip.compress,
    "xz": xz_kernel,
    "zstd": lambda data: zstandard.ZstdCompressor(write_content_size=False).compress(data),
    "bzip2": bz2.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "lz4": lz4_legacy,
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("setup_sects", [0, 3, 31])
def test_bzimage_of_every_compression(method: str, setup_sects: int, tmp_path: Path) -> None:
    vmlinux = make_vmlinux(rodata=b"Linux version %s (nobody)\0")
    payload = METHODS[method](vmlinux) + struct.pack("<I", len(vmlinux))
    path = tmp_path / "vmlinuz"
    path.write_bytes(make_bzimage(payload, setup_sects=setup_sects))
    kernel = image.load(path)
    assert kernel.release == "6.1.0-55-test-amd64"
    assert kernel.banner.encode() == BANNER.rstrip(b"\n\0")
    assert kernel.build_id == BUILD_ID.hex()


def test_lz4_of_several_blocks() -> None:
    data = b"\x7fELF" + bytes(range(256)) * 80000  # 20 MB: three blocks
    packed = lz4_legacy(data) + struct.pack("<I", len(data))
    assert image.decompress(packed, name="x") == data


@pytest.mark.parametrize("method", METHODS)
def test_damaged_payload_is_an_elf_error(method: str) -> None:
    packed = METHODS[method](make_vmlinux())
    with pytest.raises(ElfError, match=r"damaged|not an ELF|lies outside"):
        image.unpack(make_bzimage(packed[: len(packed) // 2]), name="vmlinuz-x")


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "neither a bzImage"),
        (b"\x7fELF", "no ELF header"),
        (bytes(4096), "neither a bzImage"),
        (make_bzimage(b"\x89LZO\0\r\n\x1a\n" + bytes(64)), r"lzo.*not supported"),
        (make_bzimage(b"????????"), "unknown compression"),
        (make_bzimage(gzip.compress(b"no ELF")), "payload is not an ELF"),
        (make_bzimage(b"x" * 64)[:2048], "lies outside the file"),
        (make_vmlinux().replace(b"Linux version", b"Unix  version"), "no 'Linux version' line"),
    ],
)
def test_what_is_no_kernel(blob: bytes, message: str) -> None:
    with pytest.raises(ElfError, match=message):
        image.parse(blob, Path("vmlinuz-x"))


def test_read_by_address() -> None:
    kernel = image.parse(make_vmlinux(text=b"\x90" * 100), Path("vmlinux"))
    assert bytes(kernel.read(TEXT + 98, 2)) == b"\x90\x90"
    section = kernel.section_at(RODATA)
    assert section is not None
    assert section.name == ".rodata"
    assert kernel.section_at(TEXT - 1) is None
    for address, size in ((TEXT + 98, 3), (TEXT - 1, 1), (0, 1)):
        with pytest.raises(ElfError, match="cannot read"):
            kernel.read(address, size)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        image.load(tmp_path / "absent")


def test_real_images_have_release_and_build_id() -> None:
    for path in need_real_images():
        kernel = image.load(path)
        assert path.name == "vmlinuz" or path.name == f"vmlinuz-{kernel.release}"
        assert len(kernel.build_id) == 40
