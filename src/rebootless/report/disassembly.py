"""A function's code as instructions, with symbols for what is relocated (AT&T syntax, iced-x86).

The bytes of a relocated field are zero in an object. They are overwritten with a number that
stands out, and where that number comes up in the formatted text, the symbol takes its place.
"""

from __future__ import annotations

import re

from iced_x86 import Code, Decoder, FlowControl, Formatter, FormatterSyntax, Mnemonic
from iced_x86 import Instruction as Decoded

from ..elf.constants import RELOC_WIDTH, Reloc
from ..elf.model import ElfFile, Symbol
from .facts import Instruction
from .targets import Target, resolve

_MARKER = 0x1EAF0000  # the n-th relocated field of a function holds this plus 16 n
_BRANCHES = frozenset(
    {FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH, FlowControl.CALL}
)
_HEX = re.compile(r"0x[0-9a-f]+")


def disassemble(elf: ElfFile, function: Symbol) -> tuple[Instruction, ...]:
    """The instructions of a function symbol of a relocatable object, in order."""
    section = elf.sections[function.shndx]
    start, end = function.value, function.value + function.size
    relocs = elf.relocations(section)
    inside = range(*relocs.within(start, end).indices(len(relocs)))
    code = bytearray(section.data[start:end])
    fields: list[tuple[int, int]] = []  # (offset in the function, position in relocs)
    for number, position in enumerate(inside):
        at = int(relocs.offset[position]) - start
        width = RELOC_WIDTH.get(_reloc(int(relocs.type[position])), 0)
        if width >= 4 and at + width <= len(code):
            code[at : at + width] = (_MARKER + 16 * number).to_bytes(width, "little")
        fields.append((at, position))
    formatter = _formatter()
    found = []
    used = 0
    for decoded in Decoder(64, bytes(code), ip=0):
        targets: list[tuple[int, Target]] = []
        while used < len(fields) and fields[used][0] < decoded.next_ip:
            at, position = fields[used]
            target = resolve(
                elf,
                int(relocs.symbol[position]),
                int(relocs.type[position]),
                int(relocs.addend[position]),
                int(decoded.next_ip) - at,
            )
            targets.append((_MARKER + 16 * used, target))
            used += 1
        found.append(_instruction(formatter, decoded, targets, function.size))
    return tuple(found)


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
