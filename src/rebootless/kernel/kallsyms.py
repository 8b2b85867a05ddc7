"""The kernel's own symbol table, decoded out of its image.

With KALLSYMS_ALL every symbol of vmlinux, data included, is in `.rodata`, written by
scripts/kallsyms.c: names as strings of one-byte tokens (the first letter is the type), in order of
address. The pieces carry no label in a stripped image, so they are found by their structure. Each
starts at a multiple of 8 (of 4 in the newest):

    until 6.3   offsets relative_base num_syms names markers [seqs] token_table token_index
    since 6.4   num_syms names markers token_table token_index offsets relative_base seqs
    newest      the same without relative_base (seen in 7.2)

    names          per symbol: length (one byte; since 6.1 a ULEB128), then that many tokens
    markers        u32, where every 256th name starts
    seqs           3 bytes per symbol: the order by name (since 6.2, and in some stable series)
    token_table    256 strings; token_index: u16, where each starts
    offsets        i32 per symbol, in one of the encodings of `_encodings`

Nothing is taken from the kernel's version: every layout is tried, and the markers and the order of
the addresses tell which is right.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..base.errors import ElfError
from ..base.fs import atomic_write
from .image import KernelImage

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

TOKENS = 256
STRIDE = 256  # names per marker
LONGEST = 1024  # more bytes than any token or compressed name takes
MOST_SYMBOLS = 1 << 23
# Markers in a run that nothing else looks like. A real kernel has hundreds; only without such a run
# is every zero tried, which takes long where the alignment is taken for another one.
LIKELY = 16
KERNEL_BASE = 0xFFFFFFFF80000000  # where the x86-64 kernel is linked: the top 2 GB
CACHE_VERSION = 1


@dataclass(frozen=True)
class Kallsyms:
    """All symbols in kallsyms order: link-time addresses, type letters (ASCII codes), names."""

    addresses: U64
    types: U8
    names: tuple[str, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)


class _Tokens(NamedTuple):
    """Where the token table starts and its index ends in the section; the 256 strings.

    `align` is what every piece starts at a multiple of: 8 or 4.
    """

    align: int
    table: int
    end: int
    starts: I64
    lengths: I64
    blob: U8


class _Names(NamedTuple):
    """Where num_syms stands; per symbol where its tokens start and how many they are."""

    num_syms: int
    starts: I64
    lengths: I64


def load_or_decode(image: KernelImage, cache_path: Path) -> Kallsyms:
    """`decode(image)`, kept in the .npz file `cache_path`; another image's file is replaced."""
    cached = _load(cache_path, image.build_id)
    if cached is not None:
        return cached
    table = decode(image)
    out = io.BytesIO()
    np.savez(
        out,
        version=np.array(CACHE_VERSION),
        build_id=np.array(image.build_id),
        addresses=table.addresses,
        types=table.types,
        names=np.frombuffer("\n".join(table.names).encode(), np.uint8),
    )
    atomic_write(cache_path, out.getvalue())
    return table


def _load(path: Path, build_id: str) -> Kallsyms | None:
    """The cached table, or None when it is absent, damaged, or of another image."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            if int(stored["version"]) != CACHE_VERSION or str(stored["build_id"]) != build_id:
                return None
            names = tuple(stored["names"].tobytes().decode().split("\n"))
            table = Kallsyms(stored["addresses"], stored["types"], names)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return table if build_id and len(names) == len(table.addresses) else None


def decode(image: KernelImage) -> Kallsyms:
    """Decodes the kallsyms of an image. Raises ElfError when there are none to be found."""
    reason = "no token table found"
    for section in image.elf.sections:
        if not section.is_alloc or section.is_exec or len(section.data) < TOKENS * 4:
            continue
        data = np.frombuffer(section.data, np.uint8)
        tables = _find_tokens(data)
        for tokens, least in [(t, n) for n in (LIKELY, 1) for t in tables]:
            names = _find_names(data, tokens, least)
            if names is None:
                reason = "a token table, but no names that fit it"
                continue
            texts, types = _expand(data, tokens, names)
            addresses = _find_addresses(image, section.addr, data, tokens, names, texts)
            if addresses is not None:
                return Kallsyms(addresses, types, texts)
            reason = f"{len(texts)} names, but no table of addresses that fits them"
    raise ElfError(
        f"{image.path}: cannot decode its kallsyms: {reason}",
        hint="the kernel must be built with CONFIG_KALLSYMS=y; stock kernels are",
    )


def _up(offset: int, align: int) -> int:
    return (offset + align - 1) // align * align


def _find_tokens(data: U8) -> list[_Tokens]:
    """Finds token_index, 256 rising u16 from 0, whose values split the strings before it."""
    words = data[: len(data) // 8 * 8].view("<u2")
    if len(words) < TOKENS:
        return []
    falls = np.nonzero(words[1:] <= words[:-1])[0] + 1  # where a rising run starts
    starts = np.r_[0, falls]
    lengths = np.diff(np.r_[starts, len(words)])
    found = []
    # The index starts with 0, so it begins a run; what follows it may prolong the run.
    for start in starts[(lengths >= TOKENS) & (words[starts] == 0)].tolist():
        index = words[start : start + TOKENS].astype(np.int64)
        for align in (8, 4):
            if start * 2 % align == 0:
                tokens = _tokens_before(data, start * 2, index, align)
                found += [tokens] if tokens is not None else []
    return found


def _tokens_before(data: U8, at: int, index: I64, align: int) -> _Tokens | None:
    """The token table that ends before the index at `at`: its NULs lie where the index says."""
    last = int(index[-1])
    nearest = (at - last - 1) // align * align
    for table in range(nearest, max(at - last - LONGEST, 0) - 1, -align):
        strings = data[table:at]
        nuls = np.nonzero(strings == 0)[0]
        # All NULs but the last token's are followed by the next token; padding is NULs too.
        if len(nuls) < TOKENS or not np.array_equal(nuls[: TOKENS - 1] + 1, index[1:]):
            continue
        end = int(nuls[TOKENS - 1]) + 1
        if _up(table + end, align) == at and not strings[end:].any():
            lengths = np.r_[index[1:], end] - index - 1
            return _Tokens(align, table, at + 2 * TOKENS, index, lengths, strings[:end])
    return None


def _find_names(data: U8, tokens: _Tokens, least: int) -> _Names | None:
    """Finds num_syms, names and markers, which lie in this order before the token table.

    Every zero may begin the markers: they rise by what 256 names take. The number before the names
    must agree with the count of markers, and every marker with the names. Runs of fewer than
    `least` are passed over.
    """
    words = data[: tokens.table].view("<u4")
    gaps = np.diff(words.astype(np.int64))
    ends = np.r_[np.nonzero((gaps < STRIDE * 2) | (gaps > STRIDE * LONGEST))[0], len(gaps)]
    starts = np.nonzero(words == 0)[0]
    starts = starts[starts * 4 % tokens.align == 0]
    runs = ends[np.searchsorted(ends, starts)] - starts + 1
    starts, runs = starts[runs >= least], runs[runs >= least]
    for k in np.argsort(-runs, kind="stable"):  # long runs first
        names = _names_before(data, words, int(starts[k]), int(runs[k]), tokens.align)
        if names is not None:
            return names
    return None


def _names_before(
    data: U8, words: npt.NDArray[np.uint32], at: int, run: int, align: int
) -> _Names | None:
    """The names whose markers are up to `run` words at word `at`, or None."""
    markers = words[at : at + run].astype(np.int64)
    # The names end at the markers, and the last of them starts less than a stride before.
    low = (at * 4 - int(markers[-1]) - STRIDE * LONGEST) // align * align // 4
    places = np.arange(max(low, 0), at - 1, align // 4)
    counts = words[places].astype(np.int64)
    needed = (counts + STRIDE - 1) // STRIDE
    fit = (counts > 0) & (needed <= run) & (counts < MOST_SYMBOLS)
    if align == 8:  # num_syms is 4 bytes, then padded
        fit &= words[places + 1] == 0
    # What lies behind the markers may look like one or two more of them, not like many.
    fit &= needed >= max(run - 2, 1)
    for place, count, used in zip(places[fit], counts[fit], needed[fit], strict=True):
        for variable in (True, False):
            bounds = (int(place) * 4 + align, at * 4, align)
            names = _walk(data, bounds, int(count), markers[:used], variable)
            if names is not None:
                return names
    return None


def _walk(
    data: U8, bounds: tuple[int, int, int], count: int, markers: I64, variable: bool
) -> _Names | None:
    """Steps through `count` names, all chunks of 256 at once; None unless the markers agree.

    `bounds` is where the names start, where the markers start, and the alignment of both.
    """
    begin, end, align = bounds
    at = markers + begin
    starts = np.empty((len(markers), STRIDE), np.int64)
    lengths = np.empty((len(markers), STRIDE), np.int64)
    tail = count - (len(markers) - 1) * STRIDE
    final = -1
    for step in range(STRIDE):
        if step == tail:
            final = int(at[-1])
        np.minimum(at, end - 2, out=at)  # garbage must not lead outside; markers then disagree
        length = data[at].astype(np.int64)
        at += 1
        if variable:
            big = length >= 0x80
            length = np.where(big, (length & 0x7F) | (data[at].astype(np.int64) << 7), length)
            at += big
        starts[:, step] = at
        lengths[:, step] = length
        at += length
    if tail == STRIDE:
        final = int(at[-1])
    agrees = np.array_equal(at[:-1], markers[1:] + begin)
    starts, lengths = starts.reshape(-1)[:count], lengths.reshape(-1)[:count]
    if not agrees or _up(final, align) != end or not lengths.all():
        return None
    return _Names(begin - align, starts, lengths)


def _spread(starts: I64, lengths: I64) -> I64:
    """The indices start, start+1, ... of every (start, length), one after another."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)


def _expand(data: U8, tokens: _Tokens, names: _Names) -> tuple[tuple[str, ...], U8]:
    """The names as text, and the type letters that lead them."""
    codes = data[_spread(names.starts, names.lengths)]
    sizes = tokens.lengths[codes]
    blob = tokens.blob[_spread(tokens.starts[codes], sizes)]
    firsts = np.cumsum(names.lengths) - names.lengths
    ends = np.cumsum(np.add.reduceat(sizes, firsts))
    begins = np.r_[0, ends[:-1]]
    text = blob.tobytes().decode("latin-1")
    bounds = zip((begins + 1).tolist(), ends.tolist(), strict=True)
    return tuple([text[a:b] for a, b in bounds]), blob[np.minimum(begins, len(blob) - 1)]


def _find_addresses(
    image: KernelImage,
    section_address: int,
    data: U8,
    tokens: _Tokens,
    names: _Names,
    texts: tuple[str, ...],
) -> U64 | None:
    """Finds and decodes the offsets, before num_syms or behind the token index."""
    size = _up(4 * len(texts), tokens.align)
    for start in (names.num_syms - 8 - size, _up(tokens.end, tokens.align)):
        if start < 0 or start + size > len(data):
            continue
        offsets = data[start : start + 4 * len(texts)].view("<i4").astype(np.int64)
        stored = data[start + size : start + size + 8]
        base = int(stored.view("<u8")[0]) if len(stored) == 8 else 0
        for addresses in _encodings(offsets, base, section_address + start):
            if _plausible(image, addresses, texts):
                return addresses
    return None


def _encodings(offsets: I64, base: int, address: int) -> list[U64]:
    """The addresses that `offsets` mean, in every encoding that was ever used.

    1. with absolute per-CPU symbols (x86-64 SMP until 6.14): positive values are addresses
       themselves, negative ones count from relative_base: base - 1 - offset
    2. without: unsigned distance from relative_base
    3. newest: distance from the very place of the offset
    """
    unsigned = (offsets & 0xFFFFFFFF).astype(np.uint64)
    found = []
    if base >= KERNEL_BASE:
        below = np.uint64(base - 1) + (-offsets).astype(np.uint64)
        found.append(np.where(offsets >= 0, offsets.astype(np.uint64), below))
        found.append(np.uint64(base) + unsigned)
    places = np.uint64(address) + 4 * np.arange(len(offsets), dtype=np.uint64)
    found.append(places + offsets.astype(np.uint64))
    return found


def _plausible(image: KernelImage, addresses: U64, texts: tuple[str, ...]) -> bool:
    """Whether the addresses rise, and `_stext` and `_etext` bound code as they should."""
    if (addresses[1:] < addresses[:-1]).any():
        return False
    try:
        start, end = texts.index("_stext"), texts.index("_etext")
    except ValueError:
        return False
    section = image.section_at(int(addresses[start]))
    return section is not None and section.is_exec and addresses[end] > addresses[start]
