"""Which kernel, with what command line, in which way, and what stands against it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kexec_facts import CONFIG, FIXED, RUNNING, bz_image, facts, situation, target

from rebootless.base.errors import (
    KernelRefusedError,
    NotFoundError,
    PatchInputError,
    RebootlessError,
    ResourceError,
    StateError,
    WrongKernelError,
)
from rebootless.engine.kexec import commandline, plan
from rebootless.engine.kexec.plan import Situation, Way
from rebootless.engine.kexec.stops import Stops
from rebootless.engine.kexec.target import Wishes, age, find
from rebootless.engine.local import LocalMachine
from rebootless.kernel import bzimage
from rebootless.kernel.config import parse

GRUB = f"""
menuentry 'Debian GNU/Linux' {{
        linux   /boot/vmlinuz-{FIXED} root=UUID=1 ro console="ttyS0" quiet $vt_handoff
        initrd  /boot/initrd.img-{FIXED}
}}
menuentry 'recovery' {{
        linux   /boot/vmlinuz-{FIXED} root=UUID=1 ro single
}}
"""
ENTRY = f"title Debian\nversion {FIXED}\nlinux /id/{FIXED}/linux\noptions root=LABEL=r rw\n"


def test_command_line_without_what_the_loader_put_there() -> None:
    line = r"BOOT_IMAGE=/boot/vmlinuz root=/dev/sda1  foo=\"a b\" initrd=\a initrd=\b -- single"
    assert commandline.cleaned(line.replace(r"\"", '"')) == 'root=/dev/sda1 foo="a b" -- single'


def test_more_parameters_go_to_the_kernel_not_to_init() -> None:
    assert commandline.with_more("a b -- c", "d e") == "a b d e -- c"
    assert commandline.with_more("a", "") == "a"


def test_command_lines_of_boot_loaders() -> None:
    assert commandline.from_grub(GRUB, FIXED) == 'root=UUID=1 ro console="ttyS0" quiet'
    assert commandline.from_grub(GRUB, "6.1.0-5") is None
    assert commandline.from_entries(["", ENTRY], FIXED) == "root=LABEL=r rw"
    assert commandline.from_entries([ENTRY], RUNNING) is None


def test_releases_from_old_to_new() -> None:
    ordered = [
        "5.10.0-30-amd64", "6.1.0-9-amd64", "6.1.0-55-amd64", "6.1.0-100-amd64",
        "6.12.0-rc2-amd64", "6.12.0-1-amd64", "6.12.117+deb12-amd64",
    ]  # fmt: skip
    assert sorted(sorted(ordered), key=age) == ordered


class Here(LocalMachine):
    """This machine, with some files as given."""

    def __init__(self, files: dict[str, str]) -> None:
        super().__init__()
        self.files = {"/proc/sys/kernel/osrelease": RUNNING, "/proc/cmdline": "root=1", **files}

    def read_bytes(self, path: str) -> bytes | None:
        return self.files[path].encode() if path in self.files else None

    def read_many(self, patterns: object) -> dict[str, str]:
        return {p: t for p, t in self.files.items() if p in list(patterns)}  # type: ignore[call-overload]


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    """A /boot with the running kernel, the fixed one and a newer one of another flavour."""
    folder = tmp_path / "boot"
    folder.mkdir()
    for release in (RUNNING, FIXED, "6.1.0-99-rt-amd64"):
        (folder / f"vmlinuz-{release}").write_bytes(bz_image(release))
        (folder / f"initrd.img-{release}").write_bytes(b"070701" + b"0" * 200)
    return folder


@pytest.fixture
def whole_ramdisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rebootless.kernel.initrd.parts", lambda blob, name: ("cpio",))


@pytest.mark.usefixtures("whole_ramdisk")
def test_the_newest_kernel_of_the_flavour_is_chosen(boot: Path) -> None:
    found = find(Here({"/boot/grub/grub.cfg": GRUB}), Wishes(append="x"), boot.parent)
    assert (found.release, found.command_line) == (FIXED, "root=1 x")
    assert found.loader_line == 'root=UUID=1 ro console="ttyS0" quiet'
    assert not found.has_modules
    loader = find(Here({"/boot/grub/grub.cfg": GRUB}), Wishes(from_loader=True), boot.parent)
    assert loader.command_line == found.loader_line
    with pytest.raises(NotFoundError, match="has no entry"):
        find(Here({}), Wishes(from_loader=True), boot.parent)
    assert find(Here({}), Wishes(release=RUNNING), boot.parent).release == RUNNING


@pytest.mark.usefixtures("whole_ramdisk")
def test_a_reboot_into_the_same_kernel_has_to_be_asked_for(boot: Path) -> None:
    same = Here({"/proc/sys/kernel/osrelease": FIXED, "/proc/version": "x #1 SMP Debian 6.1.192-1"})
    with pytest.raises(StateError, match="is the one that runs"):
        find(same, Wishes(), boot.parent)
    updated = Here({**same.files, "/proc/version": "x #1 SMP Debian 6.1.190-1"})
    assert find(updated, Wishes(), boot.parent).release == FIXED
    with pytest.raises(StateError, match=r"is older than 6\.1\.0-77-cloud-amd64"):
        find(Here({"/proc/sys/kernel/osrelease": "6.1.0-77-cloud-amd64"}), Wishes(), boot.parent)


def test_files_that_are_missing_or_damaged(boot: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no image of a kernel 6\.9\.0"):
        find(Here({}), Wishes(release="6.9.0"), boot.parent)
    with pytest.raises(PatchInputError, match=f"initrd.img-{FIXED} is cut short or damaged"):
        find(Here({}), Wishes(), boot.parent)
    assert find(Here({}), Wishes(no_initrd=True), boot.parent).initrd is None
    (boot / f"initrd.img-{FIXED}").unlink()
    with pytest.raises(NotFoundError, match="the initial ramdisk") as caught:
        find(Here({}), Wishes(), boot.parent)
    assert f"update-initramfs -c -k {FIXED}" in str(caught.value.hint)
    with pytest.raises(NotFoundError, match="no kernel image"):
        find(Here({}), Wishes(), boot)


def test_a_plan_for_a_machine_with_systemd() -> None:
    made = plan.make(situation(applied=("a", "b"), installed=("b", "c")))
    assert made.possible and made.way == Way.SYSTEMD and made.loader == "kexec_file_load"
    assert (made.lost_patches, made.installed_patches) == (("a",), ("b", "c"))
    assert made.frozen_mounts == ("/home", "/")
    plan.refuse(made)
    assert plan.make(situation(), force=True).way == Way.FORCE
    assert plan.make(situation(has_systemd=False)).way == Way.SIGNALS


def of_kernel(**changes: object) -> Callable[[], Situation]:
    return lambda: situation(kernel=facts(**changes))


def of_target(**changes: object) -> Callable[[], Situation]:
    return lambda: situation(target=target(**changes))


LOCKED = "none [integrity] confidentiality"
OLD = parse(CONFIG.replace("CONFIG_KEXEC_FILE=y\n", ""))
REFUSED: list[tuple[str, Callable[[], Situation], type[RebootlessError], str]] = [
    ("container", of_kernel(container="docker"), ResourceError, "container"),
    ("none", of_kernel(kexec_loaded=None, config=parse("")), KernelRefusedError, "CONFIG_KEXEC"),
    ("arm", of_kernel(architecture="aarch64"), KernelRefusedError, "made for x86_64"),
    ("disabled", of_kernel(kexec_load_disabled="1"), KernelRefusedError, "cannot be taken back"),
    ("limit", of_kernel(kexec_limit="0"), KernelRefusedError, "used up"),
    ("lockdown", of_kernel(lockdown=LOCKED), KernelRefusedError, "is not signed"),
    ("locked old", of_kernel(lockdown=LOCKED, config=OLD), KernelRefusedError, "allows only"),
    ("tools", of_kernel(config=OLD), NotFoundError, "no kexec_file_load"),
    ("root", of_kernel(capabilities=0), ResourceError, "CAP_SYS_BOOT"),
    ("release", of_target(release="6.1.0-56-cloud-amd64"), WrongKernelError, f"is of {FIXED}"),
    ("long", of_target(command_line="x" * 2048), PatchInputError, "2048 bytes"),
    ("crash", of_target(command_line="elfcorehdr=1"), PatchInputError, "crash kernel"),
    ("memory", lambda: situation(available=100 << 20), ResourceError, "100 MiB available"),
    (
        "inhibited",
        lambda: situation(stops=Stops(inhibitors=("apt: upgrading",))),
        StateError,
        "inhibited by apt: upgrading",
    ),
]


@pytest.mark.parametrize(
    ("make", "error", "said"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_stands_against_it(
    make: Callable[[], Situation], error: type[RebootlessError], said: str
) -> None:
    made = plan.make(make())
    assert not made.possible
    with pytest.raises(error, match=said) as caught:
        plan.refuse(made)
    assert caught.value.hint


def test_a_locked_down_kernel_starts_signed_ones() -> None:
    signed = replace(bzimage.parse(bz_image(), name="x"), is_signed=True)
    locked = situation(kernel=facts(lockdown=LOCKED), target=target(image=signed))
    assert plan.make(locked).possible


def test_an_old_kernel_is_served_by_kexec_tools() -> None:
    old = facts(config=OLD, programs={"kexec": "/sbin/kexec"})
    made = plan.make(situation(kernel=old))
    assert made.possible and made.loader == "kexec-tools"


def test_a_boot_that_was_one_of_a_kind_is_told() -> None:
    made = plan.make(situation(target=target(command_line="root=1 single")))
    (warned,) = [c for c in made.checks if c.status == "warning"]
    assert made.possible and "single" in warned.why and "loader" in warned.mend
