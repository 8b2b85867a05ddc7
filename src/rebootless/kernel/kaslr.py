"""Where a kernel's code and data hold addresses, so that they can be moved as KASLR moves them.

A relocatable x86-64 kernel carries a list of such places behind its ELF file, in the same
compressed payload (linux, arch/x86/tools/relocs.c writes it and handle_relocations() in
arch/x86/boot/compressed/misc.c reads it from the end): 32-bit words, each the place's link-time
address cut to 32 bits, in groups that a zero starts:

    0 places of 64-bit addresses  [0 places of 32-bit distances to per-CPU data]
    0 places of 32-bit addresses

Newer kernels have no group in the middle (their per-CPU data lies where the rest does).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..base.errors import ElfError
from .image import KernelImage
from .kallsyms import KERNEL_BASE

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Relocations:
    """Link-time addresses of the fields that move with the kernel, ascending.

    `wide` are 64-bit, `narrow` 32-bit addresses; `inverse` are 32-bit distances from code to
    per-CPU data, which shrink by what the kernel moves.
    """

    wide: U64
    narrow: U64
    inverse: U64

    def __len__(self) -> int:
        return len(self.wide) + len(self.narrow) + len(self.inverse)

    def moved(self, code: U8, address: int, shift: int) -> U8:
        """The bytes that are linked to `address`, as they are in a kernel moved by `shift`."""
        moved = code.copy()
        for places, kind, by in (
            (self.wide, "<u8", shift),
            (self.narrow, "<u4", shift),
            (self.inverse, "<u4", -shift),
        ):
            width = int(kind[-1])
            end = max(address, address + len(code) - width + 1)
            first, last = np.searchsorted(places, np.array([address, end], np.uint64))
            offsets = (places[first:last] - np.uint64(address)).astype(np.int64)
            index = offsets[:, None] + np.arange(width)
            values = np.ascontiguousarray(moved[index]).view(kind).ravel()
            changed = values + np.array(by & (2 ** (8 * width) - 1)).astype(kind)
            moved[index] = changed.astype(kind).view(np.uint8).reshape(-1, width)
        return moved


def relocations(image: KernelImage) -> Relocations:
    """Reads the list of places from an image; empty for a kernel that cannot be moved.

    Raises ElfError when there is a list and it is none.
    """
    end = max((s.offset + len(s.data) for s in image.elf.sections), default=0)
    tail = image.elf.data[end:]
    words = np.frombuffer(tail[len(tail) % 4 :], "<u4")
    low, high = _bounds(image)
    groups: list[U64] = []
    last = len(words)
    while len(groups) < 3 and last > 0:
        zeros = np.nonzero(words[:last] == 0)[0]
        if not len(zeros):
            break
        group = words[int(zeros[-1]) + 1 : last].astype(np.int32).astype(np.int64).view(np.uint64)
        if len(group) and not (low <= int(group.min()) and int(group.max()) < high):
            break  # what stands before the list: the section headers
        if len(groups) == 2 and not len(group):
            break  # so do those, whose last words are zero
        groups.append(np.sort(group))
        last = int(zeros[-1])
    if not any(len(group) for group in groups):
        return Relocations(*(np.empty(0, np.uint64),) * 3)
    if len(groups) == 1 or not len(groups[-1]):
        raise ElfError(f"{image.path}: the list of places that hold addresses is damaged")
    # a kernel without the middle group has its section headers, or nothing, before the last one
    inverse = groups[1] if len(groups) == 3 else np.empty(0, np.uint64)
    return Relocations(groups[-1], groups[0], inverse)


def _bounds(image: KernelImage) -> tuple[int, int]:
    """Where the kernel begins and ends; its per-CPU data lies inside, though linked to 0."""
    placed = [s for s in image.elf.sections if s.is_alloc and s.addr >= KERNEL_BASE]
    return min((s.addr for s in placed), default=0), max(
        (s.addr + s.size for s in placed), default=0
    )
