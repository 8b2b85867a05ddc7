"""Puts a patch's files into the twin tree, and the links to the originals back afterwards.

The twin's files are hard links to the originals: writing into one would change both. So a file is
written aside and renamed over the link. What is touched is written to a journal first; when a
build is killed, the next one puts everything back before it starts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..base.fs import atomic_write, os_failure, read_text
from .tree import Tree

JOURNAL = "journal"


@contextlib.contextmanager
def installed(
    tree: Tree, contents: Mapping[str, bytes | None], outputs: Sequence[str]
) -> Iterator[None]:
    """Has `contents` in the twin for the block; None removes a file.

    `outputs` are paths that the block may make in the twin; they are removed at its end. The
    caller holds the tree's lock. Raises ResourceError.
    """
    restore(tree)
    journal = {"sources": sorted(contents), "outputs": sorted(outputs)}
    atomic_write(tree.bench / JOURNAL, json.dumps(journal))
    try:
        for path, content in contents.items():
            replace(tree, path, content)
        yield
    finally:
        restore(tree)


def replace(tree: Tree, path: str, content: bytes | None) -> None:
    """Puts one file into the twin (whose journal must have it), breaking the link."""
    place = tree.patched / path
    if content is not None:
        atomic_write(place, content)
        return
    place.unlink(missing_ok=True)


def restore(tree: Tree) -> None:
    """Undoes what the journal holds; does nothing when there is none."""
    journal = tree.bench / JOURNAL
    if not journal.exists():
        return
    try:
        entries = json.loads(read_text(journal))
    except ValueError:  # cannot happen to a file written atomically, but a disk may lie
        entries = {"sources": [], "outputs": []}
    try:
        for path in entries["outputs"]:
            (tree.patched / path).unlink(missing_ok=True)
        for path in entries["sources"]:
            _relink(tree.orig / path, tree.patched / path)
        journal.unlink()
    except OSError as exc:
        raise os_failure("restore", tree.patched, exc) from exc


def _relink(original: Path, place: Path) -> None:
    for stale in place.parent.glob(f".{place.name}.*") if place.parent.is_dir() else ():
        if not (original.parent / stale.name).exists():  # what a killed atomic_write left
            stale.unlink()
    if not original.exists():
        place.unlink(missing_ok=True)
    elif not (place.exists() and place.samefile(original)):
        place.unlink(missing_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.hardlink_to(original)
