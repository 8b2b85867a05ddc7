"""Unit objects and the C glue -> one .ko, by the kernel's own kbuild.

The directory holds `livepatch.c` (the glue), generated headers that list objects, functions and
keys, and the units' ready-made objects. kbuild compiles the glue, links with the kernel's
module.lds, and modpost adds vermagic and the CRCs of every exported symbol used.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..base.errors import CommandError, CompileError
from ..base.fs import atomic_write, read_bytes
from ..base.proc import out_of_space, run
from ..diff.delta import CallbackKind, SystemState
from .features import UnitCallbacks, callbacks_variable, features_header
from .keys import Mirror
from .relocs import MAX_SYMBOL, finish
from .resolve import VMLINUX

WRITTEN = "/* Written anew for each patch; see livepatch.c. */"
GLUE = ("livepatch.c", "rebootless_core.h", "rebootless_klp.h")
# Objtool has seen the units (compile.tree.objtool_now). Where kbuild would run it on the linked
# module only, it runs on the glue alone instead.
KBUILD = """\
obj-m := {name}.o
{name}-y := {parts}
ccflags-y := -I$(src)
override is-single-obj-m := y
$(obj)/{name}.o: override objtool-enabled :=
"""


@dataclass(frozen=True)
class PatchedFunction:
    """An entry of the patch: the original's name and position, and the new code's symbol.

    `code` is how the shipped function begins; of its bits the kernel leaves those in `mask` alone.
    """

    symbol: str
    old_name: str
    position: int
    code: bytes = b""
    mask: bytes = b""


@dataclass(frozen=True)
class PatchedObject:
    """The functions of one object; `name` is "vmlinux" or a module's name.

    `callbacks` has an entry for each unit of the object that has any, in their order.
    """

    name: str
    functions: tuple[PatchedFunction, ...]
    callbacks: tuple[UnitCallbacks, ...] = ()


def link(
    name: str,
    *,
    objects: Sequence[PatchedObject],
    units: Sequence[bytes],
    make: Callable[..., list[str]],
    folder: Path,
    replace: bool,
    states: Sequence[SystemState] = (),
    namespaces: Iterable[str] = (),
    mirrors: Sequence[Mirror] = (),
    max_symbol: int = MAX_SYMBOL,
    livepatch: bool = True,
    symvers: Sequence[Path] = (),
) -> bytes:
    """Builds the patch module `name` in the empty directory `folder` and returns its bytes.

    `make` gives the command line of the kernel's kbuild for arguments (see `compile.tree.Tree`);
    `livepatch` says whether that kernel has CONFIG_LIVEPATCH, `symvers` are the exports of modules
    that are not of the kernel's tree.
    Raises CompileError with kbuild's output.
    """
    features = features_header([o.callbacks for o in objects], states)
    atomic_write(folder / "rebootless_features.h", features)
    _write_sources(name, objects, units, folder, replace, sorted(namespaces))
    atomic_write(folder / "rebootless_keys.h", _keys_header(mirrors))
    more = f"KBUILD_EXTRA_SYMBOLS={' '.join(str(path.absolute()) for path in symvers)}"
    try:
        run(make(f"M={folder}", "-s", *([more] if symvers else []), "modules"), timeout=300)
    except CommandError as exc:
        if (full := out_of_space(exc.output, folder)) is not None:
            raise full from exc
        raise CompileError(
            f"kbuild could not link the patch module:\n{exc.message}",
            hint="the work folder holds the sources it was given",
        ) from exc
    linked = folder / f"{name}.ko"
    content = read_bytes(linked)
    return finish(content, name=str(linked), max_symbol=max_symbol, livepatch=livepatch)


def _write_sources(
    name: str,
    objects: Sequence[PatchedObject],
    units: Sequence[bytes],
    folder: Path,
    replace: bool,
    namespaces: Sequence[str],
) -> None:
    for file in GLUE:
        with resources.as_file(resources.files("rebootless") / "kmod" / file) as path:
            shutil.copyfile(path, folder / file)
    atomic_write(folder / "rebootless_objects.h", _objects_header(objects, replace, namespaces))
    parts = ["livepatch.o"]
    for number, data in enumerate(units):
        part = f"unit{number}.o"
        atomic_write(folder / part, data)
        atomic_write(folder / f".{part}.cmd", "")  # modpost wants one per object
        parts.append(part)
    # The objects are given: without rules of their own, kbuild takes the files as they are.
    atomic_write(folder / "Kbuild", KBUILD.format(name=name, parts=" ".join(parts)))


def _objects_header(
    objects: Sequence[PatchedObject], replace: bool, namespaces: Sequence[str]
) -> str:
    functions = [f for target in objects for f in target.functions]
    lines = [WRITTEN, f"#define REBOOTLESS_REPLACE {'true' if replace else 'false'}"]
    lines += [f"MODULE_IMPORT_NS({n});" for n in namespaces]
    lines += [f"extern char {f.symbol}[];" for f in functions]
    for number, target in enumerate(objects):
        lines.append(f"static struct klp_func functions_{number}[] = {{")
        lines += [
            f'\t{{ .old_name = "{f.old_name}", .new_func = {f.symbol}, '
            f".old_sympos = {f.position} }},"
            for f in target.functions
        ]
        lines += ["\t{ }", "};"]
    lines.append("static const struct rebootless_entry entries[] = {")
    lines += [f"\t{{ {_bytes(f.code)}, {_bytes(f.mask)} }}," for f in functions]
    lines += ["\t{ }", "};", "static const struct chain chains[] = {"]
    lines += [f"\t{_chain(number, target)}," for number, target in enumerate(objects)]
    lines += ["\t{ }", "};", "static struct klp_object objects[] = {"]
    lines += [f"\t{_object(number, target)}," for number, target in enumerate(objects)]
    lines += ["\t{ }", "};"]
    return "\n".join(lines) + "\n"


def _bytes(data: bytes) -> str:
    return "{ " + ", ".join(f"{byte:#04x}" for byte in data) + " }"


def _chain(number: int, target: PatchedObject) -> str:
    variable = callbacks_variable(number)
    return f"{{ {variable}, ARRAY_SIZE({variable}) }}" if target.callbacks else "{ }"


def _object(number: int, target: PatchedObject) -> str:
    """An object with callbacks has all four of the main file, which call those of its units."""
    name = "" if target.name == VMLINUX else f'.name = "{target.name}", '
    calls = ", ".join(f".{kind.value} = {kind.value}" for kind in CallbackKind)
    more = f", .callbacks = {{ {calls} }}" if target.callbacks else ""
    return f"{{ {name}.funcs = functions_{number}{more} }}"


def _keys_header(mirrors: Sequence[Mirror]) -> str:
    lines = [WRITTEN]
    for mirror in mirrors:
        state = "TRUE" if mirror.initial else "FALSE"
        lines.append(f"struct static_key {mirror.key} = STATIC_KEY_INIT_{state};")
        lines.append(f"extern struct static_key *{mirror.real};")
    lines.append("static const struct mirror mirrors[] = {")
    lines += [f"\t{{ &{mirror.key}, &{mirror.real} }}," for mirror in mirrors]
    lines += ["\t{ }", "};"]
    return "\n".join(lines) + "\n"
