"""Small pieces of code in memory, for the tests of the judgements."""

from __future__ import annotations

import numpy as np

from rebootless.integrity.code import Code, Names, Placed
from rebootless.integrity.compare import Verdict, compare
from rebootless.integrity.layouts import FIXED, Layout
from rebootless.integrity.live import Live
from rebootless.integrity.region import Region
from rebootless.integrity.tables import Tables

BASE = 0xFFFFFFFF81000000
TABLES = BASE + 0x100000
ALT = Layout(12, {"instr_offset": 0, "repl_offset": 4, "cpuid": 8, "instrlen": 10,
                  "replacementlen": 11})  # fmt: skip


def array(code: bytes) -> np.ndarray:
    return np.frombuffer(code, np.uint8)


def branch(opcode: int, place: int, target: int) -> bytes:
    """A 5-byte call or jmp."""
    return bytes([opcode]) + (target - place - 5).to_bytes(4, "little", signed=True)


def distance(place: int, target: int) -> bytes:
    return (target - place).to_bytes(4, "little", signed=True)


def make(
    shipped: bytes,
    found: bytes,
    sections: dict[str, tuple[int, bytes]] | None = None,
    names: dict[str, int] | None = None,
) -> tuple[Region, Code, Tables]:
    """Code at BASE, further sections at their addresses, symbols."""
    assert len(shipped) == len(found)
    placed = [Placed(".text", BASE, array(shipped), stays=True)]
    placed += [Placed(n, a, array(b), stays=False) for n, (a, b) in (sections or {}).items()]
    listed = sorted({"start": BASE, **(names or {})}.items(), key=lambda pair: pair[1])
    addresses = np.array([a for _, a in listed], np.uint64)
    code = Code("vmlinux", tuple(placed), Names(addresses, [n for n, _ in listed]))
    tables = Tables(code, {**FIXED, "alt_instr": ALT})
    return Region(BASE, array(shipped), array(found)), code, tables


NOTHING = Live()
PAD = b"\x90" * 11  # so that no site is at the very end


def judged(
    shipped: bytes,
    found: bytes,
    sections: dict[str, tuple[int, bytes]] | None = None,
    live: Live = NOTHING,
    names: dict[str, int] | None = None,
) -> Verdict:
    region, code, tables = make(shipped + PAD, found + PAD, sections, names)
    return compare(code, tables, [region], live)
