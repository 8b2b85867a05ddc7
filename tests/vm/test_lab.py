"""The lab itself: boot, agent, time-outs, panics."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rebootless.base.errors import NotFoundError, ResourceError, TestFailedError
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.vm import Vm, VmConfig

pytestmark = pytest.mark.vm


def test_a_stock_kernel_boots_to_an_agent(lab, kernel):
    assert lab.guest.run("uname -r").output.strip() == kernel.release
    assert lab.vm.boot_seconds < 60
    assert lab.guest.run("echo text; exit 7") == (7, "text\n")
    assert lab.guest.run("printf ''") == (0, "")


def test_kernel_messages_do_not_mix_with_answers(lab):
    command = "for i in 1 2 3; do echo '<1>noise' >/dev/kmsg; echo line $i; done"
    assert lab.guest.check(command) == "line 1\nline 2\nline 3\n"
    assert "noise" in lab.vm.console()


def test_a_megabyte_comes_back_whole(lab):
    lab.guest.check("head -c 1000000 /dev/urandom >/tmp/blob")
    blob = lab.guest.get_file("/tmp/blob")
    assert len(blob) == 1_000_000
    digest = lab.guest.check("sha256sum </tmp/blob; rm /tmp/blob").split()[0]
    assert hashlib.sha256(blob).hexdigest() == digest
    status, output = lab.guest.run("yes 0123456789abcde | head -c 1000000")
    assert (status, len(output)) == (0, 1_000_000)


def test_files_and_long_commands_get_there_whole(lab):
    blob = random.Random(1).randbytes(100_000)
    lab.guest.put_file(blob, "/tmp/some dir/blob")
    assert lab.guest.get_file("/tmp/some dir/blob") == blob
    assert lab.guest.run("# " + "x" * 50_000 + "\necho long").output == "long\n"
    lab.guest.check("rm -r '/tmp/some dir'")


def test_a_command_that_takes_too_long_is_killed_and_the_guest_goes_on(lab):
    started = time.monotonic()
    with pytest.raises(ResourceError, match="longer than 2 s"):
        lab.guest.run("echo before; sleep 1000", timeout=2)
    assert time.monotonic() - started < 10
    assert lab.guest.run("echo fine").output == "fine\n"


def test_the_workload_works_and_stops(lab):
    lab.guest.start_workload()
    time.sleep(2)
    first = lab.guest.workload_rounds()
    time.sleep(1)
    assert lab.guest.workload_rounds() > first > 0
    lab.guest.stop_workload()
    time.sleep(2)
    assert lab.guest.run("pidof dd cat").output == ""


def test_a_panic_is_seen_at_once(boot):
    with boot() as lab:
        started = time.monotonic()
        with pytest.raises(TestFailedError, match=r"kernel panicked: .*sysrq triggered crash"):
            lab.guest.run("echo c >/proc/sysrq-trigger; sleep 60", timeout=60)
        assert time.monotonic() - started < 10
        assert not lab.vm.alive
        with pytest.raises(ResourceError, match=r"does not run any more: .*panic"):
            lab.guest.run("true")


def test_a_panic_while_booting(boot, kernel, tmp_path):
    config = VmConfig(kernel.image, cmdline="rdinit=/nothing root=/dev/nothing")
    started = time.monotonic()
    with pytest.raises(TestFailedError, match=r"panicked: .*VFS: Unable to mount root"):
        Vm(config, GuestImage(), tmp_path / "log").start()
    assert time.monotonic() - started < 30


def test_a_boot_that_hangs_is_ended(boot):
    hang = {"/lab/hang": (b"#!/bin/busybox sh\necho hanging here\nexec sleep 1000\n", 0o755)}
    with (
        pytest.raises(
            ResourceError, match=r"booting the guest took longer than 16 s(.|\n)*hanging"
        ),
        boot(cmdline="rdinit=/lab/hang", boot_timeout=16, files=hang),
    ):
        pass


def test_a_module_that_does_not_load_at_boot_is_named(kernel, tmp_path):
    image = GuestImage(kernel.modules, load=("dummy",))
    config = VmConfig(kernel.image, cmdline="nomodule")
    with pytest.raises(TestFailedError, match=r"could not load /lib/modules/dummy\.ko"):
        Vm(config, image, tmp_path / "log").start()


def test_qemu_tells_what_is_wrong_with_an_image(tmp_path):
    bad = tmp_path / "vmlinuz"
    bad.write_bytes(b"no kernel" * 1000)
    with pytest.raises(TestFailedError, match="the guest ended"):
        Vm(VmConfig(bad, boot_timeout=20), GuestImage(), tmp_path / "log").start()
    with pytest.raises(NotFoundError):
        Vm(VmConfig(bad, qemu="qemu-nothing"), GuestImage(), tmp_path / "log").start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_qemu_outlives_us(kernel, tmp_path: Path, number: signal.Signals):
    script = tmp_path / "hold.py"
    script.write_text(
        "import sys, time\nfrom pathlib import Path\n"
        "from rebootless.lab.vm import Vm, VmConfig\n"
        "from rebootless.lab.image import GuestImage\n"
        "with Vm(VmConfig(Path(sys.argv[1])), GuestImage(), Path(sys.argv[2])) as vm:\n"
        "    print(vm._process.pid, flush=True)\n    time.sleep(100)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, script, kernel.image, tmp_path / "log"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    process.send_signal(number)
    process.wait(timeout=20)
    deadline = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_guests_have_the_engine_s_view(lab):
    assert isinstance(lab.guest, Guest)
    found = lab.machine.read_many(["/proc/sys/kernel/os*", "/proc/[0-9]*/comm", "/nothing*"])
    assert found["/proc/sys/kernel/ostype"] == "Linux\n"
    assert found["/proc/1/comm"] == "init\n"
    lab.guest.check("mkdir -p '/tmp/a b'; : >'/tmp/a b/empty'; printf 'x:y\\nz\\n' >'/tmp/a b/$c'")
    assert lab.machine.read_many(["/tmp/a b/*"]) == {
        "/tmp/a b/empty": "",
        "/tmp/a b/$c": "x:y\nz\n",
    }
    assert lab.machine.glob(["/tmp/a b/$*"]) == ["/tmp/a b/$c"]
    assert lab.machine.read_bytes("/tmp/a b/none") is None
    assert lab.machine.read_at("/tmp/a b/$c", [(2, 2), (0, 100)]) == [b"y\n", None]
    lab.machine.write("/tmp/a b/empty", "full")
    assert lab.machine.read_bytes("/tmp/a b/empty") == b"full"
    assert lab.machine.matching_lines("/proc/kallsyms", ["cmdline_proc_show"])
    with pytest.raises(ResourceError, match="cannot write /proc/version"):
        lab.machine.write("/proc/version", "x")
