"""Whether the types of the original units are those of the shipped kernel, as its own BTF has them.

This is one more proof that source, headers and configuration are the kernel's. The shipped kernel
may have several types of a name, from different units: one that is the same is enough. What it does
not have was left out when its BTF was made, and says nothing.
"""

from __future__ import annotations

from ..diff.delta import Finding
from ..types.btf import Btf
from ..types.shape import Shapes
from ..types.twins import Twins
from .sidebyside import side_by_side
from .typechange import Effect, Key, TypeChange
from .typediff import definitions, type_change


class ShippedTypes:
    """The types of a shipped kernel, or of a module (whose BTF builds on the kernel's).

    Each name is looked at once, however many units have it.
    """

    def __init__(self, btf: Btf, base: ShippedTypes | None = None) -> None:
        self.btf = btf
        self._shapes = Shapes(btf)
        self._own = definitions(btf, functions=False)
        self._base = base
        self._seen: set[Key] = set()

    def numbers(self, key: Key) -> list[int]:
        """The types of a name, those of the base as well."""
        return self._own.get(key, []) + (self._base.numbers(key) if self._base else [])

    def differing(self, unit: Btf) -> tuple[TypeChange, ...]:
        """The types of an original unit that the shipped kernel has otherwise.

        The shipped one is the "old" of each change. Raises ElfError for damaged input.
        """
        found = []
        twins, shapes = Twins(self.btf, unit), Shapes(unit)
        for key, numbers in definitions(unit, functions=False).items():
            if key in self._seen:
                continue
            self._seen.add(key)
            shipped = self.numbers(key)
            for number in numbers:
                if any(twins.same_definition(other, number) for other in shipped):
                    continue
                changes = [type_change(self._shapes, shapes, *key, n, number) for n in shipped]
                if changes and all(c.effect is Effect.CHANGED for c in changes):
                    found.append(changes[0])
        return tuple(found)


def shipped_findings(source: str, changes: tuple[TypeChange, ...]) -> tuple[Finding, ...]:
    """Refusals for types that the shipped kernel has otherwise; pure."""
    return tuple(
        Finding(
            "layout-not-shipped",
            change.name,
            f"{change.title}, as {source} was built, is not that of the shipped kernel (left): "
            f"source, headers or configuration are not the kernel's own\n{side_by_side(change)}",
        )
        for change in changes
    )
