"""A function's code as instructions, with symbols for what is relocated (AT&T syntax, iced-x86).

The bytes of a relocated field are zero in an object. They are overwritten with a number that
stands out, and where that number comes up in the formatted text, the symbol takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass

from iced_x86 import Code, Decoder, FlowControl, Formatter, FormatterSyntax, Mnemonic
from iced_x86 import Instruction as Decoded

from ..elf.constants import RELOC_WIDTH, Reloc
from ..elf.model import ElfFile, Symbol
from .facts import Instruction
from .targets import Target, Use, kind_name, resolve

_BRANCHES = frozenset(
    {FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH, FlowControl.CALL}
)


@dataclass(frozen=True)
class Body:
    """A function's code: its instructions, and what its relocations point at, in order."""

    instructions: tuple[Instruction, ...] = ()
    uses: tuple[Use, ...] = ()


def disassemble(elf: ElfFile, function: Symbol) -> Body:
    """The code of a function symbol of a relocatable object."""
    section = elf.sections[function.shndx]
    start, end = function.value, function.value + function.size
    relocs = elf.relocations(section)
    inside = range(*relocs.within(start, end).indices(len(relocs)))
    code = bytearray(section.data[start:end])
    fields = relocs.offset[inside.start : inside.stop].tolist()
    for number, (at, position) in enumerate(zip(fields, inside, strict=True)):
        width = RELOC_WIDTH.get(_reloc(int(relocs.type[position])), 0)
        if width >= 4 and at - start + width <= len(code):
            marker = _marker(number).to_bytes(width, "little")
            code[at - start : at - start + width] = marker
    formatter = _formatter()
    found: list[Instruction] = []
    uses: list[Use] = []
    for decoded in Decoder(64, bytes(code), ip=0):
        targets: list[tuple[int, Target]] = []
        end_of = int(decoded.next_ip)
        while len(uses) < len(fields) and fields[len(uses)] - start < end_of:
            number = len(uses)
            at, position = fields[number] - start, inside[number]
            kind, symbol = int(relocs.type[position]), int(relocs.symbol[position])
            target = resolve(elf, symbol, kind, int(relocs.addend[position]), end_of - at)
            targets.append((_marker(number), target))
            uses.append(Use(at, kind_name(kind), target, decoded.flow_control in _BRANCHES))
        found.append(_instruction(formatter, decoded, targets, function.size))
    return Body(tuple(found), tuple(uses))


def _marker(number: int) -> int:
    """What the n-th relocated field holds: plus an address in the function it is no other's."""
    return 0x10AF0000 + (number % 64 << 20)


def _reloc(kind: int) -> Reloc:
    try:
        return Reloc(kind)
    except ValueError:
        return Reloc.NONE


def _formatter() -> Formatter:
    formatter = Formatter(FormatterSyntax.GAS)
    formatter.uppercase_hex = False
    formatter.hex_prefix = "0x"
    formatter.branch_leading_zeros = False
    formatter.small_hex_numbers_in_decimal = False
    formatter.space_after_operand_separator = True
    formatter.signed_immediate_operands = True
    return formatter


def _instruction(
    formatter: Formatter, decoded: Decoded, targets: list[tuple[int, Target]], size: int
) -> Instruction:
    text = formatter.format(decoded) if decoded.code != Code.INVALID else "(bad)"
    offset = int(decoded.ip)
    if not targets:
        near = decoded.flow_control in _BRANCHES and decoded.near_branch_target
        if near and near < size:
            place = int(near)
            shown = text.replace(f"{place:#x}", f"+{place:#x}")
            return Instruction(offset, shown, text.replace(f"{place:#x}", "+"), place)
        # How long a no-operation is follows from where it is: alignment.
        return Instruction(offset, text, "nop" if decoded.mnemonic == Mnemonic.NOP else text)
    shown = key = text
    for marker, target in targets:
        relative = int(decoded.next_ip) + marker
        is_memory = decoded.is_ip_rel_memory_operand
        for number, suffix in ((marker, ""), (relative, "(%rip)" if is_memory else "")):
            shown = shown.replace(f"{number:#x}", target.text + suffix)
            key = key.replace(f"{number:#x}", target.key + suffix)
    return Instruction(offset, shown, key)
