"""Preprocesses patched units, by the commands that compile them."""

from __future__ import annotations

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


def _preprocess(tree: Tree, source: str) -> str:
    command = originals.command(tree, source)
    if command is None or not command.steps:
        raise CompileError(f"kbuild's command for {source} is not a plain one")
    words = list(originals.steps(command, Variant())[0])
    if "-c" not in words or "-o" not in words:
        raise CompileError(f"kbuild's command for {source} compiles in a way of its own")
    output = words.index("-o")
    del words[output : output + 2]
    argv = ["-E" if w == "-c" else w for w in words if not w.startswith(_OUTPUT)]
    try:
        return proc.run(argv, cwd=tree.patched).stdout
    except CommandError as exc:
        raise CompileError(
            f"{source} cannot be preprocessed:\n{originals.error_lines(exc.output)}"
        ) from exc
