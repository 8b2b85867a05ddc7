"""The places that the kernel rewrites by itself, as the shipped tables name them.

    section                      place                       what the kernel may do there
    .altinstructions             one of several variants     by the processor's features, at boot
    .parainstructions            a call through pv_ops       a direct call, or nothing, at boot
    .retpoline_sites             a call of an indirect thunk the indirect call itself, at boot
    .return_sites                a jump to the return thunk  a return, another thunk, at boot
    .ibt_endbr_seal              a landing pad               a no-operation, at boot
    runtime_*                    a constant                  its value, at boot
    .smp_locks                   a lock prefix               none, with one processor
    __jump_table                 a static branch             a jump or no-operation, at any time
    .static_call_sites           a static call               another target, at any time
    __mcount_loc                 a function's fentry         a call of ftrace, at any time

(linux, arch/x86/kernel/alternative.c, jump_label.c, static_call.c, ftrace.c.) In the kernel proper
the last three lie between pairs of symbols, in modules in sections of those names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..base.errors import ElfError
from .code import I64, U8, U64, Code
from .layouts import ALTERNATIVES, Layout

PAIRS = {
    "__jump_table": ("__start___jump_table", "__stop___jump_table"),
    ".static_call_sites": ("__start_static_call_sites", "__stop_static_call_sites"),
    ".static_call_tramp_key": ("__start_static_call_tramp_key", "__stop_static_call_tramp_key"),
    "__mcount_loc": ("__start_mcount_loc", "__stop_mcount_loc"),
}
RUNTIME = "runtime_"  # what the names of sections about constants begin with
KEY_FLAGS = 3  # the low bits of a key's address


@dataclass(frozen=True)
class Alternatives:
    """Alternatives in the table's order; `features` are its numbers, with the flags in them."""

    places: U64
    sizes: I64
    replacements: U64
    replaced: I64
    features: I64


@dataclass(frozen=True)
class Labels:
    """Static branches: `branches` tells which jump while their key is off."""

    places: U64
    targets: U64
    keys: U64
    branches: U8


@dataclass(frozen=True)
class StaticCalls:
    """Calls and tail calls whose target a key holds."""

    places: U64
    keys: U64
    tails: U8


@dataclass(frozen=True)
class Tables:
    """What the tables of one object name, by running address."""

    code: Code
    layouts: Mapping[str, Layout]

    @cached_property
    def alternatives(self) -> Alternatives:
        """`.altinstructions`."""
        data, address = self._table(".altinstructions")
        layout = self.layouts.get("alt_instr")
        if layout is None and len(data):
            raise ElfError(f"{self.code.name}: .altinstructions is laid out in an unknown way")
        layout = layout or ALTERNATIVES[0]
        rows = _rows(data, layout.size)
        offsets = layout.offsets
        flags = offsets["repl_offset"] + 4
        feature = rows[:, flags : offsets["instrlen"]].astype(np.int64)
        weights = 1 << (8 * np.arange(feature.shape[1], dtype=np.int64))
        return Alternatives(
            _relative(rows, layout, "instr_offset", address),
            rows[:, offsets["instrlen"]].astype(np.int64),
            _relative(rows, layout, "repl_offset", address),
            rows[:, offsets["replacementlen"]].astype(np.int64),
            feature @ weights,
        )

    @cached_property
    def paravirt(self) -> tuple[U64, I64]:
        """`.parainstructions`: places and sizes."""
        layout = self.layouts["paravirt_patch_site"]
        rows = _rows(self._table(".parainstructions")[0], layout.size)
        places = _field(rows, layout.offsets["instr"], "<u8")
        return places, rows[:, layout.offsets["len"]].astype(np.int64)

    @cached_property
    def labels(self) -> Labels:
        """`__jump_table`."""
        layout = self.layouts["jump_entry"]
        data, address = self._table("__jump_table")
        rows = _rows(data, layout.size)
        keys = _relative(rows, layout, "key", address, kind="<i8")
        return Labels(
            _relative(rows, layout, "code", address),
            _relative(rows, layout, "target", address),
            keys & ~np.uint64(KEY_FLAGS),
            (keys & np.uint64(1)).astype(np.uint8),
        )

    @cached_property
    def static_calls(self) -> StaticCalls:
        """`.static_call_sites`; a trampoline instead of a key (modules) stands for itself."""
        layout = self.layouts["static_call_site"]
        data, address = self._table(".static_call_sites")
        rows = _rows(data, layout.size)
        places = _relative(rows, layout, "addr", address)
        keys = _relative(rows, layout, "key", address)
        tails = (keys & np.uint64(1)).astype(np.uint8)
        return StaticCalls(places, keys & ~np.uint64(KEY_FLAGS), tails)

    @cached_property
    def trampoline_keys(self) -> dict[int, int]:
        """Static calls' keys by trampoline, of those that modules may use without the key."""
        layout = self.layouts["static_call_tramp_key"]
        data, address = self._table(".static_call_tramp_key")
        rows = _rows(data, layout.size)
        places = _relative(rows, layout, "tramp", address) & ~np.uint64(KEY_FLAGS)
        return dict(
            zip(places.tolist(), _relative(rows, layout, "key", address).tolist(), strict=True)
        )

    @cached_property
    def fentries(self) -> U64:
        """`__mcount_loc`: the calls of __fentry__, ascending."""
        return np.sort(_field(_rows(self._table("__mcount_loc")[0], 8), 0, "<u8"))

    def places(self, section: str) -> U64:
        """The places that a table of 32-bit distances from its own entries names."""
        found = self.code.section(section)
        if found is None:
            return np.empty(0, np.uint64)
        places = _relative(_rows(found.data, 4), _DISTANCE, "", found.address)
        own = np.uint64(found.address) + 4 * np.arange(len(places), dtype=np.uint64)
        return np.asarray(places[places != own])  # a distance of 0 is padding

    def _table(self, name: str) -> tuple[U8, int]:
        section = self.code.section(name)
        if section is not None:
            return section.data, section.address
        return self.code.between(*PAIRS[name]) if name in PAIRS else (np.empty(0, np.uint8), 0)


_DISTANCE = Layout(4, {"": 0})


def _rows(data: U8, size: int) -> U8:
    """A table as rows of bytes; an unpadded last entry is left out."""
    return data[: len(data) // size * size].reshape(-1, size)


def _field(rows: U8, offset: int, kind: str) -> U64:
    width = int(kind[-1])
    values = np.ascontiguousarray(rows[:, offset : offset + width]).view(kind).ravel()
    return values.astype(np.uint64)


def _relative(rows: U8, layout: Layout, name: str, address: int, *, kind: str = "<i4") -> U64:
    """What a field leads to that holds the distance from itself."""
    offset = layout.offsets[name]
    own = np.uint64(address + offset) + np.uint64(layout.size) * np.arange(
        len(rows), dtype=np.uint64
    )
    values = np.ascontiguousarray(rows[:, offset : offset + int(kind[-1])]).view(kind).ravel()
    return np.asarray(own + values.astype(np.int64).astype(np.uint64), np.uint64)
