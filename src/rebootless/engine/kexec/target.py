"""The kernel that a kexec is to start: which one, its files, and its command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...base.errors import NotFoundError, StateError
from ...base.fs import read_bytes
from ...kernel import bzimage, initrd
from ...kernel.bzimage import BootImage
from ...kernel.release import parse_release
from ...provider.installed import InstalledKernel, installed_kernels
from ..machine import Machine, read_text, release
from . import commandline

INITRDS = ("initrd.img-{}", "initramfs-{}.img", "initrd-{}")
GRUB_CONFIGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
LOADER_ENTRIES = ("/boot/loader/entries/*.conf", "/efi/loader/entries/*.conf",
                  "/boot/efi/loader/entries/*.conf")  # fmt: skip
INSTALL_HINT = "install the fixed kernel first (apt-get install linux-image-RELEASE)"


@dataclass(frozen=True)
class Wishes:
    """What the user asks for; None and "" leave it to us.

    `initrd` is the path of another initial ramdisk; `from_loader` takes the boot loader's command
    line in place of the running kernel's; `append` are more parameters.
    """

    release: str | None = None
    initrd: Path | None = None
    no_initrd: bool = False
    from_loader: bool = False
    append: str = ""


@dataclass(frozen=True)
class Target:
    """A kernel with all that is needed to start it.

    `loader_line` is the command line in the boot loader's configuration, None where none is found.
    """

    release: str
    path: Path
    image: BootImage
    initrd: Path | None
    initrd_size: int
    has_modules: bool
    command_line: str
    loader_line: str | None


def find(machine: Machine, wishes: Wishes, root: Path = Path("/")) -> Target:
    """Chooses the kernel, and reads and checks its files.

    Raises NotFoundError for what is not there, StateError when nothing newer than the running
    kernel is installed, PatchInputError for damaged files, ResourceError for unreadable ones.
    """
    kernels = {k.release: k for k in installed_kernels(root)}
    chosen = wishes.release or newest(list(kernels.values()), release(machine))
    kernel = kernels.get(chosen)
    if kernel is None or kernel.image is None:
        there = ", ".join(sorted((r for r, k in kernels.items() if k.image), key=age)) or "none"
        raise NotFoundError(
            f"there is no image of a kernel {chosen} in {root / 'boot'} (installed: {there})",
            hint=INSTALL_HINT.replace("RELEASE", chosen),
        )
    image = bzimage.parse(read_bytes(kernel.image), name=str(kernel.image))
    if wishes.release is None:
        _refuse_what_is_no_newer(machine, chosen, image)
    ramdisk = None if wishes.no_initrd else wishes.initrd or _initrd(root, chosen)
    size = _checked_size(ramdisk) if ramdisk else 0
    running_line = commandline.cleaned(read_text(machine, "/proc/cmdline") or "")
    loader_line = _loader_line(machine, chosen)
    if wishes.from_loader and loader_line is None:
        raise NotFoundError(
            f"the boot loader's configuration has no entry for {chosen} that could be read",
            hint="leave the option out: the running kernel's command line is taken then",
        )
    line = loader_line if wishes.from_loader and loader_line is not None else running_line
    return Target(
        release=chosen,
        path=kernel.image,
        image=image,
        initrd=ramdisk,
        initrd_size=size,
        has_modules=kernel.modules is not None,
        command_line=commandline.with_more(line, wishes.append),
        loader_line=loader_line,
    )


def newest(kernels: Sequence[InstalledKernel], running: str) -> str:
    """The newest installed kernel, of the running one's flavour if there is one of it; pure.

    Raises NotFoundError when no kernel image is installed.
    """
    found = [k.release for k in kernels if k.image is not None]
    if not found:
        raise NotFoundError("there is no kernel image in /boot", hint=INSTALL_HINT)
    flavour = parse_release(running).flavour
    alike = [r for r in found if parse_release(r).flavour == flavour]
    return max(alike or found, key=age)


def age(release_text: str) -> tuple[tuple[int, int, int], bool, tuple[tuple[int, str], ...]]:
    """A key that sorts releases from old to new; numbers count as numbers, and -rc comes before."""
    parsed = parse_release(release_text)
    parts = re.findall(r"\d+|\D+", parsed.abi)
    pieces = tuple((int(p), "") if p.isdigit() else (-1, p) for p in parts)
    return parsed.version, not parsed.abi.startswith("rc"), pieces


def _refuse_what_is_no_newer(machine: Machine, chosen: str, image: BootImage) -> None:
    """The same release may have been updated in place, which only the build number tells."""
    running = release(machine)
    banner = read_text(machine, "/proc/version") or ""
    same = chosen == running and (not image.build or banner.endswith(image.build))
    if same or age(chosen) < age(running):
        which = "is the one that runs" if same else f"is older than {running}, which runs"
        raise StateError(
            f"the newest installed kernel, {chosen}, {which}",
            hint=f"{INSTALL_HINT}, or name a release to start it all the same",
        )


def _initrd(root: Path, chosen: str) -> Path:
    paths = [root / "boot" / name.format(chosen) for name in INITRDS]
    for path in paths:
        if path.is_file():
            return path
    raise NotFoundError(
        f"there is no {paths[0]}, the initial ramdisk of {chosen}",
        hint=f"make it (update-initramfs -c -k {chosen}), or give --initrd FILE; "
        "--no-initrd is for kernels that need none",
    )


def _checked_size(path: Path) -> int:
    blob = read_bytes(path)
    initrd.parts(blob, name=str(path))
    return len(blob)


def _loader_line(machine: Machine, chosen: str) -> str | None:
    for text in machine.read_many(GRUB_CONFIGS).values():
        if (line := commandline.from_grub(text, chosen)) is not None:
            return line
    return commandline.from_entries(machine.read_many(LOADER_ENTRIES).values(), chosen)
