"""Instruction-by-instruction comparison, for code whose layout differs and meaning does not.

Our object has every function in a section of its own, the shipped one has them in one `.text`.
That changes two things that are no difference in the code:

    short jumps   a jump to another function of the unit is `jmp rel32` with a relocation here; in
                  one section the assembler knows the distance, and uses `jmp rel8` where it can
    nops          loops are aligned within the section, so the padding before them differs

Both sides are decoded in parallel. Every instruction must be the same but for those; branches
within the function must lead to the same instruction on both sides. A nop only counts as padding
when it is one run that ends at a multiple of 8, is written as the assembler pads, and is no
jump-label site: those nops are code.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from iced_x86 import Code, Decoder, FlowControl, Instruction, Mnemonic, OpKind

from .blocks import Block

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]

NOP2 = b"\x66\x90"
NOP5 = b"\x0f\x1f\x44\x00\x00"
CALL = 0xE8
_BRANCHES = (FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH)
_NEAR = (OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64)


@dataclass(frozen=True)
class Alignment:
    """How a block lies over the shipped code.

    `offset` is where each field of the block is in the shipped code, `used` which of them mean
    something there, `size` how long the shipped code is. `short` maps a field to the target of the
    short jump that is shipped in its place (relative to the function). `sites` is where each jump
    label of the block is. `where` tells the place of each instruction of the block, unless it is
    empty: then the layout is the same. `padding` are the nops that only the shipped code has.
    """

    offset: I64
    used: Bool
    size: int
    short: dict[int, int]
    sites: tuple[int, ...]
    explained: tuple[str, ...]
    where: dict[int, int] = field(default_factory=dict)
    padding: dict[int, int] = field(default_factory=dict)

    def leads_to(self, ours: int, theirs: int) -> bool:
        """Whether offset `ours` in the block is offset `theirs` in the shipped code."""
        while theirs in self.padding:
            theirs = self.padding[theirs]
        return theirs == (self.where.get(ours) if self.where else ours)


@dataclass(frozen=True)
class Misaligned:
    """The first instruction that is another one: where it is on both sides, and the reason."""

    offset: int
    shipped: int
    reason: str


class _Side(NamedTuple):
    """One decoded instruction, compared by what is left when branches are taken out."""

    start: int
    end: int
    mnemonic: int
    nop: bool
    target: int | None  # of a direct branch
    code: bytes


class _Decoded:
    """Instructions one at a time, from either side."""

    def __init__(self, code: U8) -> None:
        self.raw = code.tobytes()
        self.decoder = Decoder(64, self.raw, ip=0)
        self.instruction = Instruction()
        self.current: _Side | None = None

    def next(self) -> _Side | None:
        """The current instruction; `advance` goes on to the next."""
        if self.current is None and self.decoder.can_decode:
            self.decoder.decode_out(self.instruction)
            found = self.instruction
            start, end = found.ip, found.next_ip
            direct = (
                (found.flow_control in _BRANCHES or found.flow_control == FlowControl.CALL)
                and found.op_count > 0
                and found.op0_kind in _NEAR
            )
            target = _signed(found.near_branch_target) if direct else None
            nop = found.mnemonic == Mnemonic.NOP and found.code != Code.INVALID
            self.current = _Side(start, end, found.mnemonic, nop, target, self.raw[start:end])
        return self.current

    def skip_padding(self, base: int, labels: tuple[int, ...], skipped: dict[int, int]) -> bool:
        """Leaves a run of padding behind, if one starts here; notes its nops in `skipped`."""
        first = self.current
        if first is None or not first.nop or first.start in labels:
            return False
        run: list[_Side] = []
        while (nop := self.next()) is not None and nop.nop and nop.start not in labels:
            run.append(nop)
            self.advance()
            if (base + nop.end) % 8 == 0:
                break
        end = run[-1].end
        # Up to 15 bytes, as few long nops; many short ones are room for an alternative.
        fits = (base + end) % 8 == 0 and end - first.start < 16 and len(run) <= 2
        if fits:
            skipped.update({nop.start: nop.end for nop in run})
        else:
            self.current = first
            self.decoder.position = first.end
            self.decoder.ip = first.end
        return fits

    def advance(self) -> None:
        """Leaves the current instruction behind."""
        self.current = None


@dataclass
class _State:
    """What the walk has found so far."""

    offset: I64
    used: Bool
    where: dict[int, int] = field(default_factory=dict)  # our instruction -> theirs
    skipped: dict[int, int] = field(default_factory=dict)  # our skipped nop -> its end
    skipped_theirs: dict[int, int] = field(default_factory=dict)
    branches: list[tuple[int, int, int, int]] = field(default_factory=list)
    short: dict[int, int] = field(default_factory=dict)
    relaxed: int = 0
    labels: int = 0
    fentry: int = 0


def align(block: Block, found: U8, place: int, labels: tuple[int, ...]) -> Alignment | Misaligned:
    """Lays `block` over the shipped code `found`, instruction by instruction.

    `place` is where `found` is shipped, `labels` the offsets of the jump-label sites in it.
    """
    fields = block.fields
    state = _State(fields.offset.copy(), np.ones(len(fields.offset), np.bool_))
    at_field = {int(o): k for k, o in enumerate(fields.offset.tolist())}
    ours, theirs = _Decoded(block.code), _Decoded(found)
    while (mine := ours.next()) is not None:
        other = theirs.next()
        if other is None:
            if not mine.nop:
                return Misaligned(mine.start, len(found), "the shipped code ends early")
            state.skipped[mine.start] = mine.end
            ours.advance()
            continue
        inside = [k for o in range(mine.start, mine.end) if (k := at_field.get(o)) is not None]
        if _same(block, mine, other, inside, state):
            state.where[mine.start] = other.start
            ours.advance()
            theirs.advance()
        elif not (
            ours.skip_padding(block.start, block.jump_labels, state.skipped)
            or theirs.skip_padding(place, labels, state.skipped_theirs)
        ):
            return Misaligned(mine.start, other.start, "the code differs")
    last = theirs.current.start if theirs.current else theirs.decoder.position
    return _branches_agree(block, state, last)


def rewritten_label(ours: bytes, theirs: bytes) -> bool:
    """Whether two different instructions at a jump-label site are its `jmp` and its nop."""
    if ours == theirs or len(ours) != len(theirs) or not ours:
        return False
    nop, jump = (NOP2, 0xEB) if len(ours) == 2 else (NOP5, 0xE9)
    return (ours == nop and theirs[0] == jump) or (theirs == nop and ours[0] == jump)


def _same(block: Block, mine: _Side, other: _Side, inside: list[int], state: _State) -> bool:
    """Whether two instructions are one; notes where its fields are, or what it branches to."""
    if mine.start in block.jump_labels and rewritten_label(mine.code, other.code):
        state.labels += 1
        state.used[inside] = False
        return True
    if mine.start == block.fentry and mine.code[0] == CALL and other.code == NOP5:
        state.fentry += 1
        state.used[inside] = False
        return True
    if mine.target is not None and other.target is not None and mine.mnemonic == other.mnemonic:
        return _same_branch(mine, other, inside, state)
    if len(mine.code) != len(other.code):
        return False
    compared = block.compared[mine.start : mine.end].tolist()
    pairs = zip(mine.code, other.code, compared, strict=True)
    if any(a != b for a, b, checked in pairs if checked):
        return False
    for k in inside:
        state.offset[k] += other.start - mine.start
    return True


def _same_branch(mine: _Side, other: _Side, inside: list[int], state: _State) -> bool:
    assert mine.target is not None and other.target is not None
    if not inside:
        state.branches.append((mine.start, other.start, mine.target, other.target))
        state.relaxed += len(mine.code) != len(other.code)
    elif len(mine.code) == len(other.code):
        for k in inside:
            state.offset[k] += other.start - mine.start
    elif len(other.code) < len(mine.code) and len(inside) == 1:
        state.short[inside[0]] = other.target
        state.offset[inside[0]] = -8  # nowhere: no field is shipped for it
        state.relaxed += 1
    else:
        return False
    return True


def _branches_agree(block: Block, state: _State, end: int) -> Alignment | Misaligned:
    """Checks that branches without a relocation lead to the same instruction on both sides."""
    sites = tuple(state.where.get(at, -1) for at in block.jump_labels)
    where = {**state.where, block.size: end}
    for start in sorted(state.skipped, reverse=True):  # a nop stands for what comes behind it
        where[start] = where[state.skipped[start]]
    aligned = Alignment(
        state.offset, state.used, end, state.short, sites, (), where, state.skipped_theirs
    )
    for start, other, target, their_target in state.branches:
        if 0 <= target < block.size:
            if not aligned.leads_to(target, their_target):
                return Misaligned(start, other, "a branch leads elsewhere")
        elif target != their_target:
            # to another function of the same section, which must be laid out the same
            return Misaligned(start, other, "a branch leads to another place of the section")
    notes = (
        (state.labels, "jump-label sites"),
        (state.fentry, "fentry call is a nop"),
        (state.relaxed, "short jumps"),
        (len(state.skipped) + len(state.skipped_theirs), "alignment nops"),
    )
    explained = tuple(f"{n} {what}" if what[-1] == "s" else what for n, what in notes if n)
    return replace(aligned, explained=explained)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
