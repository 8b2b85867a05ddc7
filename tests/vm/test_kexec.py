"""From one stock kernel into another: the command itself in a guest, kexec for real.

The new kernel's initial ramdisk is a lab image as well, so its agent answers on the same port.
"""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path

import click
import guest_python
import pytest

from rebootless.base.errors import RebootlessError
from rebootless.base.events import NullMonitor
from rebootless.base.proc import run
from rebootless.lab.guest import Guest
from rebootless.lab.image import BUSYBOX, GuestImage, build
from rebootless.lab.vm import READY, Vm, VmConfig
from rebootless.provider.base import KernelFiles, KernelState
from rebootless.provider.debian import DebianProvider

pytestmark = pytest.mark.vm

SEARCH = (guest_python.SOURCES, Path(click.__file__).parents[1])
COMMAND = f"""
import sys
sys.path[:0] = {[guest_python.in_guest(n) for n in range(len(SEARCH))]!r}
sys.argv[0] = "/usr/bin/rebootless"
from rebootless.__main__ import main
sys.exit(main())
"""
MODULES = (
    "encodings.cp437, importlib.resources.readers, importlib.readers, rebootless.__main__, "
    "rebootless.pipeline.rebooting, rebootless.cli.verbs.reboot, rebootless.cli.verbs.doctor"
)
DISK_MODULES = ("virtio_pci", "virtio_blk", "ext4")
LOADED = "/sys/kernel/kexec_loaded"
ROOT = "/mnt"  # where a guest has the disk
BOOT_SECONDS = 240
# What ends in order says so.
SERVICE = f"""
trap 'echo ended in order >>{ROOT}/service; exit' TERM
echo started >{ROOT}/service
while :; do sleep 9 & wait; done
"""
WRITER = f"n=0; while :; do n=$((n + 1)); echo $n >>{ROOT}/numbers; usleep 20000; done"
# A systemd that does not want to; what it saw tells that the kernel was loaded by then.
REFUSING = f"""#!/bin/busybox sh
busybox cat {LOADED} >/tmp/loaded
echo "Failed to start kexec.target" >&2
exit 1
"""
MOUNT_DISK = f"""
mount -t ext4 /dev/vda {ROOT}
for folder in proc sys dev run tmp; do mount -o bind /$folder {ROOT}/$folder || exit 1; done
"""
SYSTEMD = Path("/usr/lib/systemd/systemd")
SYSTEMD_UNITS = Path("/usr/lib/systemd/system")
USED_UNITS = (
    "basic.target", "sysinit.target", "kexec.target", "systemd-kexec.service", "shutdown.target",
    "umount.target", "final.target", "-.slice", "system.slice",
)  # fmt: skip
SYSTEMD_INIT = f"""#!/bin/busybox sh
export PATH=/bin:/sbin:/usr/bin
mount -t proc proc /proc; mount -t devtmpfs devtmpfs /dev; mount -t tmpfs tmpfs /run
mkdir -p /run/lab
while read -r module; do insmod $module; done </lab/modules
mount -t ext4 /dev/vda {ROOT}
exec {SYSTEMD} --log-target=kmsg
"""
UNITS = {
    "default.target": "[Unit]\nWants=lab.service ordered.service\n",
    "lab.service": "[Service]\nExecStart=/bin/sh /lab/agent\nEnvironment=PATH=/bin:/usr/bin\n",
    "ordered.service": f"""[Unit]
RequiresMountsFor={ROOT}
[Service]
ExecStart=/bin/sh -c 'echo started >{ROOT}/service; exec sleep 9999'
ExecStop=/bin/sh -c 'echo ended in order >>{ROOT}/service'
""",
}


@pytest.fixture(scope="module")
def newer_kernel(debian: DebianProvider, stock_release: str) -> KernelFiles:
    """A later kernel of the same flavour, a cached one if there is one."""
    flavour = stock_release.split("-", 2)[2]
    kernels = debian.list()
    before = [k.release for k in kernels].index(stock_release)
    found = [k for k in kernels[before + 1 :] if k.release.endswith(f"-{flavour}") and k.buildable]
    if not found:
        pytest.skip(f"no kernel after {stock_release} is in the archive: kexec is NOT tested")
    cached = [k for k in found if KernelState.CACHED in k.states]
    wanted = (cached or found)[0].release
    try:
        return debian.fetch(wanted, NullMonitor())
    except RebootlessError as exc:
        pytest.skip(f"{wanted} cannot be fetched, so kexec is NOT tested: {exc.message}")


@pytest.fixture
def start(stock_kernel: KernelFiles, newer_kernel: KernelFiles, tmp_path: Path) -> str:
    """How to start the command on the disk, an installed system: two kernels, Python, ourselves."""
    python, files = guest_python.python_files(MODULES, search=SEARCH)
    files["/lab/rebootless.py"] = (COMMAND.encode(), 0o755)
    files["/bin/busybox"] = (BUSYBOX.read_bytes(), 0o755)
    files["/bin/systemctl"] = (REFUSING.encode(), 0o755)
    for kernel in (stock_kernel, newer_kernel):
        files[f"/boot/vmlinuz-{kernel.release}"] = (kernel.image.read_bytes(), 0o644)
        files[f"/boot/initrd.img-{kernel.release}"] = (build(image_for(kernel)), 0o644)
    tree = tmp_path / "tree"
    for folder in ("proc", "sys", "dev", "run", "tmp"):
        (tree / folder).mkdir(parents=True)
    for path, (content, mode) in files.items():
        target = tree / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)
    run(["mkfs.ext4", "-q", "-d", tree, tmp_path / "disk.img", "128M"], timeout=60)
    return f"chroot {ROOT} {python} -I -S -B /lab/rebootless.py"


def image_for(kernel: KernelFiles) -> GuestImage:
    """What all the kernels boot with: enough to find the disk."""
    return GuestImage(kernel.modules, load=("virtio_pci", "virtio_blk", "ext4"))


def jump(guest: Guest, command: str) -> None:
    """Runs what ends this kernel, and waits for the agent of the next one.

    The agent waits for the command: it is among those that started it, which are spared.
    """
    shell = f"{command} >/run/said 2>&1; cat /run/said >/dev/console"  # no terminal: no rich
    text = base64.b64encode(shell.encode()).decode()
    deadline = time.monotonic() + BOOT_SECONDS
    guest.vm.send(f"R 999999 {BOOT_SECONDS} {text}\n".encode(), deadline)
    while not (line := guest.vm.read_line(deadline)).startswith(READY):
        assert not line.startswith(b"@999999"), f"the command came back:\n{guest.vm.tail()}"


def booted(guest: Guest, kernel: KernelFiles) -> None:
    """The kernel runs with the old one's command line, and the disk needed no repair."""
    assert guest.check("uname -r").strip() == kernel.release
    assert "rl.mark=1" in guest.check("cat /proc/cmdline").split()
    guest.check(MOUNT_DISK)
    assert "recovery" not in guest.check("dmesg | grep EXT4")


def test_there_and_back(
    start: str, stock_kernel: KernelFiles, newer_kernel: KernelFiles, tmp_path: Path
) -> None:
    """There with processes ended in order; from there back with nothing stopped at all."""
    disk = tmp_path / "disk.img"
    config = VmConfig(stock_kernel.image, memory_mib=768, disk=disk, cmdline="rl.mark=1")
    with Vm(config, image_for(stock_kernel), tmp_path / "console.log") as vm:
        guest = Guest(vm)
        guest.check(MOUNT_DISK)
        # the plan for a machine with systemd; which refuses, so what was loaded is unloaded
        guest.check("mkdir -p /run/systemd/system")
        answer = guest.run(f"{start} reboot --kexec --now", timeout=BOOT_SECONDS)
        assert answer.status == 1 and "systemctl failed" in answer.output, answer.output
        plan = dict(re.findall(r"^([a-z ]+): +(.*)$", answer.output, re.M))
        assert plan["running"] == stock_kernel.release
        assert plan["to start"].startswith(f"{newer_kernel.release} ")
        assert plan["way"].startswith("systemd stops")
        assert plan["file systems"] == "1: / (ext4)"
        assert re.search(r"^kexec +ok +by kexec_file_load$", answer.output, re.M)
        assert guest.check("cat /tmp/loaded") == "1\n"
        assert guest.check(f"cat {LOADED}") == "0\n"
        guest.check("rm -r /run/systemd")

        guest.background(SERVICE)
        guest.check(f"while ! [ -e {ROOT}/service ]; do usleep 10000; done")
        jump(guest, f"{start} reboot --kexec --now")
        booted(guest, newer_kernel)
        assert guest.check(f"cat {ROOT}/service") == "started\nended in order\n"

        # the kernel that was started so starts another one, an older one since it is named
        guest.background(WRITER)
        guest.check(f"while ! [ -s {ROOT}/numbers ]; do usleep 10000; done")
        jump(guest, f"{start} reboot --kexec {stock_kernel.release} --now --force")
        booted(guest, stock_kernel)
        numbers = guest.check(f"cat {ROOT}/numbers").splitlines()
        assert numbers == [str(n + 1) for n in range(len(numbers))] and len(numbers) > 10


def systemd_files() -> dict[str, tuple[bytes, int]]:
    """This machine's systemd, to be the first process of a guest."""
    if not SYSTEMD.exists():
        pytest.skip("systemd is not installed here: systemd's way is NOT tested")
    programs = {SYSTEMD, SYSTEMD.with_name("systemd-shutdown"), Path("/usr/bin/systemctl")}
    paths = programs.union(*map(guest_python.shared_libraries, programs))
    paths |= {SYSTEMD_UNITS / name for name in USED_UNITS if (SYSTEMD_UNITS / name).exists()}
    files = {str(p): (p.read_bytes(), 0o644 if p.parent == SYSTEMD_UNITS else 0o755) for p in paths}
    files |= {f"/lib/systemd/{p.name}": (p.read_bytes(), 0o755) for p in programs}
    files |= {f"/etc/systemd/system/{n}": (t.encode(), 0o644) for n, t in UNITS.items()}
    return files | {"/init": (SYSTEMD_INIT.encode(), 0o755)}


def test_by_systemd(stock_kernel: KernelFiles, newer_kernel: KernelFiles, tmp_path: Path) -> None:
    """A real systemd stops its units, us among them, and starts the kernel that we loaded."""
    files = systemd_files()
    python, more = guest_python.python_files(MODULES, search=SEARCH)
    files |= more
    files["/lab/rebootless.py"] = (COMMAND.encode(), 0o755)
    files[f"/boot/vmlinuz-{newer_kernel.release}"] = (newer_kernel.image.read_bytes(), 0o644)
    ramdisk = build(image_for(newer_kernel))
    files[f"/boot/initrd.img-{newer_kernel.release}"] = (ramdisk, 0o644)
    disk = tmp_path / "disk.img"
    run(["mkfs.ext4", "-q", disk, "32M"], timeout=60)
    image = GuestImage(stock_kernel.modules, load=image_for(stock_kernel).load, files=files)
    config = VmConfig(stock_kernel.image, memory_mib=1024, disk=disk, cmdline="rl.mark=1")
    with Vm(config, image, tmp_path / "console.log") as vm:
        guest = Guest(vm)
        guest.check(f"while ! [ -e {ROOT}/service ]; do usleep 100000; done")
        jump(guest, f"{python} -I -S -B /lab/rebootless.py reboot --kexec --now")
        assert guest.check("uname -r").strip() == newer_kernel.release
        guest.check(f"mount -t ext4 /dev/vda {ROOT}")
        assert "recovery" not in guest.check("dmesg | grep EXT4")
        assert guest.check(f"cat {ROOT}/service") == "started\nended in order\n"
