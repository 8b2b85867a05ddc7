"""The instructions of an object's functions, with what each refers to and where it leads.

A function and its cold part (`foo.cold`, which the compiler moves out of the way) are one body:
positions count on from part to part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from iced_x86 import (
    Decoder,
    FlowControl,
    Instruction,
    Mnemonic,
    OpKind,
    Register,
    Register_,
    RegisterExt,
)

from ..diff.atoms import NO_ATOM, Atom, Kind, Refs, Unit
from ..diff.names import cold_parent, fold
from ..diff.normalize import normalize
from ..diff.tables import ALTERNATIVES
from ..elf.constants import Reloc
from ..elf.model import ElfFile

RETURN_THUNK = "__x86_return_thunk"
IMMEDIATES = (OpKind.IMMEDIATE32, OpKind.IMMEDIATE32TO64, OpKind.IMMEDIATE64)
SIGNED = (*IMMEDIATES, OpKind.IMMEDIATE8TO32, OpKind.IMMEDIATE8TO64)  # small ones included
LOOK_BACK = 24  # instructions between the load of a constant and its use
_ONLY_READ = (Mnemonic.CMP, Mnemonic.TEST, Mnemonic.PUSH)
_RELATIVE = (Reloc.PC32, Reloc.PLT32)
_NEAR = (OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64)
_LEADS_ON = (FlowControl.NEXT, FlowControl.CALL, FlowControl.INDIRECT_CALL, FlowControl.INTERRUPT,
             FlowControl.EXCEPTION, FlowControl.XBEGIN_XABORT_XEND)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """What a relocated field means: a symbol's name, the atom if it is of this unit, an offset."""

    name: str
    atom: int
    offset: int


@dataclass(frozen=True)
class Step:
    """One instruction. `leads` are the steps that may follow; `leaves` that the function may end.

    `target` is what its relocated field refers to; `calls` the function it calls (a jump to
    another function included), "" if none or not known.
    """

    raw: Instruction
    target: Target | None
    calls: str
    leads: tuple[int, ...]
    leaves: bool


@dataclass(frozen=True)
class Body:
    """A function of an object: its steps in the order of the code, cold part last."""

    name: str
    steps: tuple[Step, ...]

    @cached_property
    def calls(self) -> tuple[str, ...]:
        """The names of the called functions, once per place."""
        return tuple(step.calls for step in self.steps if step.calls)

    @cached_property
    def looping(self) -> frozenset[int]:
        """The steps from which control can come back to them."""
        return _in_cycles([step.leads for step in self.steps])


class CodeUnit:
    """The functions of one object, decoded when asked for."""

    def __init__(self, elf: ElfFile) -> None:
        self.elf = elf
        self._bodies: dict[int, Body] = {}

    @cached_property
    def unit(self) -> Unit:
        """The object in atoms. Raises ElfError."""
        return normalize(self.elf)

    @cached_property
    def functions(self) -> dict[str, Atom]:
        """The functions by name, without their cold parts."""
        return {
            self._name(atom, symbol): atom
            for atom in self.unit.atoms
            if atom.kind is Kind.FUNCTION and cold_parent(atom.name) is None
            for symbol in atom.symbols or (NO_ATOM,)
        }

    @cached_property
    def folded(self) -> dict[str, Atom]:
        """The functions by their names without the compiler's numbers."""
        return {fold(name): atom for name, atom in self.functions.items()}

    def callee(self, folded: str) -> Body | None:
        """The function of that name without numbers, or None if it is not of this unit."""
        atom = self.folded.get(folded)
        return None if atom is None else self.body(self._name(atom, (*atom.symbols, NO_ATOM)[0]))

    def users_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """The functions that refer to one of the symbols `names`, without decoding any."""
        by_name = self.elf.symbols.by_name
        wanted = [symbol for name in names for symbol in by_name.get(name, ())]
        if not wanted:
            return ()
        own = [a.index for a in self.unit.atoms if not set(a.symbols).isdisjoint(wanted)]
        found = []
        for name, atom in self.functions.items():
            refs = self.unit.refs_of(atom)
            external = np.isin(refs.symbol, wanted) & (refs.atom == NO_ATOM)
            if external.any() or np.isin(refs.atom, own).any():
                found.append(name)
        return tuple(found)

    @cached_property
    def _cold(self) -> dict[str, Atom]:
        return {
            parent: atom
            for atom in self.unit.atoms
            if atom.kind is Kind.FUNCTION and (parent := cold_parent(atom.name)) is not None
        }

    @cached_property
    def _labels(self) -> dict[tuple[int, int], Target]:
        """Jump labels: (atom, place in it) -> where the other way leads."""
        found = {}
        for entries in self.unit.tables:
            if entries.section.name != "__jump_table":
                continue
            for n in range(len(entries)):
                k = entries.relocs_of(n)[1]
                target = Target("", int(entries.refs.atom[k]), int(entries.refs.addend[k]))
                found[int(entries.owner[n]), int(entries.place[n])] = target
        return found

    def _name(self, atom: Atom, symbol: int) -> str:
        return atom.name if symbol == NO_ATOM else self.unit.elf.symbols.names[symbol]

    def body(self, name: str) -> Body | None:
        """The function `name`, or None if the object has none of it."""
        atom = self.functions.get(name)
        if atom is None:
            return None
        if atom.index not in self._bodies:
            cold = self._cold.get(atom.name)
            self._bodies[atom.index] = self._decode(name, [atom] if cold is None else [atom, cold])
        return self._bodies[atom.index]

    def replacements(self, name: str) -> tuple[bytes, ...]:
        """The alternative instructions of a function: the code of each replacement."""
        atom = self.functions[name]
        found = []
        for entries in self.unit.tables:
            if entries.section.name != ALTERNATIVES:
                continue
            for n in range(len(entries)):
                if int(entries.owner[n]) == atom.index:
                    k = entries.relocs_of(n)[1]
                    snippet = int(entries.refs.atom[k])
                    if snippet != NO_ATOM:
                        found.append(self.unit.data(self.unit.atoms[snippet]))
        return tuple(found)

    def _decode(self, name: str, parts: list[Atom]) -> Body:
        places: dict[tuple[int, int], int] = {}  # (atom, offset) -> step
        raws: list[tuple[Atom, Instruction, Target | None]] = []
        for atom in parts:
            refs = self.unit.refs_of(atom)
            fields = {int(o) - atom.start: k for k, o in enumerate(refs.offset.tolist())}
            for raw in Decoder(64, self.unit.data(atom), ip=0):
                places[atom.index, raw.ip] = len(raws)
                raws.append((atom, raw, self._target(raw, fields, refs)))
        labels = {
            places[key]: places.get((t.atom, t.offset))
            for key, t in self._labels.items()
            if key in places
        }
        steps = []
        for n, (atom, raw, target) in enumerate(raws):
            ends = n + 1 == len(raws) or raws[n + 1][0] is not atom
            after = None if ends else n + 1
            steps.append(_step(raw, target, atom, places, after, n in labels, labels.get(n)))
        return Body(name, tuple(steps))

    def _target(self, raw: Instruction, fields: dict[int, int], refs: Refs) -> Target | None:
        for at in range(raw.ip + 1, raw.next_ip):
            if (k := fields.get(at)) is not None:
                break
        else:
            return None
        atom = int(refs.atom[k])
        addend = int(refs.addend[k])
        if int(refs.type[k]) in _RELATIVE:
            addend += raw.next_ip - at
        names = self.unit.elf.symbols.names
        name = self.unit.atoms[atom].name if atom != NO_ATOM else names[int(refs.symbol[k])]
        return Target(name, atom, addend)


def constant_before(body: Body, at: int, register: Register_) -> int | None:
    """The constant that was last loaded into `register` before step `at`, as far as can be told.

    As 32 bits, unsigned.
    """
    raw = _last_write(body, at, register)
    if raw is None:
        return None
    if raw.mnemonic == Mnemonic.MOV and raw.op_count == 2 and raw.op1_kind in IMMEDIATES:
        return int(raw.immediate(1)) & 0xFFFFFFFF
    if raw.mnemonic == Mnemonic.XOR and raw.op0_register == raw.op1_register:
        return 0
    return None


def added_before(body: Body, at: int, register: Register_) -> int | None:
    """What `register` is more than the value that it was made of before step `at`, if told.

    As 32 bits, unsigned; a loop around `cmpxchg` computes the new value from the old one so.
    """
    raw = _last_write(body, at, register)
    if raw is None:
        return None
    if raw.mnemonic == Mnemonic.LEA and raw.memory_index == Register.NONE:
        return int(raw.memory_displacement) & 0xFFFFFFFF
    if raw.mnemonic == Mnemonic.ADD and raw.op1_kind in SIGNED:
        return int(raw.immediate(1)) & 0xFFFFFFFF
    if raw.mnemonic in (Mnemonic.INC, Mnemonic.DEC):
        return 1 if raw.mnemonic == Mnemonic.INC else 0xFFFFFFFF
    return None


def _last_write(body: Body, at: int, register: Register_) -> Instruction | None:
    """The instruction that wrote `register` last before step `at`, of the few before it.

    In the order of the code, whatever jumps there are.
    """
    wanted = RegisterExt.full_register(register)
    for n in range(at - 1, max(at - LOOK_BACK, -1), -1):
        raw = body.steps[n].raw
        if raw.op_count == 0 or raw.op0_kind != OpKind.REGISTER:
            continue
        same = RegisterExt.full_register(raw.op0_register) == wanted
        if same and raw.mnemonic not in _ONLY_READ:
            return raw
    return None


def _step(
    raw: Instruction,
    target: Target | None,
    atom: Atom,
    places: dict[tuple[int, int], int],
    after: int | None,
    labelled: bool,
    label: int | None,
) -> Step:
    """One instruction's ways on, and what it calls."""
    flow = raw.flow_control
    leads = {label, after} if labelled else set()
    calls, leaves = "", False
    if flow in _LEADS_ON:
        leads.add(after)
    if flow in (FlowControl.CALL, FlowControl.INDIRECT_CALL):
        calls = target.name if target and flow == FlowControl.CALL else ""
    elif flow in (FlowControl.UNCONDITIONAL_BRANCH, FlowControl.CONDITIONAL_BRANCH):
        place = _branch_place(raw, target, atom)
        inside = places.get(place) if place else None
        leads.add(inside)
        if flow == FlowControl.CONDITIONAL_BRANCH:
            leads.add(after)
        if inside is None:
            leaves = True
            calls = target.name if target and target.name != RETURN_THUNK else ""
    elif flow == FlowControl.RETURN or flow == FlowControl.INDIRECT_BRANCH:
        leaves = True
    return Step(raw, target, calls, tuple(sorted(n for n in leads if n is not None)), leaves)


def _branch_place(raw: Instruction, target: Target | None, atom: Atom) -> tuple[int, int] | None:
    if target is not None:
        return target.atom, target.offset
    if raw.op0_kind in _NEAR:
        return atom.index, raw.near_branch_target
    return None


def _in_cycles(graph: list[tuple[int, ...]]) -> frozenset[int]:
    """The nodes that can be reached from themselves (Tarjan's strongly connected components)."""
    found: set[int] = set()
    order: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    for root in range(len(graph)):
        if root in order:
            continue
        order[root] = low[root] = len(order)
        stack.append(root)
        on_stack.add(root)
        work = [(root, iter(graph[root]))]
        while work:
            node, ways = work[-1]
            for way in ways:
                if way not in order:
                    order[way] = low[way] = len(order)
                    stack.append(way)
                    on_stack.add(way)
                    work.append((way, iter(graph[way])))
                    break
                if way in on_stack:
                    low[node] = min(low[node], order[way])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    component: list[int] = []
                    while not component or component[-1] != node:
                        component.append(stack.pop())
                    on_stack.difference_update(component)
                    if len(component) > 1 or node in graph[node]:
                        found.update(component)
    return frozenset(found)
