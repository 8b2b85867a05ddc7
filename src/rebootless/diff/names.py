"""What compiler-made names mean: clones, cold parts, static locals, special statics, sections.

GCC numbers clones (`foo.isra.0`), cold parts (`foo.cold`) and static locals (`count.12`) in the
order in which it meets them, so any number may change when the source does. Nothing here trusts
one. Clang puts the function before a static local (`f.count`), and numbers only what would have
the same name (`f.count.3`).
"""

from __future__ import annotations

import re

_CLONE = re.compile(r"\.(isra|constprop|part|cold|llvm|ctx|specialized)\.\d+")
_STATIC_LOCAL = re.compile(r"^(.+?)\.\d+(?:\.\d+)?$|^((?:\w+\.)?__UNIQUE_ID_\w*?)\d+$")
_FUNCTION_NAMES = ("__func__", "__FUNCTION__", "__PRETTY_FUNCTION__")

# Statics that the kernel's macros make: one per use, with no state worth keeping (lock classes,
# "warned once" flags, rate limits, function names, switch tables, pr_debug descriptors). They are
# compared by content and always included anew. DO_ONCE() is not among them: to do once more what
# must be done once (the secret of a hash table, say) breaks the running kernel.
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
        "__UNIQUE_ID_ddebug",
        "__dyndbg",
        "_alloc_tag",
    }
)
_KEPT_STATICS = frozenset({"___done", "___once_key"})
_SPECIAL_PREFIXES = (".LC", "L__unnamed", "__UNIQUE_ID_ddebug", ".Lubsan", "Lubsan")
_SPECIAL_DATA_SECTIONS = (".data..once", ".data.once", "__dyndbg", ".data.unlikely")
_SANITIZER_DATA = re.compile(r"^\.data\.\.L(ubsan|__unnamed)_")  # UBSAN, by gcc and by clang
_CARRY_LINES = ("descriptor", "_alloc_tag", "_entry", "__UNIQUE_ID_ddebug", ".Lubsan", "Lubsan")

# Left out altogether: never part of the running kernel, or written anew for the patch.
_IGNORED = re.compile(
    r"^(\.discard|\.comment|\.note|\.eh_frame|\.debug|\.gnu|\.llvm|\.BTF$|\.BTF\.ext|"
    r"\.orc_header|__patchable_function_entries|\.rebootless)"
)
# Read at boot or load only, or by tools that look functions up by name. Their content says nothing
# about code that is patched at run time; what a patch adds to them is judged in registrations.py.
# (A patched function stays open to error injection and BPF through its original.)
_PASSIVE = re.compile(
    r"^(\.init\.(?!text|data|rodata)|\.exit\.(?!text)|\.initcall|\.exitcall|\.con_initcall|"
    r"\.modinfo|__param|__modver|\.init_array|__tracepoint|_ftrace_ev|__bpf_raw_tp_map|"
    r"__bpf_trace|__syscalls_metadata|_error_injection_whitelist|\.static_call_tramp_key|"
    r"\.printk_index|\.ibt_endbr_seal|\.x86_cpu_dev)"
)
_EXPORT = re.compile(r"^(___?ksymtab|___?kcrctab|__ksymtab_strings|\.export_symbol)")
_COMPILERS_TEXT = re.compile(r"^\.text(\.[^.]|$)")  # `.text.unlikely.f`, but `.text..refcount`
PERCPU = ".data..percpu"
_INIT_TEXT = re.compile(r"^\.(init|exit|head|cpuinit|devinit)\.text")
# Where the compiler and the kernel's attributes put ordinary variables, and those of which a module
# may bring its own.
_PLAIN_DATA = re.compile(
    r"^(\.data|\.bss|\.rodata|\.ref\.data|\.meminit\.|\.memexit\.|\.BTF_ids$|alloc_tags$|"
    r"__trace_printk_fmt$)"
)
_SHARED_SPECIALLY = re.compile(
    r"^(\.data\.\.(percpu\.\.)?decrypted|\.bss\.\.decrypted|\.vvar|\.bss\.\.brk)"
)


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
    if match is None:
        return None
    base = match[1] or match[2]
    return base.rstrip("0123456789") if "__UNIQUE_ID_" in base else base


def local_name(name: str) -> str | None:
    """The variable that a static local is in the source: 'count.12' and clang's 'f.count' are
    'count', its '__func__.f' is '__func__'; None for the names of other variables."""
    base = static_local_base(name)
    function, _, variable = (base or name).rpartition(".")
    if function in _FUNCTION_NAMES:
        return function
    return variable if function.isidentifier() and variable.isidentifier() else base


def is_special_static(name: str, section: str) -> bool:
    """Whether a data symbol is one that macros make, and that is always included anew."""
    local = local_name(name)
    base = local or name
    if base in _KEPT_STATICS:
        return False
    return (
        (local is not None and base in SPECIAL_STATICS)
        or is_sanitizer_data(section)
        or name.startswith(_SPECIAL_PREFIXES)
        or base.startswith(_SPECIAL_PREFIXES)
        # -fdata-sections puts a variable that is named `once` there, too
        or (section in _SPECIAL_DATA_SECTIONS and section != f".data.{name}")
    )


def carries_line(name: str, section: str) -> bool:
    """Whether a special static holds its line number in the source, which is no change."""
    return (
        (local_name(name) or name).startswith(_CARRY_LINES)
        or section == "__dyndbg"
        or is_sanitizer_data(section)
    )


def is_sanitizer_data(section: str) -> bool:
    """Whether the section holds what UBSAN tells of a place: file, line and types, unnamed."""
    return bool(_SANITIZER_DATA.match(section))


def is_btf_id(name: str) -> bool:
    """Whether a symbol is one entry of a list of BTF ids: '__BTF_ID__func__foo__123'."""
    return name.startswith("__BTF_ID__")


def is_ignored_section(name: str) -> bool:
    """Whether an alloc section never gets into the running kernel, or is made anew at link."""
    return bool(_IGNORED.match(name))


def is_passive_section(name: str) -> bool:
    """Whether an alloc section says nothing about code that is patched at run time."""
    return bool(_PASSIVE.match(name))


def is_plain_data_section(name: str) -> bool:
    """Whether the section holds ordinary variables, not a table that the linker collects."""
    return bool(_PLAIN_DATA.match(name))


def is_specially_mapped(name: str) -> bool:
    """Whether data of this section cannot live in a module: it is mapped in a way of its own."""
    return bool(_SHARED_SPECIALLY.match(name))


def is_percpu(name: str) -> bool:
    """Whether each CPU has a copy of what is in the section."""
    return name == PERCPU or name.startswith(PERCPU + "..")


def is_boot_only(name: str) -> bool:
    """Whether the section is freed after boot or module load (or serves the exit only)."""
    return name.startswith((".init.", ".exit.")) or is_init_text(name)


def is_compilers_text(name: str) -> bool:
    """Whether the compiler chose the section of a function, and not an attribute."""
    return bool(_COMPILERS_TEXT.match(name))


def is_export_section(name: str) -> bool:
    """Whether the section holds what EXPORT_SYMBOL makes."""
    return bool(_EXPORT.match(name))


def is_init_text(name: str) -> bool:
    """Whether the section's code is freed after boot or module load (or runs at exit only)."""
    return bool(_INIT_TEXT.match(name))
