"""Toolchain roots: compilers of other suites, each with what a kernel's makefiles need beside it.

    cache/toolchains/NAME/root/            unpacked packages, as they came
    cache/toolchains/NAME/enter            `enter gcc-14 --version` runs a program of the root
    cache/toolchains/NAME/toolchain.json   what it is; written last

NAME is suite, package and version, e.g. trixie-gcc-14-14.2.0-19. Programs of a root see the system
directories of the root and everything else of this machine, at the same paths: prepared trees and
work folders need not be known in advance. bubblewrap makes that view, in a mount namespace that is
gone with the program (docs/adr/0012-toolchain-roots.md).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..base import proc
from ..base.errors import CommandError, NotFoundError, ResourceError
from ..base.events import Monitor
from ..base.fs import cache_root, locked, os_failure, read_text, remove_tree
from ..base.workdir import fingerprint
from .toolchain import Toolchain, parse_text, same_package, same_version, warn_unless_exact

RECORD = "toolchain.json"
ENTER = "enter"
SYSTEM = ("usr", "etc", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
# Directories within the system's ones in which a user keeps sources.
OF_THE_USER = ("/usr/src", "/usr/local")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
HINT_ENTER = (
    "apt install bubblewrap; it needs user namespaces (sysctl kernel.unprivileged_userns_clone=1, "
    "user.max_user_namespaces > 0) or root, and in a container the right to mount"
)

_SCRIPT = """\
#!/bin/sh
# Runs a program of this toolchain root, with everything but the system's directories as it is.
here=${{0%/*}}
set -- -- "$@"
for entry in /*; do
    case "$entry" in
    {excluded}) ;;
    *) if [ -L "$entry" ] && [ -d "$entry" ]; then
           set -- --symlink "$(readlink "$entry")" "$entry" "$@"
       elif [ -d "$entry" ]; then
           set -- --bind "$entry" "$entry" "$@"
       fi ;;
    esac
done
exec bwrap {system} \
    --dev /dev --proc /proc --setenv PATH {path} \
    --unsetenv LD_LIBRARY_PATH --unsetenv LD_PRELOAD --unsetenv PYTHONHOME "$@"
"""


@dataclass(frozen=True)
class Root:
    """A toolchain root that is complete.

    `compiler` is the compiler's version line, `suite` where its packages are from, `packages` their
    versions, `made` the date (ISO 8601), `size` in bytes.
    """

    name: str
    directory: Path
    program: str
    compiler: str
    suite: str
    made: str
    size: int
    packages: Mapping[str, str]

    @property
    def enter(self) -> Path:
        """The script that runs a program of the root."""
        return self.directory / ENTER

    @property
    def identity(self) -> str:
        """The same for roots of equal content."""
        return fingerprint(self.compiler, *(f"{n} {v}" for n, v in sorted(self.packages.items())))

    def toolchain(self, wanted: str) -> Toolchain:
        """Its compiler, to be used for a kernel that was built by `wanted`."""
        program = wanted.split()[0]
        exact = same_package(wanted, self.compiler)
        path = self.directory / "root/usr/bin" / program
        return Toolchain(program, path, self.compiler, exact, (str(self.enter),), self.identity)


def folder() -> Path:
    """Where the roots are."""
    return cache_root() / "toolchains"


def roots() -> tuple[Root, ...]:
    """Every root that is complete, by name."""
    found = []
    for path in sorted(folder().glob(f"[!.]*/{RECORD}")):
        try:
            facts = json.loads(read_text(path))
            found.append(Root(directory=path.parent, **facts))
        except (ValueError, TypeError):
            continue  # of another rebootless: made anew when it is needed
    return tuple(found)


def find_root(wanted: str, monitor: Monitor, *, exact: bool) -> Toolchain | None:
    """The compiler `wanted` (CONFIG_CC_VERSION_TEXT) of a root that is there; None without one.

    Without `exact`, another package of the same compiler version is taken, with a warning.
    """
    fits = same_package if exact else same_version
    for root in roots():
        if root.program == program_of(wanted) and fits(wanted, root.compiler):
            warn_unless_exact(wanted, root.compiler, monitor)
            return root.toolchain(wanted)
    return None


def program_of(wanted: str) -> str:
    """The compiler's program without the triplet that it may go by: "gcc-14"."""
    text = parse_text(wanted)
    return (text.program if text else wanted.split()[0]).partition("linux-gnu-")[2] or (
        wanted.split()[0]
    )


def script(entries: Mapping[str, str | None]) -> str:
    """The text of `enter` for a root with these system directories (with the target of links).

    The root's part of the view is fixed, this machine's is looked up when it runs.
    """
    words: list[str] = []
    for name, target in entries.items():
        if target is None:
            words.append(f'--ro-bind "$here/root/{name}" /{name}')
        else:
            words.append(f"--symlink {shlex.quote(target)} /{name}")
    words += [f"--bind-try {path} {path}" for path in OF_THE_USER]
    excluded = "|".join([f"/{name}" for name in (*SYSTEM, "dev", "proc")])
    return _SCRIPT.format(excluded=excluded, system=" \\\n    ".join(words), path=PATH)


def system_entries(root: Path) -> dict[str, str | None]:
    """The system directories at the top of an unpacked root, with the targets of links."""
    there = [name for name in SYSTEM if os.path.lexists(root / name)]
    try:
        return {n: str((root / n).readlink()) if (root / n).is_symlink() else None for n in there}
    except OSError as exc:
        raise os_failure("read", root, exc) from exc


def check_enter() -> None:
    """Raises ResourceError or NotFoundError when programs cannot be run in a root here."""
    proc.which("bwrap", hint="apt install bubblewrap")
    try:
        proc.run(["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "true"])
    except CommandError as exc:
        raise ResourceError(
            f"programs cannot be run in a toolchain root here: {exc.output.strip()}",
            hint=HINT_ENTER,
        ) from exc


def remove(name: str) -> Root:
    """Removes a root. Raises NotFoundError, ResourceError."""
    for root in roots():
        if root.name == name:
            with locked(lock_of(name)):
                try:
                    (root.directory / RECORD).unlink(missing_ok=True)
                    remove_tree(root.directory)
                except OSError as exc:
                    raise os_failure("remove", root.directory, exc) from exc
            return root
    names = ", ".join(r.name for r in roots()) or "none"
    raise NotFoundError(
        f"there is no toolchain root '{name}'", hint=f"those that there are: {names}"
    )


def lock_of(name: str) -> Path:
    """Held while a root is made or removed."""
    return folder() / f".{name}.lock"


def record(root: Root) -> str:
    """What is written down of a root."""
    facts = asdict(root)
    del facts["directory"]
    return json.dumps(facts, indent=1)


def makes_roots() -> bool:
    """Whether the programs that make and enter roots are installed."""
    return shutil.which("mmdebstrap") is not None and shutil.which("bwrap") is not None
