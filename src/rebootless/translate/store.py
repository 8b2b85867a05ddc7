"""Results by the content that they are of, so that nothing is built twice.

    cache/translate/RULES/KK/KEY.zip
        result.json     what became of the candidate (translate.model.Result)
        part.json       what a module needs of it, without the objects (translate.parts.Part)
        0.o  1.o ...    the objects for the link

KEY names the candidate's diff and the kernel's build-id, RULES the text of the program that judged
it: what another version of the program said is not taken over. A file is whole or absent; one that
cannot be read counts as absent.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ..base.errors import RebootlessError
from ..base.fs import atomic_write, cache_root
from .model import KNOWLEDGE, Outcome, Result, decoded, encoded
from .parts import Part

# What decides on the outcome of a build; not who shows, tests or applies it.
DECIDING = (
    "compile", "diff", "elf", "kernel", "kmod", "match", "module", "patch", "safety", "types",
    "pipeline/building.py", "pipeline/candidate.py", "pipeline/checking.py", "pipeline/copies.py",
    "pipeline/fitting.py", "pipeline/importers.py", "pipeline/landing.py", "pipeline/layouts.py",
    "pipeline/linking.py", "pipeline/newly_global.py", "pipeline/versions.py",
    "translate/blocks.py", "translate/csource.py", "translate/facts.py", "translate/model.py",
    "translate/outcome.py", "translate/parts.py", "translate/readers.py", "translate/sift.py",
    "translate/split.py",
)  # fmt: skip
LIMIT = "too-many-units"  # the code of a refusal that another --max-units may lift
_DAMAGE = (zipfile.BadZipFile, zlib.error, KeyError, ValueError, OSError, EOFError)


@functools.cache
def rules() -> str:
    """A digest of the program's text as far as a result depends on it."""
    digest = hashlib.sha256(KNOWLEDGE.encode())
    for path in DECIDING:
        for name, content in _texts(resources.files("rebootless").joinpath(path), path):
            digest.update(f"\0{name}\0".encode() + content)
    return digest.hexdigest()[:16]


def _texts(place: Traversable, name: str) -> Iterable[tuple[str, bytes]]:
    if place.is_file():
        if name.endswith((".py", ".c", ".h")):
            yield name, place.read_bytes()
    elif place.is_dir():
        for entry in sorted(place.iterdir(), key=lambda e: e.name):
            yield from _texts(entry, f"{name}/{entry.name}")


class Store:
    """The results of one version of the rules, in the cache or in a folder given."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or cache_root() / "translate" / rules()

    def path(self, key: str) -> Path:
        """Where the result of a candidate is or would be."""
        return self.folder / key[:2] / f"{key}.zip"

    def result(self, key: str) -> Result | None:
        """What became of a candidate; None if that is not known, or cannot be read."""
        try:
            found = unpacked(self.path(key).read_bytes())
        except OSError:
            return None
        return found if found is not None and found.key == key else None

    def has(self, key: str) -> bool:
        """Whether all there is to know of a candidate can be read."""
        result = self.result(key)
        if result is None:
            return False
        return result.outcome is not Outcome.LIVE_PATCH or self.part(key) is not None

    def part(self, key: str) -> Part | None:
        """What a module needs of a candidate; None if there is nothing to link."""
        with contextlib.suppress(*_DAMAGE, RebootlessError), self._open(key) as file:
            part = decoded(Part, json.loads(file.read("part.json")))
            return replace(part, objects=tuple(file.read(f"{n}.o") for n in range(len(part.units))))
        return None

    def put(self, result: Result, part: Part | None = None) -> None:
        """Keeps a result, and what there is to link. Raises ResourceError."""
        atomic_write(self.path(result.key), pack(result, part))

    def put_packed(self, key: str, blob: bytes) -> None:
        """Keeps what `pack` made elsewhere. Raises ResourceError."""
        atomic_write(self.path(key), blob)

    def _open(self, key: str) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path(key))


def is_kept(result: Result) -> bool:
    """Whether a result says something of the candidate alone, and not of how far the run goes."""
    return not any(told.code == LIMIT for told in result.findings)


def unpacked(blob: bytes) -> Result | None:
    """The result in the content of a file; None when it is damaged."""
    with contextlib.suppress(*_DAMAGE, RebootlessError), zipfile.ZipFile(io.BytesIO(blob)) as file:
        return decoded(Result, json.loads(file.read("result.json")))
    return None


def pack(result: Result, part: Part | None = None) -> bytes:
    """The content of a result's file."""
    blob = io.BytesIO()
    with zipfile.ZipFile(blob, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as file:
        file.writestr("result.json", json.dumps(encoded(result), indent=1))
        if part is not None:
            plain = encoded(replace(part, objects=()))
            plain.pop("objects")
            file.writestr("part.json", json.dumps(plain))
            for number, data in enumerate(part.objects):
                file.writestr(f"{number}.o", data)
    return blob.getvalue()
