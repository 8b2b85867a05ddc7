"""What compiler-made names mean: clones, cold parts, static locals, special statics, sections.

GCC numbers clones (`foo.isra.0`), cold parts (`foo.cold`) and static locals (`count.12`) in the
order in which it meets them, so any number may change when the source does. Nothing here trusts
one.
"""

from __future__ import annotations

import re

_CLONE = re.compile(r"\.(isra|constprop|part|cold|llvm|ctx)\.\d+")
_STATIC_LOCAL = re.compile(r"^(.+?)\.\d+(?:\.\d+)?$")

# Statics that the kernel's macros make: one per use, with no state worth keeping (lock classes,
# "warned once" flags, rate limits, function names, switch tables, pr_debug descriptors). They are
# compared by content where constant and always included anew.
SPECIAL_STATICS = frozenset(
    {
        "__key",
        "__warned",
        "__already_done",
        "__func__",
        "__FUNCTION__",
        "__PRETTY_FUNCTION__",
        "_rs",
        "CSWTCH",
        "_entry",
        "_entry_ptr",
        "descriptor",
        "__print_once",
        "___done",
        "___once_key",
        "__UNIQUE_ID_ddebug",
        "__dyndbg",
    }
)
_SPECIAL_PREFIXES = (".LC", "L__unnamed", "__UNIQUE_ID_ddebug", ".Lubsan", "Lubsan")

# Alloc sections that are irrelevant to code that is patched at run time.
_IGNORED = re.compile(
    r"^(\.init\.|\.exit\.|\.initcall|\.exitcall|\.con_initcall|\.modinfo|__param|"
    r"\.discard|\.comment|\.note|\.eh_frame|\.debug|\.gnu|\.llvm|\.BTF|"
    r"\.init_array|__tracepoint|_ftrace_event|__bpf_raw_tp_map|__bpf_trace|"
    r"__syscalls_metadata|_kprobe_blacklist|_error_injection_whitelist|"
    r"\.kprobe_blacklist|\.static_call_tramp_key|__ftrace_eval_maps|"
    r"\.printk_index|\.ibt_endbr_seal|\.meminit\.|\.memexit\.|\.ref\.data|\.x86_cpu_dev)"
)
_EXPORT = re.compile(r"^(___?ksymtab|___?kcrctab|__ksymtab_strings|\.export_symbol)")
_INIT_TEXT = re.compile(r"^\.(init|exit|head|meminit|memexit|cpuinit|devinit)\.text")
_SPECIAL_DATA_SECTIONS = (".data..once", ".data.once", "__dyndbg", ".data.unlikely")


def fold(name: str) -> str:
    """A function's name without clone numbers: 'foo.isra.3.cold.7' -> 'foo.isra.cold'."""
    return _CLONE.sub(r".\1", name)


def source_name(name: str) -> str:
    """The name in the source: 'foo.isra.0.cold' -> 'foo'."""
    return name.split(".", 1)[0] if not name.startswith(".") else name


def cold_parent(name: str) -> str | None:
    """The function whose cold part this is: 'foo.cold' -> 'foo'; None for other names."""
    head, separator, tail = name.rpartition(".cold")
    return head if separator and (not tail or tail[1:].isdigit()) else None


def static_local_base(name: str) -> str | None:
    """The source name of a numbered static: 'count.12' -> 'count'; None for other names."""
    match = _STATIC_LOCAL.match(name)
    return match.group(1) if match else None


def is_special_static(name: str, section: str) -> bool:
    """Whether a data symbol is one that macros make, and that is always included anew."""
    base = static_local_base(name) or name
    return (
        base in SPECIAL_STATICS
        or name.startswith(_SPECIAL_PREFIXES)
        or section in _SPECIAL_DATA_SECTIONS
    )


def is_ignored_section(name: str) -> bool:
    """Whether an alloc section says nothing about code that is patched at run time."""
    return bool(_IGNORED.match(name))


def is_export_section(name: str) -> bool:
    """Whether the section holds what EXPORT_SYMBOL makes."""
    return bool(_EXPORT.match(name))


def is_init_text(name: str) -> bool:
    """Whether the section's code is freed after boot or module load (or runs at exit only)."""
    return bool(_INIT_TEXT.match(name))
