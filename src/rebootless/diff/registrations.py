"""What a patch adds to tables that are read at boot, at load or by the linker only.

Nothing in the patch refers to such entries, so they would be left out without a word: each is
found here, and refused if the patched code may count on it.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from ..elf.constants import SHN_UNDEF, Binding, SectionFlag
from ..elf.model import Section
from .atoms import NO_ATOM, Atom, Kind, Unit
from .correlate import Correlation
from .delta import Finding
from .names import (
    is_boot_only,
    is_export_section,
    is_plain_data_section,
    is_special_static,
)

_INITCALL = re.compile(r"^__initcall__(?:kmod_)?(.*?)__\d+_\d+_(\w+?)[0-9]?s?(?:early|rootfs)?$")
_EXPORT_SYMBOL = re.compile(r"^(?:__ksymtab_|__export_symbol_)(\w+)$")


@dataclass(frozen=True)
class _Rule:
    """Sections by prefix; what an added entry means; whether it is refused or only told.

    With `known`, it matters only for functions that the running kernel has.
    """

    prefixes: tuple[str, ...]
    code: str
    text: str
    refused: bool
    strip: str = ""
    known: bool = False


_RULES = (
    _Rule(
        (".initcall", ".con_initcall"),
        "initcall-added",
        "'{}' is a new initcall: a live patch never runs it; do its work where it is needed",
        True,
    ),
    _Rule(
        ("__tracepoints",),
        "tracepoint-added",
        "the tracepoint '{}' is new: a live patch cannot add one; leave it out of the patch",
        True,
        "__tracepoint_",
    ),
    _Rule(
        ("__param",),
        "parameter-added",
        "the parameter '{}' is new: it keeps its default and does not show under /sys/module",
        False,
        "__param_",
    ),
    _Rule(
        (".init.setup",),
        "parameter-added",
        "the boot parameter '{}' is new: the running kernel has read its command line already",
        False,
        "__setup_",
    ),
    _Rule(
        ("_error_injection_whitelist",),
        "error-injection-added",
        "'{}' is new in the list of functions that may be made to fail: the running kernel's list "
        "does not get it",
        False,
        "_eil_addr_",
        known=True,
    ),
    _Rule(
        ("_kprobe_blacklist",),
        "kprobe-blacklist-added",
        "'{}' is new in the list of functions that must not be probed: the running kernel still "
        "lets probes into its own",
        False,
        "_kbl_addr_",
        known=True,
    ),
    _Rule(
        ("__syscalls_metadata",),
        "syscall-added",
        "the system call '{}' is new: the running kernel's table of system calls does not get it",
        False,
        "__p_syscall_meta__",
    ),
)


def registration_findings(
    orig: Unit, patched: Unit, correlation: Correlation
) -> tuple[list[Finding], list[Finding]]:
    """(refusals, warnings) for what the patch registers, exports or aliases anew."""
    refused: list[Finding] = []
    warnings: list[Finding] = []
    for rule in _RULES:
        added = Counter(_names(patched, rule)) - Counter(_names(orig, rule))
        for name in sorted(added):
            if rule.known and name not in orig.elf.symbols.by_name:
                continue
            finding = Finding(rule.code, name, rule.text.format(name))
            (refused if rule.refused else warnings).append(finding)
    added_info = sorted(_module_info(patched) - _module_info(orig))
    if added_info:
        warnings.append(
            Finding(
                "modinfo-changed",
                added_info[0].partition("=")[0],
                f"module information changed ('{added_info[0]}'): what is loaded keeps its own",
            )
        )
    warnings += _export_warnings(orig, patched)
    refused += _alias_findings(orig, patched, correlation)
    refused += _collected_findings(patched, correlation)
    return refused, warnings


def _names(unit: Unit, rule: _Rule) -> list[str]:
    """The entries that a unit has in the sections of a rule, by their source names."""
    table = unit.elf.symbols
    found = []
    for section in unit.elf.sections:
        if not section.name.startswith(rule.prefixes) or section.name.startswith("__tracepoints_"):
            continue
        if section.name in unit.ignored_sections:
            continue
        for symbol in unit.elf.symbols_in_section.get(section.index, ()):
            name = table.names[int(symbol)]
            if match := _INITCALL.match(name):
                name = match[2]
            if not name.startswith("__setup_str_"):
                found.append(name.removeprefix(rule.strip))
    return found


def _module_info(unit: Unit) -> set[str]:
    return {
        line.decode(errors="replace")
        for section in unit.elf.sections_named(".modinfo")
        for line in bytes(section.data).split(b"\0")
        if line
    }


def _exports(unit: Unit) -> dict[str, str]:
    """What each export is like: the section's name tells the licence, or its content."""
    table = unit.elf.symbols
    found = {}
    for i, name in enumerate(table.names):
        match = _EXPORT_SYMBOL.match(name)
        if match and SHN_UNDEF < int(table.shndx[i]) < len(unit.elf.sections):
            section = unit.elf.sections[int(table.shndx[i])]
            if is_export_section(section.name):
                content = b"" if section.is_alloc else _up_to_next(unit, section, i)
                found[match[1]] = section.name.partition("+")[0] + content.hex()
    return found


def _up_to_next(unit: Unit, section: Section, symbol: int) -> bytes:
    """The bytes from a symbol to the next one of its section."""
    start = int(unit.elf.symbols.value[symbol])
    inside = unit.elf.symbols_in_section[section.index]
    later = [v for v in unit.elf.symbols.value[inside].tolist() if v > start]
    return bytes(section.data[start : min(later, default=section.size)])


def _export_warnings(orig: Unit, patched: Unit) -> list[Finding]:
    """What the patch exports otherwise; only told, since the kernel's own table is not touched.

    Modules go on with the running kernel's exports, whose addresses and versions stay. Code of the
    patch needs no export: it finds new functions in the patch, and the kernel's by their place.
    """
    ours, theirs = _exports(orig), _exports(patched)
    found = []
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) == theirs.get(name):
            continue
        what = "changed"
        if name not in ours or name not in theirs:
            what = "added" if name not in ours else "removed"
        found.append(
            Finding(
                "export-changed",
                name,
                f"the export of '{name}' was {what} by the patch: modules see the running "
                "kernel's exports, which stay as they are",
            )
        )
    return found


def _alias_findings(orig: Unit, patched: Unit, correlation: Correlation) -> list[Finding]:
    """Global names that mean another function or variable than before."""
    found = []
    theirs = _globals(patched)
    for name, places in _globals(orig).items():
        other = theirs.get(name)
        if is_boot_only(orig.section(places).name):
            continue
        if other is None or correlation.to_patched[places.index] == other.index:
            continue
        found.append(
            Finding(
                "alias-changed",
                name,
                f"'{name}' becomes another name for '{other.name}' (it was '{places.name}'): units "
                "that are not rebuilt keep to the old; change the function itself",
            )
        )
    return found


def _globals(unit: Unit) -> dict[str, Atom]:
    table = unit.elf.symbols
    return {
        table.names[s]: atom
        for atom in unit.atoms
        if len(atom.symbols) > 1 or atom.kind is Kind.FUNCTION
        for s in atom.symbols
        if table.binding[s] != Binding.LOCAL
    }


def _collected_findings(patched: Unit, correlation: Correlation) -> list[Finding]:
    """New variables in sections of their own, which the linker collects into a table."""
    found = []
    for atom in patched.atoms:
        if atom.kind not in (Kind.DATA, Kind.RODATA) or not atom.symbols:
            continue
        section = patched.section(atom).name
        if patched.section(atom).flags & SectionFlag.TLS:
            continue  # refused where it is used
        if (
            correlation.to_orig[atom.index] != NO_ATOM
            or is_plain_data_section(section)
            or patched.is_passive(atom)
            or is_export_section(section)
            or is_boot_only(section)
            or is_special_static(atom.name, section)
        ):
            continue
        found.append(
            Finding(
                "section-entry-added",
                atom.name,
                f"'{atom.name}' is a new entry of section '{section}', a table that is made when "
                "the kernel is linked: a live patch cannot add to it",
            )
        )
    return found
