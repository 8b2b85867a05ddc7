"""Preprocesses patched units, by the commands that compile them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..base import proc
from ..base.errors import CommandError, CompileError
from ..base.events import Monitor
from ..patch.apply import apply
from ..patch.source import SourcePatch
from . import originals, twin
from .originals import Variant
from .plan import skipped
from .tree import Tree
from .unit import author_headers

_OUTPUT = "-Wp,-MMD,"
_DEFINED = re.compile(r"^#define (\w+)", re.MULTILINE)


def preprocess(
    tree: Tree, patch: SourcePatch | None, sources: Sequence[str], monitor: Monitor
) -> dict[str, str]:
    """What the compiler reads of each unit, with line markers; patched, if a patch is given.

    The units are ones that were compiled before. Raises CompileError.
    """
    contents: dict[str, bytes | None] = {**author_headers()}
    if patch is not None:
        applied = apply(patch, tree.orig, monitor, skip=skipped(patch))
        contents |= {file.path: file.patched for file in applied.files}
    with tree.locked(monitor), twin.installed(tree, contents, ()):
        return {source: _preprocess(tree, source) for source in sources}


def command_line_macros(tree: Tree, source: str) -> frozenset[str]:
    """The macros that are there before the first line of a unit: the compiler's, and those of the
    headers that the command line includes. Raises CompileError."""
    argv = [*_command(tree, source)[:-1], "-dM", "-x", "c", "/dev/null"]
    defined = _run(argv, tree, source)
    return frozenset(_DEFINED.findall(defined))


def _preprocess(tree: Tree, source: str) -> str:
    return _run(_command(tree, source), tree, source)


def _command(tree: Tree, source: str) -> list[str]:
    """The command that preprocesses a unit; the unit is the last word."""
    command = originals.command(tree, source)
    if command is None or not command.steps:
        raise CompileError(f"kbuild's command for {source} is not a plain one")
    words = list(originals.steps(command, Variant())[0])
    if "-c" not in words or "-o" not in words or words[-1] != source:
        raise CompileError(f"kbuild's command for {source} compiles in a way of its own")
    output = words.index("-o")
    del words[output : output + 2]
    return ["-E" if w == "-c" else w for w in words if not w.startswith(_OUTPUT)]


def _run(argv: Sequence[str], tree: Tree, source: str) -> str:
    try:
        return proc.run(tree.inside(argv), cwd=tree.patched).stdout
    except CommandError as exc:
        raise CompileError(
            f"{source} cannot be preprocessed:\n{originals.error_lines(exc.output)}"
        ) from exc
