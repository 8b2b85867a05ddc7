"""The CRCs of exported symbols (modversions): of a unit as shipped, and as patched.

kbuild runs genksyms over the preprocessed source, and leaves what it says with the unit's command
(linux, cmd_gen_symversions_c in scripts/Makefile.build). The patched source goes the same way here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..base import proc
from ..base.errors import CompileError
from ..base.events import Monitor
from ..patch.source import SourcePatch
from . import originals, twin
from .kbuild import Command, parse_versions
from .tree import Tree
from .unit import apply_to, contents_of

GENKSYMS = "scripts/genksyms/genksyms"
PREPROCESS = ("-E", "-D__GENKSYMS__")


@dataclass(frozen=True)
class Versions:
    """A unit's exported symbols and their CRCs, before and after."""

    source: str
    original: Mapping[str, int]
    patched: Mapping[str, int]


def recorded(tree: Tree, source: str) -> Mapping[str, int]:
    """The CRCs of what the original unit exports; empty without modversions, or before a build."""
    command = originals.command(tree, source)
    return command.versions if command else {}


def compute(
    tree: Tree, patch: SourcePatch, sources: Sequence[str], monitor: Monitor
) -> tuple[Versions, ...]:
    """Has genksyms look at the patched units among `sources` that export something (1 s each).

    The patch applies and compiles: it has been built. Raises CompileError, ResourceError.
    """
    before = {source: recorded(tree, source) for source in sources}
    exporting = [source for source, versions in before.items() if versions]
    if not exporting:
        return ()
    with tree.locked(monitor):
        contents = contents_of(apply_to(tree, patch, monitor))
        with twin.installed(tree, contents, ()):
            return tuple(
                Versions(source, before[source], _computed(tree, source)) for source in exporting
            )


def _computed(tree: Tree, source: str) -> dict[str, int]:
    command = originals.command(tree, source)
    if command is None:
        raise CompileError(f"kbuild left no command for {source}")
    return crcs(tree, source, command)


def crcs(tree: Tree, source: str, command: Command) -> dict[str, int]:
    """The CRCs of what a unit exports, as its source stands in the twin. Raises CompileError."""
    if not command.steps:
        raise CompileError(f"kbuild left no plain command for {source}")
    text = proc.run(tree.inside(preprocessor(command.steps[0])), cwd=tree.patched).stdout
    genksyms = tree.inside([tree.patched / GENKSYMS, "-r", "/dev/null"])
    said = proc.run(genksyms, cwd=tree.patched, input=text)
    return parse_versions(said.stdout)


def preprocessor(step: Sequence[str]) -> tuple[str, ...]:
    """The compiler's command line turned into one that preprocesses for genksyms."""
    words = [word for word in step if word != "-c" and not word.startswith("-Wp,-M")]
    if "-o" in words:
        place = words.index("-o")
        del words[place : place + 2]
    return (words[0], *PREPROCESS, *words[1:])
