"""What the kernel settles when the patch loads: static keys, static calls, alternatives.

The loader does, in this order: livepatch relocations of vmlinux; paravirt, retpoline, return and
alternative sites; then, module by module that is told of the new one, jump labels and static calls.
Livepatch relocations of a *module* come after all that, maybe much later. So no field that such a
relocation fills in may lie in code that the loader rewrites, and what an entry refers to must not
be reached by one. A static key that a module exports is reached by an ordinary symbol instead: the
kernel then loads the patch only when that module is there, and keeps the module while it is. Where
the kernel has no livepatch, what is said of modules holds for vmlinux as well: the core applies all
livepatch relocations when it applies the patch.

A static key of the kernel that is read-only after boot is another trap: kernels before 6.13
("jump_label,module: Don't alloc static_key_mod for __ro_after_init keys") write to the key when a
module with entries for it loads, and crash. Such entries get a key of the patch's own, which has
the state of the kernel's before the patch is applied: it cannot change any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..diff.delta import Finding, KernelRef, Piece, PieceKind, PieceRef, PieceReloc, PieceSymbol
from ..diff.tables import ALTERNATIVES, TABLES
from ..elf.constants import Reloc, SectionFlag, SectionType, SymbolType
from .resolve import VMLINUX, Livepatch, Plain, Resolved, Resolver

MIRROR_PREFIX = "__rebootless_key_"
MIRRORED_PREFIX = "__rebootless_keyed_"
JUMP_TABLE = "__jump_table"
_FLAGS = 3  # the low bits of a key's address in an entry
_BRANCH, _UNREWRITTEN = 1, 2  # the branch is the likely way; objtool is to turn the jump into a nop
_JUMPS = (0xEB, 0xE9)
_POINTER = 8
_TRACEPOINT = ("__tracepoint_", "__SCK__tp_func_", "__SCT__tp_func_")


@dataclass(frozen=True)
class Mirror:
    """A static key of the patch that stands for one of the kernel's.

    `key` is the symbol of the patch's key, `real` that of a pointer to the kernel's; `initial` is
    the state that the code is compiled for.
    """

    key: str
    real: str
    initial: bool


class Keys:
    """Settles the tables of one unit's pieces; what comes up is in the attributes."""

    def __init__(self, pieces: Sequence[Piece], resolver: Resolver, number: int) -> None:
        self._pieces, self._resolver, self._number = pieces, resolver, number
        self._mirrors: dict[tuple[object, int], tuple[Mirror, Piece]] = {}
        self._exported: dict[KernelRef, Plain] = {}
        self._rewritten = _rewritten(pieces)
        self.refused: dict[Finding, None] = {}
        self.warnings: dict[Finding, None] = {}

    @property
    def mirrors(self) -> tuple[Mirror, ...]:
        """The keys that the glue code is to define."""
        return tuple(mirror for mirror, _ in self._mirrors.values())

    @property
    def pointers(self) -> tuple[Piece, ...]:
        """For each mirror, the pointer to the kernel's key: pieces that go into the patch."""
        return tuple(piece for _, piece in self._mirrors.values())

    def resolve(self, ref: KernelRef) -> Resolved | Finding:
        """The way to reach a target, with what `settle` has decided of keys."""
        if ref.name.startswith(MIRROR_PREFIX):
            return Plain(ref.name)
        return self._exported.get(ref) or self._resolver.resolve(ref)

    def settle(self, piece: Piece) -> Piece:
        """A table without entries whose key is private to a module, and with mirrors in place.

        A static call still works without its entry: it goes through the trampoline. A tracepoint
        keeps quiet in the patched function, with a warning. Any other private key is refused.
        """
        table = TABLES.get(piece.section) if piece.kind is PieceKind.TABLE else None
        if table is None or not table.keyed or not piece.entsize:  # 0: code refers to the table
            return piece
        dropped: set[int] = set()
        relocs = []
        for reloc in piece.relocs:
            target = reloc.target
            if reloc.offset % piece.entsize == 0 or not isinstance(target, KernelRef):
                relocs.append(reloc)
                continue
            resolved = self._resolver.resolve(target)
            if not isinstance(resolved, Finding) and self._resolver.becomes_read_only(resolved):
                if piece.section == JUMP_TABLE:
                    reloc = self._mirrored(piece, reloc, resolved)
                else:
                    dropped.add(reloc.offset // piece.entsize)
            elif isinstance(resolved, Livepatch) and self._resolver.comes_late(resolved):
                exported = self._exported_key(piece.section, target, resolved)
                if exported is None:
                    dropped.add(reloc.offset // piece.entsize)
                    self._judge_private_key(piece.section, resolved)
                else:
                    reloc = replace(reloc, target=exported)
            relocs.append(reloc)
        settled = replace(piece, relocs=tuple(relocs))
        return _without_entries(settled, dropped) if dropped else settled

    def _exported_key(self, section: str, ref: KernelRef, key: Livepatch) -> KernelRef | None:
        """The reference through which the patch needs a key's module; None where it must not.

        No tracepoint is worth that the patch cannot be loaded before the module.
        """
        plain = self._resolver.exported(ref.name, key.object) if not key.offset else None
        if plain is None or section != JUMP_TABLE or key.name.startswith(_TRACEPOINT):
            return None
        if self._resolver.module_read_only(key.object, key.name):
            return None
        named = KernelRef(ref.name, None, defined=False, is_global=True)
        self._exported[named] = plain
        finding = Finding(
            "module-needed",
            key.name,
            f"the static key '{key.name}' belongs to the module {key.object}: the patch can be "
            f"loaded only while {key.object} is there, and {key.object} cannot be unloaded while "
            "the patch is applied",
        )
        self.warnings[finding] = None
        return named

    def _mirrored(self, piece: Piece, reloc: PieceReloc, resolved: object) -> PieceReloc:
        at = reloc.addend & ~_FLAGS
        if (resolved, at) not in self._mirrors:
            suffix = f"{self._number}_{len(self._mirrors)}"
            mirror = Mirror(
                MIRROR_PREFIX + suffix, MIRRORED_PREFIX + suffix, self._initial(piece, reloc)
            )
            assert isinstance(reloc.target, KernelRef)
            self._mirrors[(resolved, at)] = mirror, _pointer(mirror.real, reloc.target, at)
        key = self._mirrors[(resolved, at)][0].key
        target = KernelRef(key, None, defined=False, is_global=True)
        return replace(reloc, target=target, addend=reloc.addend & _FLAGS)

    def _initial(self, piece: Piece, key: PieceReloc) -> bool:
        """The state of a key for which the code at its entry's place is as it is compiled."""
        start = key.offset // piece.entsize * piece.entsize
        place = next(r for r in piece.relocs if r.offset == start)
        assert isinstance(place.target, PieceRef)
        jumps = self._pieces[place.target.piece].data[place.addend] in _JUMPS
        return (jumps and not key.addend & _UNREWRITTEN) != bool(key.addend & _BRANCH)

    def _judge_private_key(self, section: str, key: Livepatch) -> None:
        if section != JUMP_TABLE:
            return
        if key.name.startswith(_TRACEPOINT):
            name = key.name.removeprefix("__tracepoint_")
            finding = Finding(
                "tracepoint-dropped",
                name,
                f"the tracepoint '{name}' of {_owner(key)} does not fire in the patched "
                "functions while the patch is applied",
            )
            self.warnings[finding] = None
        else:
            self.refused[
                Finding(
                    "private-static-key",
                    key.name,
                    f"the static key '{key.name}' belongs to {_owner(key)}: patched code "
                    "cannot follow it; use static_key_enabled() in the patched function",
                )
            ] = None

    def check_timing(self, number: int, reloc: PieceReloc, target: Livepatch) -> None:
        """Refuses a relocation of piece `number` that comes later than it is needed."""
        piece = self._pieces[number] if number < len(self._pieces) else None
        if piece is None or not self._resolver.comes_late(target):
            return
        text = ""
        if piece.section == ".altinstr_replacement":
            text = f"an alternative instruction refers to '{target.name}'"
        elif piece.kind is PieceKind.TABLE and piece.section in TABLES:
            text = f"an entry of section '{piece.section}' refers to '{target.name}'"
        elif any(start <= reloc.offset < end for start, end in self._rewritten.get(number, ())):
            text = f"'{piece.name}' refers to '{target.name}' where there is an alternative"
        if text:
            when = "the patch is applied" if target.object == VMLINUX else "the module is there"
            message = (
                f"{text} of {_owner(target)}: its address is put in when {when}, and the kernel "
                "needs it when the patch module loads; patch a function that calls this one"
            )
            self.refused[Finding("late-alternative", target.name, message)] = None


def _owner(target: Livepatch) -> str:
    if target.object == VMLINUX:
        return "the kernel, which does not export it and has no livepatch"
    return f"the module {target.object}"


def _rewritten(pieces: Sequence[Piece]) -> dict[int, list[tuple[int, int]]]:
    """The ranges of each piece that the kernel overwrites with alternatives, by its index."""
    found: dict[int, list[tuple[int, int]]] = {}
    for piece in pieces:
        if piece.section == ALTERNATIVES:
            for place, length in _alternatives(piece):
                assert isinstance(place.target, PieceRef)
                span = (place.addend, place.addend + length)
                found.setdefault(place.target.piece, []).append(span)
    return found


def _alternatives(piece: Piece) -> Iterator[tuple[PieceReloc, int]]:
    """The place of each entry, and how many bytes of instructions there are.

    An entry ends with the two lengths, of the instruction and of what replaces it. Before 5.13
    ("x86/alternative: Drop padlen from struct alt_instr") a third followed, and made its size odd.
    """
    size = piece.entsize
    at_length = size - (3 if size % 2 else 2)
    for reloc in piece.relocs:
        start = reloc.offset
        whole = size > 2 and start % size == 0 and start + size <= len(piece.data)
        if whole and isinstance(reloc.target, PieceRef):
            yield reloc, piece.data[start + at_length]


def _pointer(symbol: str, target: KernelRef, addend: int) -> Piece:
    return Piece(
        PieceKind.DATA,
        symbol,
        ".data.rebootless_keys",
        int(SectionType.PROGBITS),
        int(SectionFlag.WRITE | SectionFlag.ALLOC),
        _POINTER,
        0,
        bytes(_POINTER),
        _POINTER,
        (PieceSymbol(symbol, 0, _POINTER, int(SymbolType.OBJECT), is_global=True),),
        (PieceReloc(0, int(Reloc.R64), target, addend),),
    )


def _without_entries(piece: Piece, dropped: set[int]) -> Piece:
    size = piece.entsize
    keep = [n for n in range(piece.size // size) if n not in dropped]
    moved = {old: new for new, old in enumerate(keep)}
    relocs = tuple(
        PieceReloc(moved[r.offset // size] * size + r.offset % size, r.type, r.target, r.addend)
        for r in piece.relocs
        if r.offset // size in moved
    )
    data = b"".join(piece.data[n * size : (n + 1) * size] for n in keep)
    return replace(piece, data=data, size=len(data), relocs=relocs)
