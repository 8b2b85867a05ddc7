"""Constants that the kernel writes into its code once it knows them (runtime_const, since 6.11).

A section `runtime_ptr_NAME` lists the 64-bit immediate operands, `runtime_mask_NAME` the 32-bit
and `runtime_shift_NAME` the 8-bit ones, that shall hold the value of the variable NAME (linux,
arch/x86/include/asm/runtime-const.h).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .code import Placed
from .live import Live
from .region import NONE, Region, Ruling, Wrong, windows
from .tables import RUNTIME, Tables

WIDTHS = {"ptr": 8, "mask": 4, "shift": 1}


def ruling(region: Region, tables: Tables, live: Live) -> Ruling:
    """Each constant is the value of its variable; of one that is none, the same everywhere."""
    starts, sizes, wrong = [NONE], [NONE], []
    sites = altered = 0
    for section, width, name in _sections(tables):
        places = tables.places(section.name)
        places = places[region.inside(places, width)]
        offsets = region.offsets(places)
        widths = np.full(len(places), width, np.int64)
        rows = windows(region.found, offsets, width)
        value = live.words.get(tables.code.names.by_name.get(name, 0))
        if value is None and len(rows):
            value = int.from_bytes(rows[0].tobytes(), "little")
        should = ((value or 0) & (2 ** (8 * width) - 1)).to_bytes(width, "little")
        fine = (rows == np.frombuffer(should, np.uint8)).all(axis=1)
        wrong += [Wrong(int(p), width, f"not the value of {name}") for p in places[~fine]]
        starts.append(offsets[fine])
        sizes.append(widths[fine])
        sites += len(places)
        altered += int(region.altered(offsets, widths).sum())
    spans = np.concatenate(starts), np.concatenate(sizes)
    return Ruling("constant", sites, altered, *spans, tuple(wrong))


def variables(tables: Tables) -> set[int]:
    """The addresses of the variables whose values are in the code."""
    by_name = tables.code.names.by_name
    return {by_name[name] for _, _, name in _sections(tables) if name in by_name}


def _sections(tables: Tables) -> Iterator[tuple[Placed, int, str]]:
    for section in tables.code.sections:
        kind, _, name = section.name.removeprefix(RUNTIME).partition("_")
        if section.name.startswith(RUNTIME) and kind in WIDTHS:
            yield section, WIDTHS[kind], name
