"""Kallsyms: synthetic tables in every layout, and real kernels."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_files import LAYOUTS, RODATA, TEXT, Layout, encode, make_vmlinux, need_real_images

from rebootless.base.errors import ElfError, NotFoundError
from rebootless.kernel import image, kallsyms
from rebootless.kernel.symbols import SymbolIndex

Symbols = list[tuple[int, str, str]]
# What misleads: rising u16 tables that start with 0, and rising u32 ones.
DECOYS = struct.pack("<256H", *range(256)) + struct.pack("<300I", *range(0, 300 * 4096, 4096))


def some_symbols(count: int, layout: Layout, seed: int = 1) -> Symbols:
    """`count` symbols in order of address, with duplicate names, aliases and long names."""
    chance = random.Random(seed)
    words = ["get", "put", "_", "__", "task", "page", "x.", "ext4", "lock", "init", "7", "Q"]
    symbols: Symbols = []
    if layout.encoding == "absolute-percpu":
        symbols += [(16 * k, "A", f"percpu_{k}") for k in range(20)]
    address = TEXT
    symbols += [(address, "T", "_stext"), (address, "T", "_text")]
    while len(symbols) < count - 1:
        address += chance.choice([0, 1, 16, 48, 400])
        size = 160 if layout.long_names and chance.random() < 0.02 else chance.randint(1, 6)
        name = "".join(chance.choice(words) for _ in range(size))
        if len(name) > 20:  # not compressible: more than 127 tokens
            name = "".join(chance.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in name)
        symbols.append((address, chance.choice("tTdDbBrRwW"), name))
    return [*symbols, (address + 64, "T", "_etext")]


def decode(symbols: Symbols, layout: Layout, prefix: bytes = DECOYS) -> kallsyms.Kallsyms:
    rodata = encode(symbols, layout, base=RODATA, prefix=prefix)
    return kallsyms.decode(image.parse(make_vmlinux(rodata), Path("vmlinux")))


def check(symbols: Symbols, table: kallsyms.Kallsyms) -> None:
    assert list(table.names) == [name for _, _, name in symbols]
    assert table.addresses.tolist() == [address for address, _, _ in symbols]
    assert bytes(table.types).decode() == "".join(kind for _, kind, _ in symbols)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.label)
@pytest.mark.parametrize("count", [40, 255, 256, 257, 512, 2000])
def test_every_layout(layout: Layout, count: int) -> None:
    symbols = some_symbols(count, layout)
    check(symbols, decode(symbols, layout))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.label)
@pytest.mark.parametrize("shift", [0, 4, 9, 15])
def test_wherever_it_starts(layout: Layout, shift: int) -> None:
    symbols = some_symbols(300, layout)
    check(symbols, decode(symbols, layout, prefix=DECOYS + b"\x07" * shift))


NAME = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="\n"),
    min_size=1,
    max_size=120,
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    layout=st.sampled_from(LAYOUTS),
    names=st.lists(st.tuples(NAME, st.sampled_from("tTdDbB"), st.integers(0, 5000)), min_size=1,
                   max_size=400),
)  # fmt: skip
def test_any_names(layout: Layout, names: list[tuple[str, str, int]]) -> None:
    symbols: Symbols = [(TEXT, "T", "_stext")]
    for name, kind, gap in names:
        if name not in ("_stext", "_etext"):
            symbols.append((symbols[-1][0] + gap, kind, name))
    symbols.append((symbols[-1][0] + 4096, "T", "_etext"))
    check(symbols, decode(symbols, layout, prefix=b""))


def test_no_kallsyms_is_an_elf_error() -> None:
    with pytest.raises(ElfError, match="no token table"):
        kallsyms.decode(image.parse(make_vmlinux(DECOYS), Path("vmlinux")))


def test_a_damaged_table_is_an_elf_error() -> None:
    layout = LAYOUTS[4]
    rodata = bytearray(encode(some_symbols(600, layout), layout, base=RODATA, prefix=b""))
    rodata[8] += 1  # the length of the first name
    with pytest.raises(ElfError, match="cannot decode"):
        kallsyms.decode(image.parse(make_vmlinux(bytes(rodata)), Path("vmlinux")))


def test_cache_is_used_and_replaced(tmp_path: Path) -> None:
    layout = LAYOUTS[0]
    symbols = some_symbols(300, layout)
    kernel = image.parse(
        make_vmlinux(encode(symbols, layout, base=RODATA, prefix=b"")), Path("vmlinux")
    )
    path = tmp_path / "deep" / "kallsyms.npz"
    check(symbols, kallsyms.load_or_decode(kernel, path))
    kept = path.read_bytes()
    check(symbols, kallsyms.load_or_decode(kernel, path))
    assert path.read_bytes() == kept
    for damaged in (b"", b"PK\3\4 no zip", kept[:-100]):
        path.write_bytes(damaged)
        check(symbols, kallsyms.load_or_decode(kernel, path))
    other = image.KernelImage(kernel.path, kernel.elf, kernel.banner, kernel.release, "ff")
    path.write_bytes(kept)
    kallsyms.load_or_decode(other, path)
    assert path.read_bytes() != kept


def table_of(*symbols: tuple[int, str]) -> SymbolIndex:
    addresses = np.array([a for a, _ in symbols], np.uint64)
    types = np.full(len(symbols), ord("t"), np.uint8)
    return SymbolIndex(kallsyms.Kallsyms(addresses, types, tuple(n for _, n in symbols)))


def test_symbol_index() -> None:
    index = table_of((16, "a"), (32, "dup"), (48, "b"), (48, "alias"), (64, "dup"), (80, "dup"))
    assert index.addresses("dup") == (32, 64, 80)
    assert index.addresses("absent") == ()
    assert [index.sympos("dup", a) for a in (32, 64, 80)] == [1, 2, 3]
    assert index.sympos("a", 16) == 0
    with pytest.raises(NotFoundError, match="no symbol 'dup' at 0x30"):
        index.sympos("dup", 48)
    assert index.at(48) == ("b", "alias")
    assert index.at(49) == ()
    assert index.covering(50) == ("b", 48, 2)
    assert index.covering(15) is None
    assert index.covering(1 << 63) == ("dup", 80, (1 << 63) - 80)
    assert index.end_of(48) == 64
    assert index.end_of(80) is None


def test_real_kernels() -> None:
    """The decoded tables are those of the kernels: symbols that bound sections, code that is."""
    for path in need_real_images():
        kernel = image.load(path)
        index = SymbolIndex(kallsyms.decode(kernel))
        text = kernel.elf.section_by_name[".text"]
        assert index.addresses("_text") == index.addresses("_stext") == (text.addr,)
        assert len(index.table) > 50_000
        (banner,) = index.addresses("linux_banner")
        assert bytes(kernel.read(banner, 14)) == b"Linux version "
        (schedule,) = index.addresses("schedule")
        head = bytes(kernel.read(schedule, 9)).removeprefix(b"\xf3\x0f\x1e\xfa")
        # the traced entry: a call or its nop
        assert head.startswith((b"\xe8", b"\x0f\x1f\x44\x00\x00")), path
        assert (index.table.addresses[1:] >= index.table.addresses[:-1]).all()
