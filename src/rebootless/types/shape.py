"""What of a type matters to code that was compiled for it: sizes, offsets, and kinds of values.

A signature is a text that is equal for two types if the same machine code serves both: typedefs
are followed, qualifiers dropped, integers told by size and sign. Structs, unions and enums with a
name stand as that name, declared or defined, so nothing goes round in circles. Those without a name
belong to where they stand, and their members to the type around them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .btf import BOOL, SIGNED, Btf, Kind
from .twins import COMPOSITE, ENUMS, MAX_DEPTH

STEPS = 100  # per type that there is; a unit of the kernel takes 2
POINTER_SIZE = 8
BYTE = 8
# Old pahole (1.20, of Debian 11) does not tell that they have a sign; their names do.
CHARACTERS = ("char", "signed char")


class Field(NamedTuple):
    """A member, those of anonymous structs and unions included, by its way ("key.objectid").

    `offset` and `size` in bits from the start of the outermost type; `size` is 0 for a flexible
    array. `type` is its number, `is_bits` whether it is a bitfield.
    """

    name: str
    offset: int
    size: int
    signature: str
    type: int
    is_bits: bool


class Shapes:
    """The shapes of one section's types, each worked out once."""

    def __init__(self, btf: Btf) -> None:
        self.btf = btf
        self._signatures: dict[int, str] = {0: "void"}
        self._steps = 0

    def fields(self, number: int) -> tuple[Field, ...]:
        """The members of a struct, union, or typedef of one. Raises ElfError for damage."""
        return tuple(self._fields(self.resolved(number), "", 0, 0))

    def resolved(self, number: int) -> int:
        """A type without qualifiers and typedefs."""
        for _ in range(MAX_DEPTH):
            number = self.btf.plain(number)
            if self.btf.kinds[number] != Kind.TYPEDEF:
                return number
            number = self.btf.targets[number]
        raise self.btf.broken(number, "is a typedef that never ends")

    def is_own(self, number: int) -> bool:
        """Whether a type is described in full by what it is: it has no name of its own."""
        kind = self.btf.kinds[number]
        return kind in (*COMPOSITE, *ENUMS) and not self.btf.type_name(number)

    def size(self, number: int, depth: int = 0) -> int:
        """The size in bits; 0 for what has none (void, functions, what is only declared)."""
        btf = self.btf
        number = self.resolved(number)
        kind = btf.kinds[number]
        if kind == Kind.PTR:
            return POINTER_SIZE * BYTE
        if kind == Kind.ARRAY:
            element, count = btf.array(number)
            self._limit(number, depth)
            return count * self.size(element, depth + 1)
        if kind in (Kind.INT, Kind.FLOAT, *COMPOSITE, *ENUMS):
            return btf.size(number) * BYTE
        return 0

    def signature(self, number: int, depth: int = 0) -> str:
        """The text that is equal for types that serve the same code."""
        found = self._signatures.get(number)
        if found is None:
            self._limit(number, depth)
            found = self._signatures[number] = self._signature(number, depth)
        return found

    def _signature(self, number: int, depth: int) -> str:
        btf, kind = self.btf, self.btf.kinds[number]
        if kind == Kind.INT:
            encoding = btf.integer(number)[0]
            if (name := btf.type_name(number)) in CHARACTERS:
                return name
            sign = "bool" if encoding & BOOL else "s" if encoding & SIGNED else "u"
            return f"{sign}{btf.size(number)}"
        if kind == Kind.FLOAT:
            return f"float{btf.size(number)}"
        if kind == Kind.PTR:
            return "*" + self.signature(btf.targets[number], depth + 1)
        if kind == Kind.ARRAY:
            element, count = btf.array(number)
            return f"[{count}]" + self.signature(element, depth + 1)
        if kind == Kind.FUNC_PROTO:
            return self._prototype(number, depth)
        if kind == Kind.TYPEDEF:
            inner = self.resolved(number)
            if self.is_own(inner):  # the typedef is its only name
                return f"typedef {self._typedef_name(number)}"
            return self.signature(inner, depth + 1)
        if kind == Kind.FWD:
            return f"{'union' if btf.is_flagged(number) else 'struct'} {btf.type_name(number)}"
        if kind in COMPOSITE or kind in ENUMS:
            word = "enum" if kind in ENUMS else Kind(kind).name.lower()
            name = btf.type_name(number)
            return f"{word} {name}" if name else f"{word}{self._content(number, depth)}"
        return self.signature(btf.targets[number], depth + 1)  # qualifiers; functions

    def _typedef_name(self, number: int) -> str:
        """The last name on the way to a type without one: its content is compared by it."""
        btf, name = self.btf, ""
        while btf.kinds[number] == Kind.TYPEDEF:
            name = btf.type_name(number)
            number = btf.plain(btf.targets[number])
        return name

    def _prototype(self, number: int, depth: int) -> str:
        parts = []
        for parameter in self.btf.parameters(number):
            dots = not parameter.type and not parameter.name
            parts.append("..." if dots else self.signature(parameter.type, depth + 1))
        result = self.signature(self.btf.targets[number], depth + 1)
        return f"({', '.join(parts)})->{result}"

    def _content(self, number: int, depth: int) -> str:
        """The inside of a type without a name."""
        if self.btf.kinds[number] in ENUMS:
            return str(self.btf.size(number))
        fields = (
            f"{f.name}@{f.offset}+{f.size}:{f.signature}"
            for f in self._fields(number, "", 0, depth + 1)
        )
        return f"{self.btf.size(number)}{{{'; '.join(fields)}}}"

    def _fields(self, number: int, way: str, start: int, depth: int) -> Iterator[Field]:
        self._limit(number, depth)
        if self.btf.kinds[number] not in COMPOSITE:
            return
        for member in self.btf.members(number):
            name, offset = way + member.name, start + member.offset
            inner = self.btf.plain(member.type)
            if self.btf.kinds[inner] in COMPOSITE and self.is_own(inner):
                yield from self._fields(
                    inner, f"{name}." if member.name else way, offset, depth + 1
                )
                continue
            offset, width = self._bits(inner, offset, member.width)
            size = width or self.size(inner)
            yield Field(
                name, offset, size, self.signature(inner, depth + 1), member.type, width > 0
            )

    def _bits(self, number: int, offset: int, width: int) -> tuple[int, int]:
        """Place and width of a bitfield; older BTF tells them with the integer itself."""
        number = self.resolved(number)
        if not width and self.btf.kinds[number] == Kind.INT:
            _, within, bits = self.btf.integer(number)
            if bits != self.btf.size(number) * BYTE:
                return offset + within, bits
        return offset, width

    def _limit(self, number: int, depth: int) -> None:
        self._steps += 1
        if depth > MAX_DEPTH or self._steps > STEPS * len(self.btf.kinds):
            raise self.btf.broken(number, f"is one of more than {MAX_DEPTH} within another")
