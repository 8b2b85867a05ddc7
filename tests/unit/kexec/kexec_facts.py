"""A small bzImage, and the facts of a machine that could kexec."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

from stock_facts import stock_facts

from rebootless.engine.doctor_facts import Facts
from rebootless.engine.kexec.plan import Situation
from rebootless.engine.kexec.stops import Mount, Stops
from rebootless.engine.kexec.target import Target
from rebootless.kernel import bzimage
from rebootless.kernel.config import parse

RUNNING, FIXED = "6.1.0-50-cloud-amd64", "6.1.0-55-cloud-amd64"
CONFIG = "CONFIG_KEXEC_CORE=y\nCONFIG_KEXEC=y\nCONFIG_KEXEC_FILE=y\nCONFIG_KEXEC_SIG=y\n"


def bz_image(
    release: str = FIXED, *, build: str = "#1 SMP Debian 6.1.192-1", pad: int = 64
) -> bytes:
    """One sector of setup and `pad` bytes of payload."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    struct.pack_into("<I", setup, 0x1F4, pad // 16)
    setup[0x1FE:0x206] = b"\x55\xaa\xeb\x00HdrS"
    struct.pack_into("<H", setup, 0x206, 0x020F)
    struct.pack_into("<H", setup, 0x20E, 0x300 - 0x200)
    struct.pack_into("<H", setup, 0x236, 1)
    struct.pack_into("<I", setup, 0x238, 2047)
    struct.pack_into("<I", setup, 0x260, 50 << 20)
    text = f"{release} (someone@somewhere) {build}\0".encode()
    setup[0x300 : 0x300 + len(text)] = text
    return bytes(setup) + b"\x01" * pad


def facts(**changes: object) -> Facts:
    """The running kernel, a stock one that is not locked down."""
    return replace(stock_facts(RUNNING, parse(CONFIG)), **changes)  # type: ignore[arg-type]


def target(**changes: object) -> Target:
    """The fixed kernel, complete."""
    found = Target(
        release=FIXED,
        path=Path(f"/boot/vmlinuz-{FIXED}"),
        image=bzimage.parse(bz_image(), name="vmlinuz"),
        initrd=Path(f"/boot/initrd.img-{FIXED}"),
        initrd_size=40 << 20,
        has_modules=True,
        command_line="root=/dev/vda1 ro quiet",
        loader_line=None,
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def situation(**changes: object) -> Situation:
    """A machine with systemd and enough memory."""
    found = Situation(
        kernel=facts(),
        target=target(),
        stops=Stops(
            mounts=(
                Mount("/", "ext4", "/dev/vda1", writable=True, has_disk=True),
                Mount("/boot", "ext4", "/dev/vda2", writable=False, has_disk=True),
                Mount("/srv", "nfs4", "host:/srv", writable=True, has_disk=False),
                Mount("/home", "xfs", "/dev/vdb", writable=True, has_disk=True),
            )
        ),
        has_systemd=True,
        available=1 << 30,
        applied=(),
        installed=(),
    )
    return replace(found, **changes)  # type: ignore[arg-type]
