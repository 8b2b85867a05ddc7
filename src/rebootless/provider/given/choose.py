"""Which of the parts found make up one kernel: decisions over what `parts` read.

Nothing is guessed. A part that is missing is named with the package that usually has it, two that
could both be meant are an error that names both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ...base.errors import NotFoundError, PatchInputError
from ..naming import Facts, Naming
from .parts import Found, Image, Part, Source

P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Candidate:
    """Source that may be a kernel's. A tree that comes in two packages has two paths."""

    kind: str
    paths: tuple[Path, ...]
    title: str
    facts: Facts | None


@dataclass(frozen=True)
class Chosen:
    """The parts of one kernel."""

    image: Image
    config: Part
    symvers: Part
    modules: tuple[Part, ...]
    source: Candidate

    @property
    def release(self) -> str:
        """The image's own."""
        return self.image.release


def release_of(found: Found, wanted: str | None, running: str, where: Path) -> str:
    """The release that is meant: the one asked for, the only one, or else the running one.

    Raises NotFoundError when it is not there, PatchInputError when there are several.
    """
    releases = sorted({image.release for image in found.images})
    if not releases:
        others = sorted({p.release for p in (*found.modules, *found.symvers) if p.release})
        about = f"; it has parts of {', '.join(others)}" if others else ""
        raise NotFoundError(
            f"there is no kernel image in {where}{about}",
            hint="add the package with vmlinuz: linux-image-RELEASE (Debian, Ubuntu), kernel-core "
            "(Fedora), kernel-default (openSUSE)",
        )
    if wanted is not None and wanted not in releases:
        raise NotFoundError(f"{where} has no kernel {wanted}", hint=f"it has {', '.join(releases)}")
    if wanted is not None:
        return wanted
    if len(releases) == 1:
        return releases[0]
    if running in releases:
        return running
    raise PatchInputError(
        f"{where} has several kernels: {', '.join(releases)}", hint="say which one with --kernel"
    )


def choose(found: Found, release: str, naming: Naming) -> Chosen:
    """The parts of a release; its source is not compared yet.

    Raises NotFoundError (a part is missing), PatchInputError (several could be meant).
    """
    usual = naming.usual(release)
    image = _same(_of(found.images, release), "image", lambda image: image.version)
    config = _first(
        [
            [c for c in _of(found.configs, release) if c.path.name != ".config"],
            [c for c in _of(found.configs, release) if c.path.name == ".config"],
        ],
        f"no configuration of {release}",
        f"it is in {usual.modules if 'linux-modules' in usual.modules else usual.image}",
    )
    symvers = _first(
        [
            [s for s in _of(found.symvers, release) if s.path.name == "Module.symvers"],
            [s for s in _of(found.symvers, release) if s.path.name != "Module.symvers"],
        ],
        f"no Module.symvers of {release}",
        f"add {usual.headers}",
    )
    modules = _of(found.modules, release)
    if not modules:
        raise NotFoundError(f"no modules of {release}", hint=f"add {usual.modules}")
    source = source_of(found.sources, image, naming)
    return Chosen(image, config, symvers, tuple(modules), source)


def source_of(sources: Sequence[Source], image: Image, naming: Naming) -> Candidate:
    """The source that an image was built from, as far as packages tell.

    An image's package and its source's name the same build; directories are compared by the
    version in their Makefile later. Raises NotFoundError, PatchInputError.
    """
    usual = naming.usual(image.release).source
    candidates = merged(sources)
    facts = image.root.facts
    tied = [c for c in candidates if facts and c.facts and naming.same_source(facts, c.facts)]
    free = [c for c in candidates if not facts or not c.facts]
    best = tied or free
    if not best:
        others = ", ".join(f"{c.title} ({c.facts.version})" for c in candidates if c.facts)
        detail = f"; {others} is that of another build" if others else ""
        raise NotFoundError(f"no source of {image.release}{detail}", hint=f"add {usual}")
    if len(best) > 1:
        raise PatchInputError(
            f"several sources could be that of {image.release}: {', '.join(c.title for c in best)}",
            hint="leave only one of them in the folder",
        )
    return best[0]


def merged(sources: Sequence[Source]) -> tuple[Candidate, ...]:
    """The candidates: trees that packages share by name are one."""
    found: dict[tuple[str, str], Candidate] = {}
    for source in sources:
        shared = source.kind == "tree" and source.root.facts is not None
        key = ("tree", source.path.name) if shared else (source.kind, str(source.path))
        before = found.get(key)
        facts = source.root.facts
        if before is not None and (source.path / "init/main.c").is_file():
            paths, title = (*before.paths, source.path), source.root.origin
        elif before is not None:
            paths, title, facts = (*before.paths, source.path), before.title, before.facts
        else:
            paths, title = (source.path,), source.root.origin
        found[key] = Candidate(source.kind, paths, title, facts)
    return tuple(found.values())


def _of(parts: Sequence[P], release: str) -> list[P]:
    return [part for part in parts if part.release == release]


def _first(preferred: Sequence[Sequence[P]], missing: str, hint: str) -> P:
    """A part of the first group that has one. Raises NotFoundError, PatchInputError."""
    for parts in preferred:
        if parts:
            return _same(parts, missing.removeprefix("no "), lambda part: part.path.read_bytes())
    raise NotFoundError(missing, hint=hint)


def _same(parts: Sequence[P], what: str, content: Callable[[P], object]) -> P:
    """One of several that say the same; raises PatchInputError when they do not."""
    first = parts[0]
    other = next((p for p in parts[1:] if content(p) != content(first)), None)
    if other is not None:
        raise PatchInputError(
            f"two different files could be the {what}: {first} and {other}",
            hint="leave only one of them in the folder",
        )
    return first
