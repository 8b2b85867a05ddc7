"""How each reference into the running kernel is reached from a patch module.

- what another unit of this patch adds          -> a plain symbol, resolved at link
- what vmlinux exports                          -> a plain symbol, resolved when the module loads
- everything else in vmlinux or in a module     -> a livepatch symbol `.klp.sym.OBJ.NAME,POS`

The position tells namesakes apart (kernel: Documentation/livepatch/module-elf-format.rst). It is
never guessed: it follows from the address that run-pre matching proved, or the name is unique.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from ..diff.delta import Finding, KernelRef

VMLINUX = "vmlinux"


@dataclass(frozen=True)
class Plain:
    """An ordinary undefined symbol."""

    name: str
    namespace: str = ""
    is_weak: bool = False


@dataclass(frozen=True)
class Livepatch:
    """A livepatch symbol: `name` at `position` in `object`; `offset` bytes are added."""

    object: str
    name: str
    position: int
    offset: int = 0


Resolved = Plain | Livepatch


@dataclass(frozen=True)
class Proof:
    """What run-pre matching proved of a symbol of the original object."""

    name: str
    position: int
    offset: int = 0


class ExportLike(Protocol):
    """What is needed of an export: see kernel.symvers.Export."""

    @property
    def owner(self) -> str: ...
    @property
    def namespace(self) -> str: ...


def owner_of(export: ExportLike) -> str:
    """ "vmlinux", or the name of the module that exports a symbol."""
    return PurePosixPath(export.owner).name.replace("-", "_")


class Positions(Protocol):
    """Looks up a name that only the patched code refers to."""

    def positions_of(self, object_name: str, name: str) -> tuple[int, ...]:
        """The livepatch positions of a global `name` in an object; () if it has none."""
        ...

    def places_of(self, object_name: str, name: str) -> tuple[str, ...]:
        """Where an object has `name`, local or global, in words and by position."""
        ...


def _never(name: str, position: int) -> bool:
    """The default for `Resolver.read_only`: nothing is known of any symbol."""
    return False


def _unknown_module(module: str, name: str) -> bool:
    """The default for `Resolver.module_read_only`: what cannot be looked at is not written to."""
    return True


def _nowhere(name: str) -> bool:
    """The default for `Resolver.is_exposed`: no static becomes global."""
    return False


@dataclass(frozen=True)
class Resolver:
    """Resolves the references of one unit, which belongs to `object` (vmlinux or a module).

    `read_only` tells whether the symbol of vmlinux with a name and a livepatch position lies where
    the kernel is read-only once it has booted, `module_read_only` whether a symbol of a module
    lies where that module is once it is loaded; `is_exposed` whether a name is static in a unit of
    the kernel and global in the patched source. `livepatch`: the kernel's loader itself applies the
    livepatch relocations of vmlinux; else they come when the patch is applied.
    """

    object: str
    exports: Mapping[str, ExportLike]
    siblings: frozenset[str]
    proofs: Mapping[int, Proof]
    positions: Positions
    read_only: Callable[[str, int], bool] = _never
    is_exposed: Callable[[str], bool] = _nowhere
    module_read_only: Callable[[str, str], bool] = _unknown_module
    livepatch: bool = True

    def comes_late(self, target: Resolved) -> bool:
        """Whether a target's address is put in after the loader has settled the module's code."""
        return isinstance(target, Livepatch) and not (target.object == VMLINUX and self.livepatch)

    def becomes_read_only(self, target: Resolved) -> bool:
        """Whether a target in the kernel proper cannot be written to once the kernel has booted."""
        if isinstance(target, Livepatch):
            return target.object == VMLINUX and self.read_only(target.name, target.position)
        return target.name not in self.siblings and self.read_only(target.name, 0)

    def exported(self, name: str, owner: str) -> Plain | None:
        """The ordinary symbol for what the module `owner` exports; None if it exports no `name`."""
        export = self.exports.get(name)
        if export is None or owner_of(export) != owner:
            return None
        return Plain(name, export.namespace)

    def resolve(self, ref: KernelRef) -> Resolved | Finding:
        """The way to reach `ref`, or the refusal that says why there is none."""
        if ref.position is not None:
            return self._declared(ref, ref.position)
        if not ref.defined and ref.name in self.siblings:
            return Plain(ref.name)
        proof = self.proofs.get(ref.orig_symbol) if ref.orig_symbol is not None else None
        # A module's own symbol hides what the kernel exports by the same name.
        is_own = proof is not None and self.object != VMLINUX
        if ref.is_global and not is_own and (export := self.exports.get(ref.name)) is not None:
            return self._exported(ref, export)
        if proof is not None:
            return Livepatch(self.object, proof.name, proof.position, proof.offset)
        if ref.defined and not (ref.is_weak and self._has(ref.name)):
            return Finding(
                "unproven-symbol",
                ref.name,
                f"'{ref.name}' could not be located in the shipped {self.object}",
            )
        return self._by_name(ref)

    def _has(self, name: str) -> bool:
        """Whether the shipped object has one global symbol of that name, whoever defines it."""
        return len(self.positions.positions_of(self.object, name)) == 1

    def _exported(self, ref: KernelRef, export: ExportLike) -> Resolved | Finding:
        owner = owner_of(export)
        if owner == VMLINUX:
            return Plain(ref.name, export.namespace)
        if self.object == VMLINUX:
            return Finding(
                "module-symbol",
                ref.name,
                f"'{ref.name}' is exported by the module {owner}, which the kernel proper cannot "
                "refer to",
            )
        return Livepatch(owner, ref.name, 0)

    def _declared(self, ref: KernelRef, position: int) -> Resolved | Finding:
        """What the author of a hand-written patch means; checked, not guessed."""
        if self.object == VMLINUX and ref.object != VMLINUX:
            return Finding(
                "module-symbol",
                ref.name,
                f"'{ref.name}' belongs to the module {ref.object}, which the kernel proper cannot "
                "refer to",
            )
        places = self.positions.places_of(ref.object, ref.name)
        if not places:
            return Finding(
                "unknown-symbol", ref.name, f"the kernel's {ref.object} has no '{ref.name}'"
            )
        proof = self.proofs.get(ref.orig_symbol) if ref.orig_symbol is not None else None
        if proof is not None and not proof.offset and ref.object == self.object:
            if position in (proof.position, 0):
                return Livepatch(self.object, proof.name, proof.position)
            return Finding(
                "wrong-position",
                ref.name,
                f"'{ref.name}' of this unit is the one at position {proof.position} in "
                f"{ref.object}, not at {position}",
            )
        if (position == 0 and len(places) > 1) or position > len(places):
            listed = "".join(f"\n      {n}: {place}" for n, place in enumerate(places, 1))
            return Finding(
                "ambiguous-symbol",
                ref.name,
                f"{ref.object} has {len(places)} symbols '{ref.name}', so REBOOTLESS_SYMBOL must "
                f"give the position of the one that is meant:{listed}",
            )
        return Livepatch(ref.object, ref.name, 0 if len(places) == 1 else position)

    def _by_name(self, ref: KernelRef) -> Resolved | Finding:
        for owner in dict.fromkeys((self.object, VMLINUX)):
            positions = self.positions.positions_of(owner, ref.name)
            if len(positions) == 1:
                return Livepatch(owner, ref.name, positions[0])
            if positions:
                return Finding(
                    "ambiguous-symbol",
                    ref.name,
                    f"{owner} has {len(positions)} symbols '{ref.name}', and the patched code is "
                    "the first to refer to it: which one is meant cannot be proven",
                )
        if self.is_exposed(ref.name):
            return self._exposed(ref.name)
        if ref.is_weak:
            return Plain(ref.name, is_weak=True)
        return self._unknown(ref.name)

    def _exposed(self, name: str) -> Resolved | Finding:
        """A symbol that the patch makes global: still a local one in the kernel."""
        places = self.positions.places_of(self.object, name)
        if len(places) == 1:
            return Livepatch(self.object, name, 0)
        return Finding(
            "ambiguous-symbol",
            name,
            f"the patch makes '{name}' global, of which {self.object} has {len(places)}: which one "
            "is meant cannot be proven; reach it through a function of its unit",
        )

    def _unknown(self, name: str) -> Finding:
        private = [o for o in (self.object, VMLINUX) if self.positions.places_of(o, name)]
        if not private:
            message = f"neither {self.object} nor the patch defines '{name}'"
            return Finding("unknown-symbol", name, message)
        return Finding(
            "unknown-symbol",
            name,
            f"'{name}' is private to another unit of {private[0]}; a patch that is written as C "
            f"reaches it with REBOOTLESS_SYMBOL({private[0]}, {name}, 0);",
        )
