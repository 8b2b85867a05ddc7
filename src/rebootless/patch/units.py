"""What a touched path is to a live patch: unit, header, a thing that cannot change, or noise."""

from __future__ import annotations

import enum
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

ARCH = "x86"


class Kind(enum.StrEnum):
    """What can be done about a touched file."""

    UNIT = "unit"
    HEADER = "header"
    REFUSED = "refused"
    IGNORED = "ignored"


@dataclass(frozen=True)
class Classified:
    """A touched path, its kind, and for refused and ignored ones the reason (and a way out)."""

    path: str
    kind: Kind
    reason: str = ""
    hint: str = ""


@dataclass(frozen=True)
class FileRefusal:
    """Why a live patch cannot change a file: `symbol` is the file's path."""

    code: str
    symbol: str
    message: str
    hint: str

    def to_json(self) -> dict[str, str]:
        """The refusal as JSON values, like a finding's."""
        return asdict(self)


# Directories whose code does not run inside the kernel image, longest prefix first.
REFUSED_TREES = (
    (
        "arch/x86/entry/vdso/",
        "the vDSO is mapped into every process as it was at boot",
        "leave the vDSO's files out of the patch; running processes need a reboot for it",
    ),
    (
        "arch/x86/realmode/",
        "real-mode code runs only while a CPU starts or the machine wakes",
        "leave the file out of the patch: this change needs a reboot",
    ),
    (
        "arch/x86/boot/",
        "boot code has already run and is gone",
        "leave the file out of the patch: it takes effect with a new kernel only",
    ),
    (
        "arch/x86/purgatory/",
        "the purgatory is a separate image that runs between two kernels (kexec)",
        "leave the file out of the patch: this change needs a new kernel",
    ),
)
IGNORED_TREES = (
    ("tools/", "user-space tools are not part of the running kernel"),
    ("scripts/", "build scripts are not part of the running kernel"),
    ("Documentation/", "documentation"),
    ("samples/", "samples are not part of the running kernel"),
    ("LICENSES/", "documentation"),
    ("rust/doc", "documentation"),
    ("debian/", "packaging"),
)
IGNORED_NAMES = ("MAINTAINERS", "CREDITS", "README", "COPYING", ".gitignore", ".mailmap")
IGNORED_SUFFIXES = (".rst", ".txt", ".md", ".json", ".yaml", ".dts", ".dtsi", ".dtso", ".pl", ".py")
HEADER_SUFFIXES = (".h", ".inc", ".def", ".hpp")
BUILD_NAMES = ("Makefile", "Kbuild", "Makefile.include")
REFUSED_SUFFIXES = {
    ".S": (
        "assembly has no function entries that a live patch could divert",
        "change a C caller of the assembly routine instead",
    ),
    ".s": (
        "assembly has no function entries that a live patch could divert",
        "change a C caller of the assembly routine instead",
    ),
    ".lds": ("a linker script cannot change in a running kernel", "this change needs a reboot"),
    ".rs": ("Rust code is not supported", "this change needs a reboot"),
    ".tbl": ("a system-call table cannot change in a running kernel", "this change needs a reboot"),
    ".y": ("generated parsers are not supported", "patch a function that uses the parser"),
    ".l": ("generated scanners are not supported", "patch a function that uses the scanner"),
    ".asn1": ("generated decoders are not supported", "patch a function that uses the decoder"),
}


def classify(path: str) -> Classified:
    """What the file at `path` (relative to the kernel's source) is to a live patch for x86-64.

    Pure: looks at the name only. Whether the configuration builds a unit, and whether it goes
    into a lib.a, only kbuild knows (compile/kbuild.py).
    """
    for prefix, reason, hint in REFUSED_TREES:
        if path.startswith(prefix):
            return Classified(path, Kind.REFUSED, reason, hint)
    for prefix, reason in IGNORED_TREES:
        if path.startswith(prefix):
            return Classified(path, Kind.IGNORED, reason)
    parts = path.split("/")
    if len(parts) > 2 and parts[0] == "arch" and parts[1] != ARCH:
        return Classified(path, Kind.IGNORED, f"code of another architecture ({parts[1]})")
    return classify_name(path)


def classify_name(path: str) -> Classified:
    """The same by the file's own name, whatever directory it is in: for a module's own source."""
    name = PurePosixPath(path)
    if name.name in IGNORED_NAMES or name.suffix in IGNORED_SUFFIXES:
        return Classified(path, Kind.IGNORED, "not part of the running kernel")
    if name.name in BUILD_NAMES or name.name.startswith("Kconfig"):
        return Classified(
            path,
            Kind.REFUSED,
            "it changes how the kernel is built or configured",
            "leave the build files out of the patch; the running kernel's configuration is fixed",
        )
    if name.suffix in REFUSED_SUFFIXES:
        reason, hint = REFUSED_SUFFIXES[name.suffix]
        return Classified(path, Kind.REFUSED, reason, hint)
    if name.suffix == ".c":
        return Classified(path, Kind.UNIT)
    if name.suffix in HEADER_SUFFIXES:
        return Classified(path, Kind.HEADER)
    return Classified(
        path,
        Kind.REFUSED,
        "it is neither C source nor a header",
        "leave the file out of the patch if the fix does not need it",
    )
