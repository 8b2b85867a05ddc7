"""A type as C writes it: `struct inode *(*find)(const char *, int)`."""

from __future__ import annotations

from .btf import Btf, Kind
from .twins import COMPOSITE, ENUMS, MAX_DEPTH

WORDS = {
    Kind.CONST: "const", Kind.VOLATILE: "volatile", Kind.RESTRICT: "restrict",
    Kind.STRUCT: "struct", Kind.UNION: "union", Kind.ENUM: "enum", Kind.ENUM64: "enum",
}  # fmt: skip


def declare(btf: Btf, number: int, name: str = "", depth: int = 0) -> str:
    """A declaration of `name` with a type; the type alone without a name.

    Raises ElfError for types that never end.
    """
    if depth > MAX_DEPTH:
        raise btf.broken(number, f"is one of more than {MAX_DEPTH} within another")
    kind, target = Kind(btf.kinds[number]), btf.targets[number]
    if kind is Kind.PTR:
        inner = Kind(btf.kinds[btf.plain(target)])
        text = f"(*{name})" if inner in (Kind.ARRAY, Kind.FUNC_PROTO) else f"*{name}"
        return declare(btf, target, text, depth + 1)
    if kind is Kind.ARRAY:
        element, count = btf.array(number)
        return declare(btf, element, f"{name}[{count or ''}]", depth + 1)
    if kind is Kind.FUNC_PROTO:
        return declare(btf, target, f"{name}({_parameters(btf, number, depth)})", depth + 1)
    if kind in (Kind.CONST, Kind.VOLATILE, Kind.RESTRICT):
        if btf.kinds[btf.plain(target)] == Kind.PTR:  # it is the pointer that is constant
            return declare(btf, target, f" {WORDS[kind]} {name}".rstrip(), depth + 1)
        return f"{WORDS[kind]} {declare(btf, target, name, depth + 1)}"
    if kind in (Kind.FUNC, Kind.TYPE_TAG, Kind.VAR, Kind.DECL_TAG):
        return declare(btf, target, name, depth + 1)
    return f"{_base(btf, number, kind)} {name}".rstrip()


def _base(btf: Btf, number: int, kind: Kind) -> str:
    name = btf.type_name(number)
    if kind is Kind.FWD:
        return f"{'union' if btf.is_flagged(number) else 'struct'} {name}"
    if kind in COMPOSITE or kind in ENUMS:
        return f"{WORDS[kind]} {name or '{...}'}"
    return name


def _parameters(btf: Btf, number: int, depth: int) -> str:
    parts = []
    for parameter in btf.parameters(number):
        dots = not parameter.type and not parameter.name
        parts.append("..." if dots else declare(btf, parameter.type, "", depth + 1))
    return ", ".join(parts) or "void"
