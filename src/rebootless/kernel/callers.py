"""Who calls a function of the shipped vmlinux: its code is searched for calls and jumps to it."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from .image import KernelImage
from .symbols import SymbolIndex

_CALL, _JUMP = 0xE8, 0xE9
_LENGTH = 5  # of both instructions: an opcode and a 32-bit distance from their end


def direct_callers(
    image: KernelImage, symbols: SymbolIndex, addresses: Collection[int]
) -> dict[int, tuple[str, ...]]:
    """The functions whose code calls or tail-calls each of `addresses` (link-time), by name.

    What goes through a pointer is not seen, nor what modules do. Four bytes that only look like
    such an instruction would have to hold the very distance: one in a billion does.
    """
    found: dict[int, set[str]] = {address: set() for address in addresses}
    wanted = np.array(sorted(addresses), np.uint64)
    for section in image.elf.sections:
        if not (section.is_exec and section.is_alloc and len(section.data) >= _LENGTH):
            continue
        code = np.frombuffer(section.data, np.uint8)
        opcodes = code[: 1 - _LENGTH]
        at = np.nonzero((opcodes == _CALL) | (opcodes == _JUMP))[0]
        distance = np.zeros(len(at), np.uint32)
        for byte in range(4):
            distance |= code[at + 1 + byte].astype(np.uint32) << np.uint32(8 * byte)
        end = np.uint64(section.addr + _LENGTH) + at.astype(np.uint64)
        target = end + distance.view(np.int32).astype(np.uint64)  # a distance back wraps around
        for position in np.nonzero(np.isin(target, wanted))[0].tolist():
            symbol = symbols.covering(section.addr + int(at[position]))
            if symbol is not None:
                found[int(target[position])].add(symbol[0])
    return {address: tuple(sorted(names)) for address, names in found.items()}
