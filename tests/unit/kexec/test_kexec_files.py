"""Kernel images and initial ramdisks as they lie in /boot, whole and cut short."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from pathlib import Path

import lz4.block
import pytest
import zstandard
from kexec_facts import FIXED, bz_image

from rebootless.base.errors import PatchInputError
from rebootless.kernel import bzimage, initrd
from rebootless.lab.cpio import CpioWriter


def archive() -> bytes:
    writer = CpioWriter()
    writer.file("init", b"#!/bin/sh\n", 0o755)
    writer.file("data", bytes(range(256)) * 40)
    return writer.finish()


def lz4_legacy(blob: bytes) -> bytes:
    """As `lz4 -l`, in blocks that are smaller than its own."""
    out = b"\x02\x21\x4c\x18"
    for start in range(0, len(blob), 4096):
        block = lz4.block.compress(blob[start : start + 4096], store_size=False)
        out += struct.pack("<I", len(block)) + block
    return out


CPIO = archive()
PACKED = {
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress(CPIO),
    "gzip": gzip.compress(CPIO),
    "xz": lzma.compress(CPIO),
    "lzma": lzma.compress(CPIO, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress(CPIO),
    "lz4": lz4_legacy(CPIO),
}


def test_header_of_an_image() -> None:
    image = bzimage.parse(bz_image(), name="vmlinuz")
    assert (image.release, image.build) == (FIXED, "#1 SMP Debian 6.1.192-1")
    assert (image.memory, image.longest_command_line) == (50 << 20, 2047)
    assert image.has_64bit_entry and not image.is_signed


@pytest.mark.parametrize("size", [0, 100, 1024, 1024 + 40])
def test_an_image_that_is_cut_short(size: int) -> None:
    with pytest.raises(PatchInputError, match=r"cut short|not a bzImage"):
        bzimage.parse(bz_image()[:size], name="vmlinuz")


def test_the_certificates_are_part_of_a_signed_image() -> None:
    image = bytearray(bz_image())
    struct.pack_into("<I", image, 0x3C, 0x40)
    image[0x40:0x44] = b"PE\0\0"
    image[0x58:0x5A] = b"\x0b\x02"
    struct.pack_into("<II", image, 0x58 + 144, len(image), 32)
    whole = bytes(image) + b"\x30" * 32
    assert bzimage.parse(whole, name="vmlinuz").is_signed
    with pytest.raises(PatchInputError, match="cut short"):
        bzimage.parse(whole[:-1], name="vmlinuz")


@pytest.mark.parametrize("kind", PACKED)
def test_whole_ramdisks(kind: str) -> None:
    packed = PACKED[kind]
    assert initrd.parts(packed, name="initrd") == (kind,)
    assert initrd.parts(CPIO + b"\0" * 512 + packed + b"\0" * 8, name="initrd") == ("cpio", kind)


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("missing", [1, 60])
def test_ramdisks_without_their_end(kind: str, missing: int) -> None:
    with pytest.raises(PatchInputError, match=f"cut short or damaged: its {kind} archive"):
        initrd.parts(CPIO + PACKED[kind][:-missing], name="initrd")


@pytest.mark.parametrize("size", [30, 115, 1000, len(CPIO) - 100])
def test_a_plain_archive_without_its_end(size: int) -> None:
    with pytest.raises(PatchInputError, match="cut short or damaged: its cpio archive"):
        initrd.parts(CPIO[:size], name="initrd")


@pytest.mark.parametrize(
    ("blob", "said"),
    [(b"", "is empty"), (b"\0" * 4096, "is empty"), (b"hello", "holds no archive")],
)
def test_what_is_no_ramdisk(blob: bytes, said: str) -> None:
    with pytest.raises(PatchInputError, match=said):
        initrd.parts(blob, name="initrd")


def test_ramdisks_of_this_machine_are_whole() -> None:
    """Where the tests run on a real system, its own files have to pass."""
    for path in sorted(Path("/boot").glob("initrd.img-*")):
        assert initrd.parts(path.read_bytes(), name=str(path))
