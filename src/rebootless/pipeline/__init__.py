"""Layer 9: the verbs, each written once as flat calls into the layers below.

build       patch -> bundle           kernel      which kernels, fetching
objects     diff, match, inspect      running     apply, undo, status, list, install
testing     bundle -> test in QEMU    demo        the whole way
"""

from .build import BuildResult, build
from .demo import demo
from .kernel import fetch, kernels
from .objects import diff_objects, inspect, match_object
from .running import apply, boot, doctor, install, list_patches, status, undo, uninstall
from .testing import test

__all__ = [
    "BuildResult",
    "apply",
    "boot",
    "build",
    "demo",
    "diff_objects",
    "doctor",
    "fetch",
    "inspect",
    "install",
    "kernels",
    "list_patches",
    "match_object",
    "status",
    "test",
    "undo",
    "uninstall",
]
