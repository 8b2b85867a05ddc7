"""What a bundle says of itself: which kernel it is for, what it changes, what it consists of.

The manifest names every other member of the bundle by its SHA-256 (the test log excepted, which
comes later), so the digest of its canonical text identifies the whole bundle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from ..base.errors import BundleError

SCHEMA = 1
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class TargetKernel:
    """The one kernel a bundle is for; `build_id` (hex) is what decides at apply time."""

    release: str
    build_id: str
    arch: str
    vermagic: str
    source_version: str = ""


@dataclass(frozen=True)
class PatchedFunction:
    """One replaced function: `sympos` as livepatch counts it (0 = unique), sizes in bytes.

    `address` is the link-time address in the shipped image; None in a module.
    """

    name: str
    sympos: int
    size_old: int
    size_new: int
    address: int | None = None


@dataclass(frozen=True)
class PatchedObject:
    """The functions replaced in one object: 'vmlinux', or a module (then with its build id)."""

    name: str
    functions: tuple[PatchedFunction, ...]
    build_id: str = ""


@dataclass(frozen=True)
class KnownWarning:
    """What the build warned of; `accepted` if the patch's header says that its author knows."""

    code: str
    symbol: str
    message: str
    accepted: bool


@dataclass(frozen=True)
class CallbackEntry:
    """A function of the patch that the kernel calls when `object` is patched or unpatched.

    `kind` is a field of the kernel's struct klp_callbacks, such as 'pre_patch'.
    """

    object: str
    kind: str
    function: str


@dataclass(frozen=True)
class StateEntry:
    """A state of the system that the patch changes (the kernel's struct klp_state)."""

    id: int
    version: int


@dataclass(frozen=True)
class Features:
    """What a patch has beside functions."""

    callbacks: tuple[CallbackEntry, ...] = ()
    states: tuple[StateEntry, ...] = ()


@dataclass(frozen=True)
class CoreEntry:
    """The core module that came with the patch: `abi` is the interface that both were built for."""

    abi: int
    member: str


@dataclass(frozen=True)
class Manifest:
    """A bundle's facts. `members` pairs each file of the bundle with its SHA-256."""

    name: str
    version: str
    kernel: TargetKernel
    objects: tuple[PatchedObject, ...]
    replace: bool
    toolchain: str
    tool_version: str
    cves: tuple[str, ...] = ()
    members: tuple[tuple[str, str], ...] = ()
    warnings: tuple[KnownWarning, ...] = ()
    features: Features = Features()
    core: CoreEntry | None = None

    @property
    def functions(self) -> tuple[tuple[str, PatchedFunction], ...]:
        """Every replaced function with the name of its object, in order."""
        return tuple((o.name, f) for o in self.objects for f in o.functions)

    @property
    def untraceable(self) -> tuple[tuple[str, PatchedFunction], ...]:
        """Those of the functions that ftrace does not know, by the warnings `not-traceable`."""
        known = {w.symbol for w in self.warnings if w.code == "not-traceable"}
        return tuple((o, f) for o, f in self.functions if f.name.partition(".")[0] in known)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values, `schema` first.

        `features` and `core` are there if the bundle has any: older bundles keep their ids.
        """
        features = {"features": asdict(self.features)} if self.features != Features() else {}
        core = {"core": asdict(self.core)} if self.core else {}
        return {
            "schema": SCHEMA,
            "name": self.name,
            "version": self.version,
            "kernel": asdict(self.kernel),
            "objects": [asdict(o) for o in self.objects],
            "replace": self.replace,
            "cves": list(self.cves),
            "toolchain": self.toolchain,
            "tool_version": self.tool_version,
            "warnings": [asdict(w) for w in self.warnings],
            "members": dict(self.members),
            **features,
            **core,
        }

    def canonical(self) -> bytes:
        """The one byte sequence that stands for this manifest (sorted keys, no spaces).

        Without warnings it has no such key: so it is for bundles older than the key as well.
        """
        facts = self.to_json()
        if not self.warnings:
            del facts["warnings"]
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
        return text.encode()

    @property
    def id(self) -> str:
        """The bundle's id: SHA-256 of the canonical manifest, in hex."""
        return hashlib.sha256(self.canonical()).hexdigest()


def parse(blob: bytes, *, where: str) -> Manifest:
    """Reads manifest.json; `where` names the bundle in messages. Raises BundleError."""
    try:
        raw = json.loads(blob)
    except ValueError as exc:
        raise BundleError(f"{where}: the manifest is not JSON: {exc}") from exc
    except RecursionError:
        raise BundleError(f"{where}: the manifest is nested too deep") from None
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA or isinstance(schema, bool):
        raise BundleError(
            f"{where}: the manifest has schema {schema!r}, and this version reads {SCHEMA}",
            hint="use the version of rebootless that made the bundle, or a newer one",
        )
    try:
        return _manifest(raw)
    except KeyError as exc:
        raise BundleError(f"{where}: the manifest lacks {exc.args[0]!r}") from exc
    except TypeError as exc:
        raise BundleError(f"{where}: bad manifest: {exc}") from exc


def _manifest(raw: Mapping[str, Any]) -> Manifest:
    kernel = _typed(raw, "kernel", dict)
    return Manifest(
        name=_typed(raw, "name", str),
        version=_typed(raw, "version", str),
        kernel=TargetKernel(
            release=_typed(kernel, "release", str),
            build_id=_typed(kernel, "build_id", str),
            arch=_typed(kernel, "arch", str),
            vermagic=_typed(kernel, "vermagic", str),
            source_version=_typed(kernel, "source_version", str),
        ),
        objects=_each(raw, "objects", dict, _object),
        replace=_typed(raw, "replace", bool),
        toolchain=_typed(raw, "toolchain", str),
        tool_version=_typed(raw, "tool_version", str),
        cves=_each(raw, "cves", str, str),
        members=tuple(
            (path, _typed(raw["members"], path, str))
            for path in sorted(_typed(raw, "members", dict))
        ),
        warnings=_each(raw, "warnings", dict, _warning) if "warnings" in raw else (),
        features=_features(_typed(raw, "features", dict)) if "features" in raw else Features(),
        core=_core(_typed(raw, "core", dict)) if "core" in raw else None,
    )


def _core(raw: Mapping[str, Any]) -> CoreEntry:
    return CoreEntry(abi=_typed(raw, "abi", int), member=_typed(raw, "member", str))


def _warning(raw: Mapping[str, Any]) -> KnownWarning:
    return KnownWarning(
        code=_typed(raw, "code", str),
        symbol=_typed(raw, "symbol", str),
        message=_typed(raw, "message", str),
        accepted=_typed(raw, "accepted", bool),
    )


def _features(raw: Mapping[str, Any]) -> Features:
    return Features(
        callbacks=_each(
            raw,
            "callbacks",
            dict,
            lambda c: CallbackEntry(*(_typed(c, f, str) for f in ("object", "kind", "function"))),
        ),
        states=_each(
            raw,
            "states",
            dict,
            lambda s: StateEntry(_typed(s, "id", int), _typed(s, "version", int)),
        ),
    )


def _object(raw: Mapping[str, Any]) -> PatchedObject:
    return PatchedObject(
        name=_typed(raw, "name", str),
        functions=_each(raw, "functions", dict, _function),
        build_id=_typed(raw, "build_id", str),
    )


def _function(raw: Mapping[str, Any]) -> PatchedFunction:
    return PatchedFunction(
        name=_typed(raw, "name", str),
        sympos=_typed(raw, "sympos", int),
        size_old=_typed(raw, "size_old", int),
        size_new=_typed(raw, "size_new", int),
        address=None if raw["address"] is None else _typed(raw, "address", int),
    )


def _each(
    raw: Mapping[str, Any], key: str, kind: type[_T], make: Callable[[_T], _R]
) -> tuple[_R, ...]:
    values = _typed(raw, key, list)
    for value in values:
        if not isinstance(value, kind):
            raise TypeError(f"{key!r} holds {value!r:.60}, not {kind.__name__}")
    return tuple(make(value) for value in values)


def _typed(raw: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    value = raw[key]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"{key!r} is {value!r:.60}, not {kind.__name__}")
    return value
