"""Layer 9: the verbs, each written once as flat calls into the layers below.

    building    patch -> bundle           kernel          which kernels, fetching
    artifact    what a build leaves       objects         diff, match, inspect
    testing     bundle -> test in QEMU    running         apply, undo, status, list, install
    scaffolding functions -> a C file
    explaining  what a patch does, why    demonstrating   the whole way
    cores       the core module           verifying       running code as shipped?
    translating an update -> one bundle

Each is imported when it is first used: applying a bundle at boot needs no numpy and no compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifact import BuildResult
    from .building import build
    from .cores import engine_build, engine_load, engine_remove, engine_status, engine_unload
    from .demonstrating import demo
    from .explaining import explain
    from .external import ExternalModule
    from .kernel import fetch, kernels
    from .objects import diff_objects, inspect, match_object
    from .running import apply, boot, doctor, install, list_patches, status, undo, uninstall
    from .scaffolding import scaffold
    from .testing import test
    from .toolchains import toolchain_make, toolchain_remove, toolchains
    from .translating import TranslateResult, translate
    from .verifying import verify

__all__ = [
    "BuildResult",
    "ExternalModule",
    "TranslateResult",
    "apply",
    "boot",
    "build",
    "demo",
    "diff_objects",
    "doctor",
    "engine_build",
    "engine_load",
    "engine_remove",
    "engine_status",
    "engine_unload",
    "explain",
    "fetch",
    "inspect",
    "install",
    "kernels",
    "list_patches",
    "match_object",
    "scaffold",
    "status",
    "test",
    "toolchain_make",
    "toolchain_remove",
    "toolchains",
    "translate",
    "undo",
    "uninstall",
    "verify",
]

_HOMES = {
    "artifact": ("BuildResult",),
    "building": ("build",),
    "cores": ("engine_build", "engine_load", "engine_remove", "engine_status", "engine_unload"),
    "demonstrating": ("demo",),
    "explaining": ("explain",),
    "external": ("ExternalModule",),
    "kernel": ("fetch", "kernels"),
    "objects": ("diff_objects", "inspect", "match_object"),
    "scaffolding": ("scaffold",),
    "testing": ("test",),
    "toolchains": ("toolchain_make", "toolchain_remove", "toolchains"),
    "translating": ("TranslateResult", "translate"),
    "verifying": ("verify",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    home = _HOME_OF.get(name, "running")
    return getattr(importlib.import_module(f".{home}", __name__), name)
