"""Looks at the running kernel's code: is a patched function redirected, and is it as it was?

A live patch redirects a function at its very beginning: the 5-byte nop that the compiler left
there becomes a call. Where /proc/kcore may be read the bytes themselves are compared; the list of
functions that ftrace has a hold on tells the same in the kernel's own words.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .machine import Machine
from .status import PatchedFunction

KCORE = "/proc/kcore"
KALLSYMS = "/proc/kallsyms"
TRACING = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
SIZE = 16  # bytes at a function's beginning: the landing pad, the call site, a bit more


@dataclass(frozen=True)
class Place:
    """A function with its address in the running kernel."""

    function: PatchedFunction
    address: int


def locate(machine: Machine, functions: Sequence[PatchedFunction]) -> tuple[Place, ...]:
    """Finds the addresses of functions; those that are not there (module not loaded) are left out.

    Needs root: to others the kernel shows addresses as 0, and those are left out as well.
    """
    if not functions:
        return ()
    lines = machine.matching_lines(KALLSYMS, sorted({f.name for f in functions}))
    return find_places(lines, functions)


def find_places(lines: Iterable[str], functions: Sequence[PatchedFunction]) -> tuple[Place, ...]:
    """Picks functions from kallsyms lines 'address type name [module]'; pure.

    Position N among several of a name counts by address in the kernel proper, as livepatch does,
    and in the order of the list in a module.
    """
    found: dict[tuple[str, str], list[int]] = {}
    for line in lines:
        fields = line.split()
        if len(fields) < 3 or int(fields[0], 16) == 0:
            continue
        owner = fields[3].strip("[]") if len(fields) > 3 else "vmlinux"
        found.setdefault((owner, fields[2]), []).append(int(fields[0], 16))
    places = []
    for function in functions:
        addresses = found.get((function.object, function.name), [])
        ordered = sorted(addresses) if function.object == "vmlinux" else addresses
        index = max(function.sympos, 1) - 1
        if index < len(ordered):
            places.append(Place(function, ordered[index]))
    return tuple(places)


def entries(machine: Machine, places: Sequence[Place]) -> dict[PatchedFunction, bytes]:
    """The first bytes of each function as they are in memory; empty where that may not be read."""
    memory = open_memory(machine) if places else None
    if memory is None:
        return {}
    blobs = memory.read([(place.address, SIZE) for place in places])
    return {p.function: b for p, b in zip(places, blobs, strict=True) if b is not None}


@dataclass(frozen=True)
class Memory:
    """The running kernel's memory by virtual address, as /proc/kcore gives it."""

    machine: Machine
    segments: tuple[tuple[int, int, int], ...]

    def read(self, spans: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """The bytes at each (address, size); None where there is no memory, or it is not read."""
        offsets = [file_offset(self.segments, address) for address, _ in spans]
        wanted = [(o, size) for o, (_, size) in zip(offsets, spans, strict=True) if o is not None]
        blobs = iter(self.machine.read_at(KCORE, wanted) if wanted else [])
        return [None if offset is None else next(blobs) for offset in offsets]


def open_memory(machine: Machine) -> Memory | None:
    """The running kernel's memory; None where it may not be read."""
    header = machine.read_at(KCORE, [(0, 64)])[0]
    if header is None:
        return None
    count = struct.unpack_from("<H", header, 56)[0]
    table = machine.read_at(KCORE, [(struct.unpack_from("<Q", header, 32)[0], 56 * count)])[0]
    return None if table is None else Memory(machine, load_segments(table))


def load_segments(table: bytes) -> tuple[tuple[int, int, int], ...]:
    """(address, size, file offset) of each PT_LOAD of an ELF program header table."""
    found = []
    for start in range(0, len(table) - 55, 56):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", table, start)
        if kind == 1:
            found.append((address, size, offset))
    return tuple(found)


def file_offset(segments: Iterable[tuple[int, int, int]], address: int) -> int | None:
    """Where a kernel address lies in the file, or None."""
    for start, size, offset in segments:
        if start <= address < start + size:
            return address - start + offset
    return None


def hooked(machine: Machine) -> frozenset[str] | None:
    """The names of functions whose execution ftrace may redirect now; None if it does not tell."""
    lines = _enabled(machine)
    return None if lines is None else parse_enabled(lines)


def traced(machine: Machine) -> frozenset[str] | None:
    """The names of all functions that ftrace has a hold on; None if it does not tell."""
    lines = _enabled(machine)
    return None if lines is None else parse_traced(lines)


def _enabled(machine: Machine) -> str | None:
    for root in TRACING:
        blob = machine.read_bytes(f"{root}/enabled_functions")
        if blob is not None:
            return blob.decode(errors="replace")
    return None


def parse_traced(lines: str) -> frozenset[str]:
    """The names in enabled_functions; pure."""
    return frozenset(line.partition(" ")[0] for line in lines.splitlines())


def parse_enabled(text: str) -> frozenset[str]:
    """The names in enabled_functions that carry the flag I (a handler may change the address).

    A line is 'name [module] (count) R I M ...'; pure.
    """
    found = set()
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if "I" in rest.partition(")")[2].partition("tramp")[0].split():
            found.add(name)
    return frozenset(found)


def changed(
    before: Mapping[PatchedFunction, bytes], after: Mapping[PatchedFunction, bytes]
) -> tuple[PatchedFunction, ...]:
    """The functions known in both whose bytes differ; pure."""
    return tuple(f for f, blob in before.items() if f in after and after[f] != blob)
