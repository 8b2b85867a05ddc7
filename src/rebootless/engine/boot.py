"""Live patches that come back after a reboot: installed bundles and the unit that applies them.

    /var/lib/rebootless/RELEASE/NAME.rlp           one file per installed bundle
    /var/lib/rebootless/RELEASE/NAME.engine        the engine to apply it with, if one was named
    /var/lib/rebootless/RELEASE/rebootless_core.ko the core module, for bundles that have none
    /etc/systemd/system/rebootless.service         runs `rebootless boot` early in the boot
    /etc/systemd/system/sysinit.target.wants/...   the link that switches the unit on

A bundle is for one kernel release; after an upgrade of the kernel the old ones stay, unused, until
they are uninstalled. `rebootless.skip` on the kernel command line boots without them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from ..base.errors import PatchInputError, StateError
from ..base.fs import atomic_write, os_failure, read_bytes, read_text
from ..base.proc import which
from . import core
from .base import AUTO

STORE = "var/lib/rebootless"
SUFFIX = ".rlp"
ENGINE_SUFFIX = ".engine"
CORE_FILE = f"{core.MODULE}.ko"
UNIT = "rebootless.service"
UNIT_FOLDER = "etc/systemd/system"
WANTS = f"{UNIT_FOLDER}/sysinit.target.wants"


@dataclass(frozen=True)
class Installed:
    """A bundle that is applied when RELEASE boots."""

    release: str
    name: str
    path: Path
    engine: str = AUTO


def install(
    bundle: Path,
    *,
    name: str,
    release: str,
    engine: str = AUTO,
    root: Path = Path("/"),
    program: str | None = None,
) -> Installed:
    """Installs a bundle for the boots of kernel `release`, and switches the unit on.

    `program` is the absolute path of the rebootless command. The bundle is written whole before
    the unit is. Raises PatchInputError for names that are no file names, ResourceError.
    """
    for word in (name, release):
        if not word or "/" in word or word.startswith("."):
            raise PatchInputError(f"'{word}' cannot name a file under /{STORE}")
    target = root / STORE / release / f"{name}{SUFFIX}"
    choice = target.with_suffix(ENGINE_SUFFIX)
    try:
        if engine == AUTO:
            choice.unlink(missing_ok=True)
    except OSError as exc:
        raise os_failure("remove", choice, exc) from exc
    if engine != AUTO:
        atomic_write(choice, f"{engine}\n")
    atomic_write(target, read_bytes(bundle))
    atomic_write(root / UNIT_FOLDER / UNIT, unit_text(program or this_program()))
    link = root / WANTS / UNIT
    try:
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(f"../{UNIT}")
    except OSError as exc:
        raise os_failure("link", link, exc) from exc
    return Installed(release, name, target, engine)


def uninstall(name: str, *, release: str, root: Path = Path("/")) -> tuple[Path, ...]:
    """Removes a bundle, and the unit with the last one; gives the paths that were removed.

    What is applied to the running kernel stays applied. Raises StateError when it is not there.
    """
    target = root / STORE / release / f"{name}{SUFFIX}"
    if not target.exists():
        there = ", ".join(f"{i.name} for {i.release}" for i in installed(root=root)) or "nothing"
        raise StateError(f"{name} is not installed for {release} (installed: {there})")
    removed = [target]
    try:
        target.unlink()
        target.with_suffix(ENGINE_SUFFIX).unlink(missing_ok=True)
        if not any(target.parent.iterdir()):
            target.parent.rmdir()
        if not installed(root=root):
            for path in (root / WANTS / UNIT, root / UNIT_FOLDER / UNIT):
                if path.is_symlink() or path.exists():
                    path.unlink()
                    removed.append(path)
    except OSError as exc:
        raise os_failure("remove", target, exc) from exc
    return tuple(removed)


def installed(*, release: str | None = None, root: Path = Path("/")) -> tuple[Installed, ...]:
    """What is installed, for one release or for all, in the order in which a boot applies it."""
    paths = sorted((root / STORE).glob(f"{release or '*'}/*{SUFFIX}"))
    return tuple(Installed(path.parent.name, path.stem, path, _engine(path)) for path in paths)


def _engine(bundle: Path) -> str:
    choice = bundle.with_suffix(ENGINE_SUFFIX)
    return read_text(choice).strip() if choice.exists() else AUTO


def install_core(module: Path, *, release: str, root: Path = Path("/")) -> Path:
    """Keeps a core module for `release`, for `apply`, `boot` and `engine load`; gives its place."""
    target = root / STORE / release / CORE_FILE
    atomic_write(target, read_bytes(module))
    return target


def remove_core(release: str, *, root: Path = Path("/")) -> Path:
    """Removes the core module that was installed for `release`; gives the path that is gone.

    What is loaded stays. Raises StateError when there is none, ResourceError.
    """
    target = core_path(release, root)
    if target is None:
        kept = (path.parent.name for path in (root / STORE).glob(f"*/{CORE_FILE}"))
        raise StateError(
            f"no core module is installed for {release} "
            f"(installed for: {', '.join(sorted(kept)) or 'no kernel'})"
        )
    try:
        target.unlink()
        if not any(target.parent.iterdir()):
            target.parent.rmdir()
    except OSError as exc:
        raise os_failure("remove", target, exc) from exc
    return target


def core_path(release: str, root: Path = Path("/")) -> Path | None:
    """The core module that was installed for `release`, or None."""
    path = root / STORE / release / CORE_FILE
    return path if path.exists() else None


def unit_text(program: str) -> str:
    """The unit's text for a rebootless command at an absolute path."""
    if not program.startswith("/"):
        raise PatchInputError(f"a unit needs the absolute path of the program, not '{program}'")
    template = (resources.files(__package__) / "units" / UNIT).read_text()
    # systemd reads quotes, and takes % and $ for its own
    escaped = program.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return template.replace("@PROGRAM@", '"' + escaped.replace("$", "$$") + '"')


def this_program() -> str:
    """The absolute path of the rebootless command. Raises NotFoundError when there is none."""
    running = Path(sys.argv[0])
    if running.name == "rebootless" and running.exists():
        return str(running.absolute())  # not resolved: a package upgrade may move what it links to
    return which("rebootless", hint="install rebootless so that a unit can start it")
