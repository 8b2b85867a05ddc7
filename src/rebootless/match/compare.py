"""One block against one place of the shipped code: equal, or where it first differs, and why.

Besides relocated fields, some differences are legitimate; they are explained, never ignored:

    jump label   objtool turns `jmp` into a nop of the same length at the sites in __jump_table,
                 at unit or at link time: the object may still have the `jmp`
    fentry       objtool may have turned `call __fentry__` into a nop
    layout       short jumps and alignment nops, see relaxed.py
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..elf.constants import Reloc
from ..elf.model import ElfFile
from .blocks import NO_KEY, Block, Fields
from .relaxed import CALL, NOP5, Alignment, Misaligned, align, rewritten_label
from .shipped import Shipped, folded

Bool = npt.NDArray[np.bool_]
U64 = npt.NDArray[np.uint64]
U8 = npt.NDArray[np.uint8]

LARGEST_ITEM = 64  # bytes of a mergeable constant
SHOWN = 16  # bytes to show of a difference


@dataclass(frozen=True)
class Difference:
    """Where a block is not what is shipped: offset in the block, both sides' bytes, the reason."""

    offset: int
    expected: bytes
    found: bytes
    reason: str


@dataclass(frozen=True)
class Fit:
    """A place where a block's bytes are; `learned` maps keys to the places they must have.

    `explained` tells each legitimate difference.
    """

    place: int
    learned: dict[int, int]
    explained: tuple[str, ...]


def compare(elf: ElfFile, block: Block, shipped: Shipped, place: int) -> Fit | Difference:
    """Compares `block` of `elf` with what is shipped at `place`: byte by byte, and where that
    fails for code, instruction by instruction (see relaxed.py)."""
    if block.unsupported is not None:
        ours = block.code[block.unsupported : block.unsupported + SHOWN].tobytes()
        return Difference(block.unsupported, ours, b"", "a relocation of an unknown type")
    content = shipped.content(place, block.size)
    exact: Fit | Difference
    if content is None:
        exact = Difference(0, bytes(block.code[:SHOWN]), b"", "nothing is shipped there")
    else:
        exact = _exact(elf, block, shipped, place, np.frombuffer(content, np.uint8))
    if isinstance(exact, Fit) or not block.is_code:
        return exact
    # Short jumps and fewer nops may make the shipped code shorter, or longer.
    found = np.frombuffer(shipped.available(place, block.size * 2 + 64), np.uint8)
    aligned = align(block, found, place, shipped.jump_labels(place, len(found)))
    if isinstance(aligned, Misaligned):
        if content is not None and exact.offset >= aligned.offset:
            return exact
        theirs = found[aligned.shipped : aligned.shipped + SHOWN].tobytes()
        ours = block.code[aligned.offset : aligned.offset + SHOWN].tobytes()
        return Difference(aligned.offset, ours, theirs, aligned.reason)
    if not aligned.explained:
        return exact  # the instructions are the same: it is what they refer to that is not
    return _conclude(elf, block, shipped, place, found, aligned)


def _exact(elf: ElfFile, block: Block, shipped: Shipped, place: int, found: U8) -> Fit | Difference:
    compared, masked, explained = _explain(block, found)
    unequal = np.nonzero((block.code != found) & compared)[0]
    if len(unequal):
        reason = "the code differs" if block.is_code else "the data differs"
        return _difference(block, found, int(unequal[0]), reason)
    fields = block.fields
    used = ~np.isin(fields.offset, masked) if masked else np.ones(len(fields.offset), np.bool_)
    same = Alignment(fields.offset, used, block.size, {}, block.jump_labels, explained)
    return _conclude(elf, block, shipped, place, found, same)


def _conclude(
    elf: ElfFile, block: Block, shipped: Shipped, place: int, found: U8, aligned: Alignment
) -> Fit | Difference:
    """The bytes agree; compares what the relocated fields refer to, and learns from it."""
    fields, used = block.fields, aligned.used
    values, known = shipped.targets(place, aligned.offset, fields.type)
    for k, target in aligned.short.items():  # no field to read; S + A is 4 before the target
        values[k], known[k] = (place + target - 4) % (1 << 64), True
    unknown = np.nonzero(used & ~known)[0]
    if len(unknown):
        at = int(fields.offset[unknown[0]])
        return _difference(block, found, at, "a relocation is missing or of another type")
    stray = shipped.stray_relocation(place, aligned.size, aligned.offset)
    if stray is not None:
        return _difference(block, found, stray, "a relocation that the object does not have")
    bad = _pool_mismatch(elf, fields, used & fields.pool, values, shipped)
    if bad is not None:
        return _difference(block, found, *bad)
    learned = _learn(block, fields, used & ~fields.pool, values)
    if isinstance(learned, int):
        return _difference(block, found, learned, "two references to one symbol disagree")
    learned.setdefault(block.section.index, place - block.start)
    bad = _jump_labels(elf, block, shipped, place, aligned, learned)
    if bad is not None:
        return _difference(block, found, *bad)
    return Fit(place, learned, aligned.explained)


def _difference(block: Block, found: U8, offset: int, reason: str) -> Difference:
    part = slice(offset, offset + SHOWN)
    return Difference(offset, block.code[part].tobytes(), found[part].tobytes(), reason)


def _explain(block: Block, found: U8) -> tuple[Bool, list[int], tuple[str, ...]]:
    """The mask of compared bytes with legitimate differences taken out; the offsets of fields
    that mean nothing for that reason; the explanations."""
    if block.fentry is None and not block.jump_labels:
        return block.compared, [], ()
    compared = block.compared.copy()
    masked: list[int] = []
    labels = 0
    for at in block.jump_labels:
        length = 2 if block.code[at] in (0xEB, 0x66) else 5
        ours, theirs = (side[at : at + length].tobytes() for side in (block.code, found))
        if rewritten_label(ours, theirs):
            compared[at : at + length] = False
            masked.append(at + 1)
            labels += 1
    explained = [f"{labels} jump-label sites"] if labels else []
    if block.fentry is not None:
        at = block.fentry
        if block.code[at] == CALL and found[at : at + 5].tobytes() == NOP5:
            compared[at : at + 5] = False
            masked.append(at + 1)
            explained.append("fentry call is a nop")
    return compared, masked, tuple(explained)


def _learn(block: Block, fields: Fields, used: Bool, values: U64) -> dict[int, int] | int:
    """Key -> place, or the offset of a field that contradicts an earlier one."""
    offset = (fields.addend + fields.base).astype(np.uint64)
    places = (values - offset)[used].tolist()
    learned: dict[int, int] = {}
    for key, place, at in zip(
        fields.key[used].tolist(), places, fields.offset[used].tolist(), strict=True
    ):
        if key != NO_KEY and learned.setdefault(key, place) != place:
            return int(at)
    return learned


def _jump_labels(
    elf: ElfFile,
    block: Block,
    shipped: Shipped,
    place: int,
    aligned: Alignment,
    learned: dict[int, int],
) -> tuple[int, str] | None:
    """Compares the table entries of the jump labels, and learns where their keys are.

    Returns the offset and reason of the first that is another one.
    """
    strays = set(shipped.jump_labels(place, aligned.size)) - set(aligned.sites)
    if strays:
        return min(strays), "a jump label that the object does not have"
    for site, offset in zip(block.sites, aligned.sites, strict=True):
        at = site.offset - block.start
        entry = shipped.jump_entry(place + offset)
        if entry is None:
            return at, "is a jump label, and the shipped code is none"
        target, key = entry
        if _jump_target(shipped, place, offset) not in (None, target):
            return at, "a jump label that leads elsewhere than its table entry says"
        if site.target_section == block.section.index:
            same = aligned.leads_to(site.target - block.start, target - place)
        else:
            same = _may_be_in(elf, site.target_section, shipped, target)
        if not same:
            return at, "a jump label with another target"
        wanted = (key - site.key_offset) % (1 << 64)
        if site.key != NO_KEY and learned.setdefault(site.key, wanted) != wanted:
            return at, "a jump label with another key"
    return None


def _jump_target(shipped: Shipped, place: int, offset: int) -> int | None:
    """Where the `jmp` at `offset` leads to; None if a nop is shipped there."""
    code = bytes(shipped.available(place + offset, 5))
    if code[:1] == b"\xeb":
        return place + offset + 2 + int.from_bytes(code[1:2], "little", signed=True)
    if code[:1] != b"\xe9":
        return None
    values, _ = shipped.targets(place, np.array([offset + 1]), np.array([Reloc.PC32], np.uint32))
    return (int(values[0]) + 4) % (1 << 64)


def _may_be_in(elf: ElfFile, section: int, shipped: Shipped, place: int) -> bool:
    """Whether what is shipped at `place` is named as a function of a section of the object is."""
    ours = {folded(elf.symbols.names[i]) for i in elf.symbols_in_section.get(section, ())}
    there = shipped.name_at(place)
    if there is None:
        return False
    return bool(ours & {folded(n) for n in shipped.names_at(place - there.offset)})


def _pool_mismatch(
    elf: ElfFile, fields: Fields, used: Bool, values: U64, shipped: Shipped
) -> tuple[int, str] | None:
    """The first reference to a string or constant whose content is another one, if any."""
    for k in np.nonzero(used)[0].tolist():
        section = elf.sections[int(fields.pool_section[k])]
        offset = int(fields.pool_offset[k])
        wanted = pool_item(bytes(section.data), section.is_string_pool, section.entsize, offset)
        place = (int(values[k]) + int(fields.pool_delta[k])) % (1 << 64)
        found = shipped.content(place, len(wanted))
        if found is None or bytes(found) != wanted:
            shown = bytes(found)[:60] if found is not None else b""
            kind = "string" if section.is_string_pool else "constant"
            return int(fields.offset[k]), f"refers to the {kind} {shown!r}, not {wanted[:60]!r}"
    return None


def pool_item(data: bytes, strings: bool, entsize: int, offset: int) -> bytes:
    """The string (with its NUL) or the rest of the constant at `offset` of a mergeable section."""
    if not 0 < entsize <= LARGEST_ITEM:
        entsize = 1
    if strings:
        end = data.find(b"\0" * entsize, offset)
        while entsize > 1 and end >= 0 and (end - offset) % entsize:
            end = data.find(b"\0" * entsize, end + 1)
        return data[offset : end + entsize] if end >= 0 else data[offset:]
    return data[offset : (offset // entsize + 1) * entsize]
