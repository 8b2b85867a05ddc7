"""Which error values a function can return: constants of the range that IS_ERR_VALUE() means."""

from __future__ import annotations

import errno

from iced_x86 import Mnemonic, OpKind, RegisterExt

from .code import SIGNED, Body

# linux, include/linux/errno.h: values that user space never sees, and the kernel's own names.
_KERNEL = {
    95: "EOPNOTSUPP", 512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND",
    515: "ENOIOCTLCMD", 516: "ERESTART_RESTARTBLOCK", 517: "EPROBE_DEFER", 518: "EOPENSTALE",
    519: "ENOPARAM", 521: "EBADHANDLE", 522: "ENOTSYNC", 523: "EBADCOOKIE", 524: "ENOTSUPP",
    525: "ETOOSMALL", 526: "ESERVERFAULT", 527: "EBADTYPE", 528: "EJUKEBOX", 529: "EIOCBQUEUED",
    530: "ERECALLCONFLICT",
}  # fmt: skip
NAMES = {**errno.errorcode, **_KERNEL}
_NEAR = 4


def error_values(body: Body) -> frozenset[int]:
    """The error numbers (positive) whose negative a function loads as a value.

    What it compares with is not among them, nor -1 where it is the amount of an atomic addition.
    """
    found = set()
    for n, step in enumerate(body.steps):
        raw = step.raw
        if step.target is not None or raw.op_count != 2 or raw.op1_kind not in SIGNED:
            continue
        value = _signed(raw.immediate(1), 64 if raw.op1_kind == OpKind.IMMEDIATE64 else 32)
        if -value not in NAMES or not _is_value(body, n, value):
            continue
        found.add(-value)
    return frozenset(found)


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _is_value(body: Body, n: int, value: int) -> bool:
    raw = body.steps[n].raw
    to_register = raw.op0_kind == OpKind.REGISTER
    if raw.mnemonic == Mnemonic.MOV:
        if value != -1:
            return True
        return to_register and not _is_added(body, n)
    if raw.mnemonic == Mnemonic.OR:  # or $-1, %eax: a short way to load it
        return to_register and value == -1
    if raw.mnemonic == Mnemonic.AND and to_register and n:  # sbb %eax, %eax; and $-22, %eax
        before = body.steps[n - 1].raw
        return before.mnemonic == Mnemonic.SBB and before.op0_register == raw.op0_register
    return False


def _is_added(body: Body, n: int) -> bool:
    """Whether the register loaded by step `n` is the operand of an atomic addition soon after."""
    register = RegisterExt.full_register(body.steps[n].raw.op0_register)
    return any(
        step.raw.mnemonic == Mnemonic.XADD
        and RegisterExt.full_register(step.raw.op1_register) == register
        for step in body.steps[n + 1 : n + 1 + _NEAR]
    )


def named(values: frozenset[int]) -> str:
    """The values as the kernel's source writes them, in order of their numbers."""
    return ", ".join("-EPERM (or plain -1)" if v == 1 else f"-{NAMES[v]}" for v in sorted(values))
