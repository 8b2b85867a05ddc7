"""Places with variants (alternatives, paravirt calls, retpolines), judged by what their code does.

The kernel writes a variant in a form of its own: jumps become short, no-operations long, distances
are those of the new place. So the bytes there and each variant are both decoded into what they
mean (`meaning`), in which all this is gone, and compared. Sites that overlap are judged together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from iced_x86 import Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register

from .code import I64, U8, Code
from .live import REGISTERS, Live
from .region import Region, Ruling, Wrong
from .tables import Tables

Meaning = tuple[tuple[object, ...], ...]
MOST_VARIANTS = 64
NOPS = frozenset(
    bytes.fromhex(code)
    for code in ("90", "0f1f00", "0f1f4000", "0f1f440000", "0f1f8000000000", "0f1f840000000000")
)
LFENCE = bytes.fromhex("0faee8")


@dataclass(frozen=True)
class Choice:
    """A replacement for `size` bytes at `place`: code that is linked to `home`."""

    place: int
    size: int
    code: bytes
    home: int


@dataclass(frozen=True)
class Cluster:
    """Bytes that one or more overlapping sites cover, with their replacements in order."""

    start: int
    end: int
    choices: tuple[Choice, ...]


def ruling(region: Region, tables: Tables, live: Live) -> Ruling:
    """Judges every site with variants in a region."""
    starts, sizes = _spans(region, tables)
    firsts, ends = _merged(starts, sizes)
    altered = region.altered(firsts, ends - firsts)
    choices = _choices(tables)
    fine = ~altered
    wrong = []
    for number in np.nonzero(altered)[0].tolist():
        start, end = region.address + int(firsts[number]), region.address + int(ends[number])
        cluster = Cluster(start, end, _within(choices, start, end))
        if decide(cluster, region, live):
            fine[number] = True
        else:
            wrong.append(Wrong(start, end - start, "none of the variants that belong there"))
    return Ruling(
        "alternative",
        len(starts),
        int(region.altered(starts, sizes).sum()),
        firsts[fine],
        (ends - firsts)[fine],
        tuple(wrong),
    )


def decide(cluster: Cluster, region: Region, live: Live) -> bool:
    """Whether the bytes of a cluster are one of its variants."""
    at, size = cluster.start - region.address, cluster.end - cluster.start
    found = region.found[at : at + size].tobytes()
    variants = {region.shipped[at : at + size].tobytes(): None}
    for choice in cluster.choices:
        code = moved(choice.code, choice.home, choice.place)
        code += b"\x90" * (choice.size - len(code))
        offset = choice.place - cluster.start
        for variant in [*variants]:
            if len(variants) < MOST_VARIANTS:
                variants[variant[:offset] + code + variant[offset + len(code) :]] = None
    if found in variants:
        return True
    means = meaning(found, cluster.start, live)
    return any(meaning(variant, cluster.start, live) == means for variant in variants)


def moved(code: bytes, home: int, place: int) -> bytes:
    """Code linked to `home` as it must be at `place`, to do the same; pure.

    Distances inside the code stay.
    """
    if home == place or not code:
        return code
    out = bytearray(code)
    for instruction in Decoder(64, code, ip=home):
        if instruction.is_invalid:
            break
        target = _target(instruction)
        if target is None or home <= target <= home + len(code):
            continue
        end = instruction.next_ip - home
        for field in range(end - 4, instruction.ip - home, -1):  # an immediate may follow it
            distance = int.from_bytes(out[field : field + 4], "little", signed=True)
            if (instruction.next_ip + distance - target) & 0xFFFFFFFFFFFFFFFF == 0:
                new = (distance + home - place) & 0xFFFFFFFF
                out[field : field + 4] = new.to_bytes(4, "little")
                break
    return bytes(out)


def meaning(code: bytes, address: int, live: Live) -> Meaning:
    """What code does, without the choices an assembler or the kernel has in writing it; pure."""
    return tuple(_without_fences(list(_meanings(code, address, live))))


def _without_fences(steps: list[tuple[object, ...]]) -> Iterator[tuple[object, ...]]:
    """A fence right before an indirect branch belongs to the way the branch is made."""
    for step, after in zip(steps, [*steps, ("",)][1:], strict=True):
        if step != ("code", LFENCE) or after[0] not in ("icall", "ijmp"):
            yield step


def _meanings(code: bytes, address: int, live: Live) -> Iterator[tuple[object, ...]]:
    decoder = Decoder(64, code, ip=address)
    skipped_to = address
    instruction = Instruction()
    while decoder.can_decode:
        decoder.decode_out(instruction)
        at, end = instruction.ip - address, instruction.next_ip - address
        if instruction.ip < skipped_to or idle(code[at:end]):
            continue
        if instruction.is_invalid:
            yield ("code", code[at:])
            return
        target = _target(instruction)
        if instruction.mnemonic == Mnemonic.JMP and _leaps(code, end, target, address):
            skipped_to = target or 0
            continue
        step = _step(instruction, code[at:end], target, live)
        if step is not None:
            yield step


def idle(instruction: bytes) -> bool:
    """Whether an instruction is a breakpoint or one of the no-operations that kernels are made of.

    Those have no displacement; another one has been tampered with.
    """
    return instruction == b"\xcc" or instruction.lstrip(b"\x66\x2e") in NOPS


def _leaps(code: bytes, end: int, target: int | None, address: int) -> bool:
    """Whether a jump that ends at `end` does nothing but leap over no-operations."""
    if target is None or not end <= target - address <= len(code):
        return False
    code = code[end : target - address]
    return all(
        idle(code[i.ip : i.next_ip])
        or (i.mnemonic == Mnemonic.JMP and i.next_ip <= (_target(i) or 0) <= len(code))
        for i in Decoder(64, code)
    )


def _step(
    instruction: Instruction, raw: bytes, target: int | None, live: Live
) -> tuple[object, ...] | None:
    """One instruction; None for a call that leads to nothing."""
    flow = instruction.flow_control
    kind = {FlowControl.CALL: "call", FlowControl.UNCONDITIONAL_BRANCH: "jmp"}.get(flow)
    if flow == FlowControl.RETURN and len(raw) <= 2:
        return ("ret",)
    if kind is not None and target is not None:
        if target in live.indirect_thunks:
            return (f"i{kind}", live.indirect_thunks[target])
        if kind == "jmp" and target in live.return_thunks:
            return ("ret",)
        return (kind, target)
    if flow == FlowControl.CONDITIONAL_BRANCH and target is not None:
        return (instruction.mnemonic, target)
    if flow in (FlowControl.INDIRECT_CALL, FlowControl.INDIRECT_BRANCH):
        kind = "call" if flow == FlowControl.INDIRECT_CALL else "jmp"
        if instruction.op0_kind == OpKind.REGISTER:
            return (f"i{kind}", _REGISTER_NAMES.get(instruction.op0_register))
        slot = _slot(instruction)
        if slot in live.pv_ops:
            function = live.words.get(slot)
            if function in live.pv_nops:
                return None
            return (kind, live.pv_bug if function == 0 else function)
    if target is not None:  # a memory operand that is relative to the instruction
        return ("code", _blanked(raw, instruction, target), target)
    return ("code", raw[1:] if raw[0] in (0xF0, 0x3E) else raw)


def _target(instruction: Instruction) -> int | None:
    """What a relative branch or a relative memory operand leads to."""
    if instruction.op0_kind in (OpKind.NEAR_BRANCH64, OpKind.NEAR_BRANCH32):
        return int(instruction.near_branch_target)
    if instruction.is_ip_rel_memory_operand:
        return int(instruction.ip_rel_memory_address)
    return None


def _slot(instruction: Instruction) -> int | None:
    """The address of a memory operand that has neither base nor index."""
    if instruction.is_ip_rel_memory_operand:
        return int(instruction.ip_rel_memory_address)
    if instruction.memory_base == Register.NONE and instruction.memory_index == Register.NONE:
        return int(instruction.memory_displacement)
    return None


def _blanked(raw: bytes, instruction: Instruction, target: int) -> bytes:
    """An instruction without the distance in it."""
    distance = (target - instruction.next_ip) & 0xFFFFFFFF
    return raw.replace(distance.to_bytes(4, "little"), b"\0\0\0\0", 1)


def _spans(region: Region, tables: Tables) -> tuple[I64, I64]:
    """Offset and size of every site with variants that lies in the region, ascending."""
    retpolines = tables.places(".retpoline_sites")
    retpolines = retpolines[region.inside(retpolines, 6)]
    paravirt, lengths = tables.paravirt
    pairs = [
        (tables.alternatives.places, tables.alternatives.sizes),
        (paravirt, lengths),
        (retpolines, _lengths(region.shipped, region.offsets(retpolines))),
    ]
    places = np.concatenate([p for p, _ in pairs])
    sizes = np.concatenate([s for _, s in pairs]).astype(np.int64)
    fits = (sizes > 0) & (places >= np.uint64(region.address))
    last = np.uint64(region.address + len(region.shipped))
    fits &= places + sizes.astype(np.uint64) <= last
    offsets, sizes = region.offsets(places[fits]), sizes[fits]
    order = np.argsort(offsets, kind="stable")
    return offsets[order], sizes[order]


def _lengths(code: U8, offsets: I64) -> I64:
    """The sizes of branches to thunks: call and jmp take 5 bytes, 6 with a prefix, jcc 6."""
    first = code[offsets]
    return np.where((first == 0xE8) | (first == 0xE9), 5, 6).astype(np.int64)


def _merged(starts: I64, sizes: I64) -> tuple[I64, I64]:
    """Starts and ends of spans, those that overlap as one; `starts` is ascending."""
    if not len(starts):
        return starts, starts
    reach = np.maximum.accumulate(starts + sizes)
    opens = np.r_[True, starts[1:] >= reach[:-1]]
    closes = np.r_[np.nonzero(opens)[0][1:] - 1, len(starts) - 1]
    return starts[opens], reach[closes]


@dataclass(frozen=True)
class _Choices:
    """All replacements by place, stable in the table's order."""

    code: Code
    places: np.ndarray[tuple[int], np.dtype[np.uint64]]
    order: I64
    tables: Tables


def _choices(tables: Tables) -> _Choices:
    order = np.argsort(tables.alternatives.places, kind="stable")
    return _Choices(tables.code, tables.alternatives.places[order], order, tables)


def _within(choices: _Choices, start: int, end: int) -> tuple[Choice, ...]:
    """The replacements of a cluster, in the order in which the kernel applies them."""
    bounds = np.array([start, end], np.uint64)
    first, last = np.searchsorted(choices.places, bounds, "left")
    table = choices.tables.alternatives
    found = []
    for row in sorted(choices.order[first:last].tolist()):
        home, size = int(table.replacements[row]), int(table.replaced[row])
        code = choices.code.read(home, size).tobytes() if size else b""
        found.append(Choice(int(table.places[row]), int(table.sizes[row]), code, home))
    return tuple(found)


_REGISTER_NAMES = {getattr(Register, name.upper()): name for name in REGISTERS}
