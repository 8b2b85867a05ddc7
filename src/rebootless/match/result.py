"""What comes out of matching a unit: per function, per data section, per symbol."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from ..base.errors import MismatchError


class Status(StrEnum):
    """What came out for a block."""

    MATCHED = "matched"
    MISMATCHED = "mismatched"
    ABSENT = "absent"
    AMBIGUOUS = "ambiguous"


@dataclass(frozen=True)
class FunctionMatch:
    """One function symbol of the object. Offsets and sizes are in bytes.

    `expected` and `found` are up to 16 bytes from `first_difference` on, ours and the shipped;
    `explained` tells legitimate differences of a matched function.
    """

    name: str
    symbol: int
    status: Status
    address: int | None
    size: int
    first_difference: int | None = None
    expected: bytes = b""
    found: bytes = b""
    reason: str = ""
    explained: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataMatch:
    """One data section of the object; `evidence` is "reference", "content" or "name"."""

    name: str
    section: int
    status: Status
    address: int | None
    size: int
    evidence: str = ""
    first_difference: int | None = None
    expected: bytes = b""
    found: bytes = b""
    reason: str = ""


@dataclass(frozen=True)
class Proven:
    """The shipped symbol that a symbol of the object is: `offset` bytes into `name`.

    `sympos` is livepatch's position, None where no position can name the symbol; `external` means
    that a module imports it. `place` is the link-time address in vmlinux, and in a module a
    number of the matcher's own.
    """

    place: int
    name: str
    sympos: int | None
    offset: int
    external: bool = False


@dataclass(frozen=True)
class UnitMatch:
    """The outcome for one object against one shipped kernel or module.

    `uses` tells the data sections that a matched function (by symbol index) refers to.
    """

    owner: str
    functions: tuple[FunctionMatch, ...]
    data: tuple[DataMatch, ...]
    proven: dict[int, Proven] = field(repr=False)
    uses: dict[int, frozenset[int]] = field(repr=False, default_factory=dict)

    @cached_property
    def by_name(self) -> dict[str, FunctionMatch]:
        """The functions by name (names are unique within an object, as far as gcc makes them)."""
        return {f.name: f for f in self.functions}

    @property
    def mismatches(self) -> tuple[FunctionMatch, ...]:
        """The functions that are neither matched nor absent for a known reason."""
        bad = (Status.MISMATCHED, Status.AMBIGUOUS)
        return tuple(f for f in self.functions if f.status in bad)

    def require(self, names: Set[str], called: Set[int] = frozenset()) -> None:
        """Raises MismatchError naming the first of `names` that is not matched, and why.

        The cold parts of the functions must match as well, and the data they refer to must not
        differ. Nor may a function differ that the patch calls (`called`: symbol indices): how
        gcc calls a static function follows from its body.
        """
        for name in sorted(names - self.by_name.keys()):
            self._refuse(name, "no function of that name was built")
        for function in sorted(self.functions, key=lambda f: f.name):
            if function.name in names or function.name.partition(".cold")[0] in names:
                if function.status is not Status.MATCHED:
                    self._refuse(function.name, describe(function))
                for data in self.data:
                    used = data.section in self.uses.get(function.symbol, ())
                    if used and data.status is Status.MISMATCHED:
                        self._refuse(function.name, f"it refers to '{data.name}': {data.reason}")
            elif function.symbol in called and function.status is Status.MISMATCHED:
                self._refuse(function.name, f"the patch calls it: {describe(function)}")

    def _refuse(self, name: str, why: str) -> None:
        raise MismatchError(
            f"the build of '{name}' is not what {self.owner} ships: {why}",
            hint="compile with the very compiler and configuration of the kernel",
        )


def describe(function: FunctionMatch) -> str:
    """One line on why a function is not matched, with the first differing bytes."""
    text = function.reason or function.status.value
    if function.first_difference is not None:
        text += (
            f" at {function.name}+{function.first_difference:#x}"
            f" (built {function.expected.hex(' ')}, shipped {function.found.hex(' ')})"
        )
    return text
