"""Makes small kernels for the tests: ELF images, bzImages, and kallsyms in every layout."""

from __future__ import annotations

import os
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from rebootless.base.fs import cache_root

BANNER = (
    b"Linux version 6.1.0-55-test-amd64 (builder@example.org) (gcc-12 (Debian 12.2.0-14) 12.2.0, "
    b"GNU ld 2.40) #1 SMP PREEMPT_DYNAMIC Debian 6.1.192-1 (2026-10-28)\n\0"
)
TEXT = 0xFFFFFFFF81000000
RODATA = 0xFFFFFFFF82000000
BUILD_ID = bytes(range(20))


def make_elf(sections: list[tuple[str, int, int, int, bytes]]) -> bytes:
    """An ELF64 executable of (name, type, flags, address, content), as `strip` leaves it."""
    names = b"\0" + b"".join(s[0].encode() + b"\0" for s in sections) + b".shstrtab\0"
    body, headers = b"", [struct.pack("<IIQQQQIIQQ", *[0] * 10)]
    entries = [*sections, (".shstrtab", 3, 0, 0, names)]
    for name, kind, flags, address, content in entries:
        body += bytes(-len(body) % 16)
        offset = names.index(b"\0" + name.encode() + b"\0") + 1
        place = (offset, kind, flags, address, 64 + len(body), len(content), 0, 0, 16, 0)
        headers.append(struct.pack("<IIQQQQIIQQ", *place))
        body += content
    body += bytes(-len(body) % 16)
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64,
                          len(headers), len(headers) - 1)  # fmt: skip
    return header + body + b"".join(headers)


def make_vmlinux(rodata: bytes = b"", text: bytes = b"\xc3" * 64) -> bytes:
    """A kernel-like ELF: .text, .rodata (with the banner), .notes with a build-id."""
    note = struct.pack("<III", 4, 20, 3) + b"GNU\0" + BUILD_ID
    return make_elf([
        (".text", 1, 6, TEXT, text),
        (".rodata", 1, 2, RODATA, rodata + BANNER),
        (".notes", 7, 2, 0xFFFFFFFF82F00000, note),
    ])  # fmt: skip


def make_bzimage(payload: bytes, *, setup_sects: int = 3) -> bytes:
    """A bzImage whose payload is `payload`, at an offset behind the setup code."""
    start = ((setup_sects or 4) + 1) * 512
    image = bytearray(start + 0x40)
    image[0x1F1] = setup_sects
    image[0x202:0x206] = b"HdrS"
    image[0x248:0x250] = struct.pack("<II", 0x40, len(payload))
    return bytes(image) + payload + b"\xff" * 32


@dataclass(frozen=True)
class Layout:
    """One way the kernel has written its kallsyms."""

    label: str
    align: int = 8
    offsets_last: bool = False  # since 6.4
    seqs: bool = False  # since 6.2
    encoding: str = "absolute-percpu"  # or "base-relative", "place-relative"
    long_names: bool = True  # ULEB128 lengths, since 6.1


LAYOUTS = (
    Layout("5.10", long_names=False),
    Layout("5.10 without per-CPU", encoding="base-relative", long_names=False),
    Layout("6.1"),
    Layout("6.1 stable, 6.2", seqs=True),
    Layout("6.4", seqs=True, offsets_last=True),
    Layout("6.15", seqs=True, offsets_last=True, encoding="base-relative"),
    Layout("7.2", align=4, seqs=True, offsets_last=True, encoding="place-relative"),
    Layout("7.2 aligned to 8", seqs=True, offsets_last=True, encoding="place-relative"),
)


def encode(
    symbols: list[tuple[int, str, str]], layout: Layout, *, base: int, prefix: bytes
) -> bytes:
    """`prefix`, then the kallsyms of (address, type, name) as scripts/kallsyms.c writes them.

    `base` is the address of the result. Symbols must be in order of address.
    """
    raw = [(kind + name).encode("latin-1") for _, kind, name in symbols]
    tokens, packed = _compress(raw)
    blob = bytearray(prefix)

    def label() -> int:
        blob.extend(bytes(-len(blob) % layout.align))
        return len(blob)

    def put_offsets() -> None:
        start = label()
        relative = next(a for a, _, _ in symbols if a >= 1 << 63)
        for k, (address, _, _) in enumerate(symbols):
            if layout.encoding == "place-relative":
                value = address - (base + start + 4 * k)
            elif layout.encoding == "base-relative":
                value = address - relative
            else:
                value = address if address < 1 << 31 else relative - 1 - address
            blob.extend(struct.pack("<I", value & 0xFFFFFFFF))
        if layout.encoding != "place-relative":
            label()
            blob.extend(struct.pack("<Q", relative))

    if not layout.offsets_last:
        put_offsets()
    label()
    blob.extend(struct.pack("<I", len(symbols)))
    start, markers = label(), []
    for k, codes in enumerate(packed):
        if k % 256 == 0:
            markers.append(len(blob) - start)
        if layout.long_names and len(codes) >= 128:
            blob.extend((len(codes) & 0x7F | 0x80, len(codes) >> 7))
        else:
            blob.append(len(codes))
        blob.extend(codes)
    label()
    blob.extend(struct.pack(f"<{len(markers)}I", *markers))
    order = sorted(range(len(symbols)), key=lambda k: (symbols[k][2], k))
    seqs = b"".join(k.to_bytes(3, "big") for k in order) if layout.seqs else b""
    if layout.seqs and not layout.offsets_last:
        label()
        blob.extend(seqs)
    label()
    index, size = [], 0
    for token in tokens:
        index.append(size)
        size += len(token) + 1
        blob.extend(token + b"\0")
    label()
    blob.extend(struct.pack("<256H", *index))
    if layout.offsets_last:
        put_offsets()
        label()
        blob.extend(seqs)
    return bytes(blob) + b"\x11" * 64


def _compress(raw: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """256 tokens (each used byte stands for itself, free codes for pairs), and `raw` in them."""
    used = {c for text in raw for c in text}
    tokens = [bytes([c]) if c in used else b"" for c in range(256)]
    packed = [bytes(text) for text in raw]
    for code in (c for c in range(255, 0, -1) if c not in used):
        pairs: Counter[bytes] = Counter()
        for text in packed[:200]:
            pairs.update(text[i : i + 2] for i in range(len(text) - 1))
        if not pairs or pairs.most_common(1)[0][1] < 2:
            break
        pair = pairs.most_common(1)[0][0]
        tokens[code] = tokens[pair[0]] + tokens[pair[1]]
        packed = [text.replace(pair, bytes([code])) for text in packed]
    return tokens, packed


def real_images() -> list[Path]:
    """Kernels on this machine: in the cache, in /boot, or below $REBOOTLESS_TEST_KERNELS."""
    roots = [cache_root() / "kernels", Path("/boot")]
    roots += [Path(p) for p in os.environ.get("REBOOTLESS_TEST_KERNELS", "").split(":") if p]
    found = {p.resolve() for root in roots if root.is_dir() for p in root.rglob("vmlinuz*")}
    return sorted(p for p in found if p.is_file() and os.access(p, os.R_OK))


def need_real_images() -> list[Path]:
    """`real_images()`; skips the test when there are none."""
    images = real_images()
    if not images:
        pytest.skip("NO REAL KERNEL at hand: none cached, none in /boot; set "
                    "REBOOTLESS_TEST_KERNELS to a directory of vmlinuz files")  # fmt: skip
    return images
