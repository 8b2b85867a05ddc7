"""What comes out of matching a unit: per function, per data section, per symbol."""

from __future__ import annotations

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
    """The outcome for one object against one shipped kernel or module."""

    owner: str
    functions: tuple[FunctionMatch, ...]
    data: tuple[DataMatch, ...]
    proven: dict[int, Proven] = field(repr=False)

    @cached_property
    def by_name(self) -> dict[str, FunctionMatch]:
        """The functions by name (names are unique within an object, as far as gcc makes them)."""
        return {f.name: f for f in self.functions}

    @property
    def mismatches(self) -> tuple[FunctionMatch, ...]:
        """The functions that are neither matched nor absent for a known reason."""
        bad = (Status.MISMATCHED, Status.AMBIGUOUS)
        return tuple(f for f in self.functions if f.status in bad)

    def require(self, names: frozenset[str] | set[str]) -> None:
        """Raises MismatchError naming the first of `names` that is not matched, and why."""
        for name in sorted(names):
            found = self.by_name.get(name)
            if found is None or found.status is not Status.MATCHED:
                why = describe(found) if found else "no function of that name was built"
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
