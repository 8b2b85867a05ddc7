"""What is said of an update: its parts, and what became of each.

    plan ──▶ Candidate ──build, test──▶ Result ──▶ report
         └─▶ Dropped: no build is needed to know that it has no effect, or cannot be applied live

A candidate is the smallest part of the update that stands for itself: its diff applies alone to the
old source and compiles alone. Everything here is frozen, and has a JSON form that reads back equal
(`encoded`, `decoded`), so that results can be kept and sent.
"""

from __future__ import annotations

import enum
import hashlib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

from ..base.errors import RebootlessError

SCHEMA = 1
KNOWLEDGE = "translate-1"  # changes when the same diff would be built or judged otherwise
T = TypeVar("T")


class Outcome(enum.StrEnum):
    """What becomes of a part of the update on a running kernel."""

    LIVE_PATCH = "live-patch"
    NO_EFFECT = "no-effect"
    REBOOT = "reboot"
    FAILED = "failed"


class Cause(enum.StrEnum):
    """Why; `NONE` for a live patch. See `outcome` for which belong together."""

    NONE = ""
    # no effect on this kernel
    NOT_KERNEL = "not-kernel"  # documentation, tools, self-tests, build files
    OTHER_ARCHITECTURE = "other-architecture"
    CONFIG_OFF = "config-off"
    NOT_INCLUDED = "not-included"  # a header that no compiled unit includes
    COMMENT_ONLY = "comment-only"
    SAME_CODE = "same-code"  # the objects are equal before and after
    UNUSED_CODE = "unused-code"  # only adds what nothing calls
    INIT_ONLY = "init-only"  # runs at boot, or when a module is loaded or removed
    # a reboot is needed
    LAYOUT = "layout"
    CHANGED_DATA = "changed-data"
    INTERFACE = "interface"  # exports, prototypes, versions of symbols
    NOT_TRACEABLE = "not-traceable"
    NEW_FILE = "new-file"
    NOT_C = "not-c"  # assembly, linker scripts, the vDSO ...
    TOO_FAR = "too-far"  # a header that reaches more units than are compiled
    UNSAFE = "unsafe"  # any other refusal; the findings say which
    # nothing is known of it
    NOT_COMPILING = "not-compiling"
    MISMATCH = "mismatch"
    TEST_FAILED = "test-failed"
    ERROR = "error"


class Confidence(enum.StrEnum):
    """How sure it is that a change belongs to a candidate."""

    CERTAIN = "certain"
    LIKELY = "likely"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Update:
    """From which package version to which, for which kernel."""

    release: str
    build_id: str
    old_version: str
    new_version: str


@dataclass(frozen=True)
class Block:
    """A run of changed lines: `new` takes the place of `old`, from line `start` of the old file.

    Lines count from 1 and keep their ends. An insertion stands before the line `start`.
    """

    start: int
    old: tuple[str, ...]
    new: tuple[str, ...]


@dataclass(frozen=True)
class Change:
    """One changed file. `kind` is what it is to a live patch (patch.units.Kind), `change` modified,
    added or deleted; the hashes are of the old and the new text, "" where there is none."""

    path: str
    kind: str
    change: str
    old_hash: str
    new_hash: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Entry:
    """A change as the package's changelog tells it: a title, and the CVEs that it names."""

    title: str
    cves: tuple[str, ...]
    version: str = ""


@dataclass(frozen=True)
class Tied:
    """A changelog entry that a candidate is taken to be, how sure that is, and why."""

    title: str
    cves: tuple[str, ...]
    confidence: Confidence
    why: str


@dataclass(frozen=True)
class Candidate:
    """The smallest independent part of an update.

    `key` tells one from another, whatever else the update has: the hash of its diff and of the
    kernel. `units` are the sources to compile, as far as kbuild and the include lines tell;
    `readers` are those among them that only include a touched header, and mention what changes.
    `symbols` are the names that its changed lines define or are in, `reasons` why its parts
    belong together. `diff` is unified, for -p1; bytes that are no UTF-8 are surrogates in it.
    """

    key: str
    title: str
    paths: tuple[str, ...]
    units: tuple[str, ...]
    diff: str
    symbols: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    tied: tuple[Tied, ...] = ()
    readers: tuple[str, ...] = ()

    @property
    def cves(self) -> tuple[str, ...]:
        """The CVEs that it is certain or likely to fix."""
        sure = (t for t in self.tied if t.confidence is not Confidence.UNKNOWN)
        return tuple(dict.fromkeys(cve for tied in sure for cve in tied.cves))

    @property
    def patch(self) -> bytes:
        """The text to build: the diff with a header that names title and CVEs."""
        lines = [f"Subject: {self.title}", ""]
        lines += [f"Fixes {cve}." for cve in self.cves]
        return "\n".join([*lines, "---", self.diff]).encode(errors="surrogateescape")


@dataclass(frozen=True)
class Dropped:
    """Changed lines of a file that are no part of any candidate, and why.

    `outcome` is NO_EFFECT or REBOOT; `lines` counts added and removed ones.
    """

    path: str
    outcome: Outcome
    cause: Cause
    message: str
    lines: int
    tied: tuple[Tied, ...] = ()


@dataclass(frozen=True)
class TranslationPlan:
    """All of an update: every changed file is in candidates, in `dropped`, or in both.

    `entries` is what the changelog says from the old version to the new one.
    """

    update: Update
    files: int
    lines: int
    candidates: tuple[Candidate, ...]
    dropped: tuple[Dropped, ...]
    entries: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Told:
    """A finding as it is kept: code, symbol, message, and whether it is a refusal."""

    code: str
    symbol: str
    message: str
    is_refusal: bool = False


@dataclass(frozen=True)
class Function:
    """A function that a live patch redirects."""

    object: str
    source: str
    name: str


@dataclass(frozen=True)
class Result:
    """What became of one candidate.

    `message` says why in one sentence, `advice` what a person could do ("" if nothing), `symbol`
    what it is about. `seconds_compile` is the compiler's share, `seconds_ours` the rest. `bundle`
    is the file's name in the store ("" without one), `test` "passed", "failed" or "" (not tested).
    """

    key: str
    outcome: Outcome
    cause: Cause
    message: str = ""
    advice: str = ""
    symbol: str = ""
    functions: tuple[Function, ...] = ()
    objects: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    findings: tuple[Told, ...] = ()
    seconds_compile: float = 0.0
    seconds_ours: float = 0.0
    bundle: str = ""
    test: str = ""


@dataclass(frozen=True)
class Totals:
    """How much of what. A CVE is counted once, by the worst of what it is certain or likely to be.

    Of CVEs: `covered` by a live patch, `unaffected` (no effect on this kernel), `reboot`, `failed`
    (of no known outcome), and `unplaced`, those that no change could be tied to.
    """

    files: int
    files_compiled: int
    candidates: int
    candidates_by_outcome: Mapping[str, int]
    units: int
    units_by_outcome: Mapping[str, int]
    functions: int
    cves: int
    cves_covered: int
    cves_unaffected: int
    cves_reboot: int
    cves_failed: int
    cves_unplaced: int
    seconds_compile: float = 0.0
    seconds_ours: float = 0.0


def key_of(diff: str, build_id: str) -> str:
    """The key of a candidate: equal for the same change of the same kernel, whoever asks when."""
    digest = hashlib.sha256("\0".join((KNOWLEDGE, build_id, diff)).encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def encoded(value: Any) -> Any:
    """A value of this module as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encoded(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [encoded(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encoded(item) for key, item in value.items()}
    return value.value if isinstance(value, enum.Enum) else value


def decoded(kind: type[T], raw: Any) -> T:
    """The value that `encoded` turned into `raw`; fields that are unknown are passed over.

    Raises RebootlessError for what has another form.
    """
    try:
        return typing.cast(T, _decoded(kind, raw))
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise RebootlessError(f"not a stored {kind.__name__}: {exc}") from exc


def _decoded(kind: Any, raw: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        return tuple(_decoded(typing.get_args(kind)[0], item) for item in raw)
    if origin is not None:
        if isinstance(origin, types.GenericAlias) or not issubclass(origin, Mapping):
            raise TypeError(f"a field of type {kind}")
        return {key: _decoded(typing.get_args(kind)[1], item) for key, item in raw.items()}
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = {
            f.name: _decoded(hints[f.name], raw[f.name]) for f in fields(kind) if f.name in raw
        }
        return typing.cast(Any, kind)(**known)
    if not isinstance(raw, (int, float) if kind is float else (str, int, float)):
        raise TypeError(f"{raw!r} for {kind.__name__}")
    return kind(raw)
