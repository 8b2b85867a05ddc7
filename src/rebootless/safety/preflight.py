"""What the shipped kernel says of the functions to be patched, before anything is loaded.

That each name stands for one address is proven by run-pre matching (match/); here the address is
taken as given.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..diff.delta import Finding
from ..diff.names import source_name
from ..elf.model import ElfFile
from .code import CodeUnit
from .entries import ENDBR, Entries
from .verdict import Verdict

JUMP = 5  # bytes of a jump to anywhere
_SITES = frozenset({"__jump_table", ".static_call_sites", ".altinstructions", "__ex_table",
                    ".parainstructions", "__bug_table", ".smp_locks", ".retpoline_sites",
                    ".return_sites", ".call_sites"})  # fmt: skip
# Symbols of the linker script, which share an address with whatever comes first or last.
_BOUNDARY = re.compile(r"_(?:start|end|begin)$|^_+s?e?text$|^_text$|^__\w+_text_\w+$")
# SYSCALL_DEFINE0() makes one function of several names, which is meant.
_SYSCALL = re.compile(r"^__(?:do|se|x64|ia32)_(?:compat_)?sys_")
_SHOWN = 4
_DELICATE = (".noinstr.text", ".entry.text", ".kprobes.text", ".cpuidle.text")


@dataclass(frozen=True)
class Target:
    """A function to be patched: its name in the object, and name and position in the kernel."""

    built: str
    name: str
    sympos: int


def check_entries(
    code: CodeUnit, targets: Sequence[Target], shipped: Entries, owner: str, *, ftrace: bool = True
) -> Verdict:
    """Whether an engine can redirect each function, and which other names it goes by.

    In a kernel with `ftrace`, through that; else by a jump, for which there must be room. That is
    the last way for a function that ftrace does not know, too, unless it `is_delicate`.
    """
    refused: list[Finding] = []
    warnings: list[Finding] = []
    for target in targets:
        entry = shipped.entry(target.name, target.sympos)
        if entry is None:
            continue  # run-pre matching or the resolver has said so
        if not ftrace and not has_room(code, target.built):
            refused.append(_no_room(target, owner))
        elif ftrace and entry.traced is False:
            finding = _not_traceable(code, target, owner)
            (warnings if finding.engine else refused).append(finding)
        own = _own_names(code.elf, target.built)
        others = [
            other
            for other in entry.names
            if _SYSCALL.sub("", other) != _SYSCALL.sub("", target.name)
            and (other in own or not _BOUNDARY.search(other))
        ]
        if others:
            warnings.append(_alias(source_name(target.built), others))
    return Verdict(tuple(refused), tuple(warnings))


def _own_names(orig: ElfFile, name: str) -> frozenset[str]:
    """All names that the object itself gives to the function."""
    table = orig.symbols
    found: set[str] = set()
    for index in table.by_name.get(name, ()):
        inside = orig.symbols_in_section.get(int(table.shndx[index]))
        if inside is not None:
            same = inside[table.value[inside] == table.value[index]]
            found.update(table.names[i] for i in same.tolist())
    return frozenset(found)


def _alias(name: str, others: Sequence[str]) -> Finding:
    shown = ", ".join(f"'{n}'" for n in others[:_SHOWN])
    return Finding(
        "alias-patched",
        name,
        f"'{name}' is the same code as {shown}: who calls it by another name gets the patched "
        "code as well; see that the change is meant for all of them",
    )


def _not_traceable(code: CodeUnit, target: Target, owner: str) -> Finding:
    """A warning, with the engine that remains, or a refusal."""
    name = source_name(target.built)
    told = f"'{name}' is not among the functions of the shipped {owner} that ftrace knows"
    if why_not := no_jump(code, target.built):
        return Finding(
            "not-traceable",
            name,
            f"{told}, and the engine atomic cannot redirect it either: {why_not}; patch a function "
            "that calls it",
        )
    return Finding(
        "not-traceable",
        name,
        f"{told}: only the engine atomic can apply the patch, by a jump at its entry, and no "
        "kprobe may be there then",
        engine="atomic",
    )


def no_jump(code: CodeUnit, name: str) -> str:
    """Why no jump may be written at a function's entry; '' if one may."""
    if not has_room(code, name):
        return (
            f"there is no room for a jump at its entry (it is shorter than {JUMP} bytes, jumps "
            "back into them, or the kernel itself rewrites them)"
        )
    if is_delicate(code, name):
        return "it runs where the kernel lets nobody in between (noinstr, entry code, NOKPROBE)"
    return ""


def is_delicate(code: CodeUnit, name: str) -> bool:
    """Whether a function is code of an entry into the kernel, or must not be probed.

    Such code runs while the CPU's state is half that of the kernel's and half another's, and when
    everything stands still.
    """
    atom = code.functions[name]
    if code.unit.section(atom).name.startswith(_DELICATE):
        return True
    return any(
        entries.section.name == "_kprobe_blacklist" and atom.index in entries.owner.tolist()
        for entries in code.unit.tables
    )


def _no_room(target: Target, owner: str) -> Finding:
    name = source_name(target.built)
    return Finding(
        "no-room",
        name,
        f"the kernel has no ftrace, so that '{name}' of {owner} can only be redirected by a jump "
        f"at its entry, and there is no room for one: it is shorter than {JUMP} bytes, jumps back "
        "into them, or the kernel itself rewrites them; patch a function that calls it",
    )


def has_room(code: CodeUnit, name: str) -> bool:
    """Whether a jump can be written over a function's first instructions.

    Not if the function is shorter, if something jumps into those bytes, or if the kernel itself
    rewrites or looks up a place among them (static keys and calls, alternatives, fixups).
    """
    atom, body = code.functions.get(name), code.body(name)
    if atom is None or body is None:
        return False
    start = len(ENDBR) if code.unit.data(atom).startswith(ENDBR) else 0
    taken = range(start, start + JUMP)
    if atom.size < taken.stop:
        return False
    inside = {n for n, step in enumerate(body.steps) if start < step.raw.ip < taken.stop}
    for n, step in enumerate(body.steps):
        if any(way in inside and way != n + 1 for way in step.leads):
            return False
    for entries in code.unit.tables:
        if entries.section.name in _SITES:
            for owner, place in zip(entries.owner.tolist(), entries.place.tolist(), strict=True):
                if owner == atom.index and place in taken:
                    return False
    return True
