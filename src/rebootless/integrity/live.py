"""What the running kernel says of itself, as far as its code depends on it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..base.errors import ResourceError
from ..engine import text
from ..engine.machine import Machine, read_text
from ..engine.status import LivePatch, PatchedFunction, livepatches
from .code import Names
from .region import CALL, JMP
from .tables import Tables

PAGE = 4096
NEAR = 1 << 20  # bytes: words that are as near to each other are read at once
REGISTERS = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *(f"r{number}" for number in range(8, 16)),
)
THUNK = re.compile(r"__x86_indirect(?:_call|_jump|_its)?_thunk_(r\w+)$")
PROBES = "/sys/kernel/debug/kprobes/list"
LOCKDOWN = "/sys/kernel/security/lockdown"
FTRACE, KPROBES, BPF = "[__builtin__ftrace]", "[__builtin__kprobes]", "[bpf]"
FTRACE_CALLERS = ("ftrace_caller", "ftrace_regs_caller")


@dataclass(frozen=True)
class Probe:
    """A kprobe: a breakpoint, when `optimized` a jump; `by_ftrace` it is none of both."""

    address: int
    optimized: bool
    by_ftrace: bool
    disabled: bool


PV_OPS = ("pv_ops", "pv_ops_lock")  # the second is of its own since 7.0
# What static calls of these functions become (linux, arch/x86/kernel/static_call.c).
INSTEAD = {
    "__static_call_return0": bytes.fromhex("2e2e2e31c0"),  # xor %eax,%eax
    "__WARN_trap": bytes.fromhex("67480fb93a"),  # ud1 (%edx),%rdi
    "__raw_callee_save___native_queued_spin_unlock": bytes.fromhex("3e3ec60700"),  # movb $0,(%rdi)
}


@dataclass(frozen=True)
class Redirected:
    """A function that live patches redirect, with its address, and their names."""

    function: PatchedFunction
    address: int
    patches: tuple[str, ...]


@dataclass(frozen=True)
class Live:
    """Facts of the running kernel, by running address.

    `words` are 64-bit words of its memory: static keys, what static calls lead to, pv_ops.
    `static_keys` leads from trampolines to keys. `instead` has the code that takes the place of
    static calls of some functions, `pv_ops` the slots that paravirt calls go through.
    `indirect_thunks` tell the register that a thunk jumps through. `probes` and `hooked` are None
    when the kernel does not tell them.
    """

    words: Mapping[int, int] = field(default_factory=dict)
    static_keys: Mapping[int, int] = field(default_factory=dict)
    return_thunks: frozenset[int] = frozenset()
    indirect_thunks: Mapping[int, str] = field(default_factory=dict)
    instead: Mapping[int, bytes] = field(default_factory=dict)
    pv_ops: frozenset[int] = frozenset()
    pv_nops: frozenset[int] = frozenset()
    pv_bug: int = 0
    ftrace: frozenset[int] = frozenset()
    direct: frozenset[int] = frozenset()
    probe_pages: tuple[int, ...] = ()
    probes: Mapping[int, Probe] | None = None
    hooked: frozenset[str] | None = None
    modules: tuple[tuple[int, int, str], ...] = ()
    redirected: tuple[Redirected, ...] = ()


def memory_of(machine: Machine) -> text.Memory:
    """The running kernel's memory. Raises ResourceError that tells why it may not be read."""
    memory = text.open_memory(machine)
    if memory is not None:
        return memory
    lockdown = read_text(machine, LOCKDOWN) or ""
    if "[confidentiality]" in lockdown:
        raise ResourceError(
            f"the kernel of {machine.name} is locked down (confidentiality) and does not let its "
            "memory be read, so its code cannot be compared",
            hint="boot with lockdown=integrity or none to verify it",
        )
    if not machine.exists(text.KCORE):
        raise ResourceError(
            f"{machine.name} has no {text.KCORE}, so the kernel's code cannot be compared",
            hint="mount /proc; the kernel needs CONFIG_PROC_KCORE",
        )
    raise ResourceError(
        f"{text.KCORE} of {machine.name} may not be read", hint="run `rebootless verify` as root"
    )


def shift_of(machine: Machine, linked: int) -> int:
    """How far the kernel was moved by KASLR; `linked` is where `_stext` is linked to.

    Raises ResourceError when the kernel hides its addresses.
    """
    for line in machine.matching_lines(text.KALLSYMS, ["_stext"]):
        address = int(line.split()[0], 16)
        if address:
            return address - linked
    restrict = read_text(machine, "/proc/sys/kernel/kptr_restrict") or "0"
    if restrict == "2":
        raise ResourceError(
            f"the kernel of {machine.name} hides its addresses (kernel.kptr_restrict is 2)",
            hint="`sysctl kernel.kptr_restrict=1` shows them to root",
        )
    raise ResourceError(
        f"the kernel of {machine.name} shows no addresses in {text.KALLSYMS}",
        hint="run `rebootless verify` as root",
    )


def words(memory: text.Memory, addresses: Iterable[int]) -> dict[int, int]:
    """The 64-bit words at addresses; those that cannot be read are left out."""
    wanted = sorted(set(addresses))
    spans: list[list[int]] = []
    for address in wanted:
        if spans and address + 8 - spans[-1][1] <= NEAR:
            spans[-1][1] = address + 8
        else:
            spans.append([address, address + 8])
    found: dict[int, int] = {}
    blobs = memory.read([(start, end - start) for start, end in spans])
    which = 0
    for address in wanted:
        while address >= spans[which][1]:
            which += 1
        blob, at = blobs[which], address - spans[which][0]
        if blob is not None:
            found[address] = int.from_bytes(blob[at : at + 8], "little")
    return found


def keys_of(tables: Tables, static_keys: Mapping[int, int]) -> set[int]:
    """The addresses of all words that the tables' sites depend on."""
    wanted = set(tables.labels.keys.tolist())
    wanted |= {static_keys.get(key, key) for key in tables.static_calls.keys.tolist()}
    wanted |= {a for n, a in tables.code.names.by_name.items() if n.startswith("__SCK__")}
    return wanted


def thunks(names: Names) -> tuple[frozenset[int], dict[int, str]]:
    """Return thunks, and indirect thunks with their register."""
    returns, indirect = set(), {}
    for name, address in names.by_name.items():
        if name.endswith("return_thunk") and name != "x86_return_thunk":
            returns.add(address)
        elif (match := THUNK.match(name)) and match[1] in REGISTERS:
            indirect[address] = match[1]
    return frozenset(returns), indirect


def far_thunks(
    memory: text.Memory, rows: Sequence[tuple[int, bytes]], known: Mapping[int, str]
) -> dict[int, str]:
    """Thunks that the kernel made for itself at boot, found as what rewritten calls lead to.

    `rows` are retpoline sites with the bytes there. A thunk is no more than `jmp *%reg` (linux,
    its_init_thunk() in arch/x86/kernel/alternative.c).
    """
    leads = set()
    for address, blob in rows:
        at = 1 if blob[0] == 0x2E else 0  # a prefix that pads
        if blob[at] in (CALL, JMP):
            distance = int.from_bytes(blob[at + 1 : at + 5], "little", signed=True)
            leads.add(address + at + 5 + distance)
    wanted = sorted(leads - known.keys())
    found: dict[int, str] = {}
    for address, code in zip(wanted, memory.read([(a, 4) for a in wanted]), strict=True):
        if code is None:
            continue
        if code[0] == 0xFF and code[1] & 0xF8 == 0xE0:
            found[address] = REGISTERS[code[1] & 7]
        elif code[:2] == b"\x41\xff" and code[2] & 0xF8 == 0xE0:
            found[address] = REGISTERS[8 + (code[2] & 7)]
    return found


def parse_probes(lines: str) -> dict[int, Probe]:
    """The kprobes of a list 'address type symbol+offset [module] [flags]'; pure."""
    found = {}
    for line in lines.splitlines():
        address = int(line.split(maxsplit=1)[0], 16)
        if address and "[GONE]" not in line:
            found[address] = Probe(
                address, "[OPTIMIZED]" in line, "[FTRACE]" in line, "[DISABLED]" in line
            )
    return found


def parse_modules(lines: str) -> tuple[tuple[int, int, str], ...]:
    """(start, end, name) of the loaded modules, of /proc/modules; pure."""
    found = []
    for line in lines.splitlines():
        fields = line.split()
        start = int(fields[5], 16)
        found.append((start, start + int(fields[1]), fields[0]))
    return tuple(sorted(found))


def redirections(machine: Machine, patches: Sequence[LivePatch]) -> tuple[Redirected, ...]:
    """The functions that live patches redirect now; those of modules not loaded are left out."""
    holders: dict[PatchedFunction, list[str]] = {}
    for patch in patches:
        if patch.enabled or patch.transition:
            for obj in patch.objects:
                for function in obj.functions if obj.patched is not False else ():
                    holders.setdefault(function, []).append(patch.name)
    places = text.locate(machine, list(holders))
    return tuple(Redirected(p.function, p.address, tuple(holders[p.function])) for p in places)


def read(
    machine: Machine,
    memory: text.Memory,
    tables: Tables,
    symbols: Sequence[str],
    more: Iterable[int] = (),
) -> Live:
    """Reads all facts that judging the kernel proper takes.

    `symbols` are the lines of /proc/kallsyms that are not of the kernel proper, `more` further
    words to read.
    """
    names = tables.code.names
    by_name = names.by_name
    returns, indirect = thunks(names)
    pv_ops = frozenset(
        slot
        for table in (by_name[n] for n in PV_OPS if n in by_name)
        for slot in range(table, names.covering(table)[2], 8)
    )
    wanted = keys_of(tables, {}) | pv_ops | set(more)
    own: dict[str, list[int]] = {FTRACE: [], KPROBES: [], BPF: []}
    for line in symbols:
        fields = line.split()
        if fields[-1] in own:
            own[fields[-1]].append(int(fields[0], 16))
    probes = machine.read_bytes(PROBES)
    return Live(
        words=words(memory, wanted),
        static_keys=tables.trampoline_keys,
        return_thunks=returns,
        indirect_thunks=indirect,
        instead={by_name[n]: code for n, code in INSTEAD.items() if n in by_name},
        pv_ops=pv_ops,
        pv_nops=frozenset(by_name[n] for n in ("_paravirt_nop", "nop_func") if n in by_name),
        pv_bug=by_name.get("paravirt_BUG", by_name.get("BUG_func", 0)),
        ftrace=frozenset(by_name[n] for n in FTRACE_CALLERS if n in by_name)
        | frozenset(own[FTRACE]),
        direct=frozenset(own[BPF]),
        probe_pages=tuple(sorted(own[KPROBES])),
        probes=None if probes is None else parse_probes(probes.decode(errors="replace")),
        hooked=text.traced(machine),
        modules=parse_modules(read_text(machine, "/proc/modules") or ""),
        redirected=redirections(machine, livepatches(machine)),
    )
