"""rebootless: updates a running Linux kernel without a reboot.

The functions here mirror the verbs of the command line; each is imported when it is first used.

    import rebootless
    result = rebootless.build([Path("fix.patch")], kernel="6.1.0-55-cloud-amd64")
    rebootless.test(result.bundle_path)
    rebootless.apply(result.bundle_path)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .base.errors import RebootlessError
    from .pipeline import (
        BuildResult,
        ExternalModule,
        TranslateResult,
        apply,
        boot,
        build,
        demo,
        diff_objects,
        doctor,
        engine_build,
        engine_load,
        engine_remove,
        engine_status,
        engine_unload,
        explain,
        fetch,
        inspect,
        install,
        kernels,
        list_patches,
        match_object,
        scaffold,
        status,
        test,
        translate,
        undo,
        uninstall,
        verify,
    )

__all__ = [
    "BuildResult",
    "ExternalModule",
    "RebootlessError",
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
    "translate",
    "undo",
    "uninstall",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rebootless' has no attribute '{name}'")
    home = ".base.errors" if name == "RebootlessError" else ".pipeline"
    return getattr(importlib.import_module(home, __name__), name)


def __dir__() -> list[str]:
    return __all__
