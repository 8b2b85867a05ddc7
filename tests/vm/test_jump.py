"""Functions redirected by a jump at their entry, on a kernel that has no ftrace."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from core_guest import PARAMETERS, ROOT, end_of, gone, hammer_through, left_clean, off, on

from rebootless.base.proc import run
from rebootless.engine import text
from rebootless.engine.status import PatchedFunction

pytestmark = pytest.mark.vm

CMDLINE = PatchedFunction("vmlinux", "cmdline_proc_show")
NAMES = ("rl_cmdline", "rl_halves", "rl_halves_patch", "rl_probe")
MODULES = Path(__file__).parent / "modules"
KMOD = Path(text.__file__).parents[1] / "kmod"


@pytest.fixture(scope="module")
def blobs(small_kernel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The test patches, built for the small kernel."""
    folder = tmp_path_factory.mktemp("modules") / "rl"
    shutil.copytree(MODULES, folder)
    for header in KMOD.glob("rebootless_*.h"):
        shutil.copy(header, folder)
    objects = " ".join(f"{name}.o" for name in NAMES)
    (folder / "Kbuild").write_text(f"obj-m := {objects}\nccflags-y := -I$(src)\n")
    with small_kernel.lock():
        run(small_kernel.command(f"M={folder}", "modules"), timeout=300)
    return {name: (folder / f"{name}.ko").read_bytes() for name in NAMES}


@pytest.fixture(scope="module")
def jump_lab(boot_small, small_kernel, blobs: dict[str, bytes], crowd: bytes) -> Iterator[object]:
    with boot_small(small_kernel, blobs, cpus=2) as lab:
        lab.guest.put_file(crowd, "/bin/crowd", mode=0o755)
        lab.machine.load_module(b"", name="rebootless_core")
        lab.guest.check("insmod /lab/patches/rl_halves.ko")
        yield lab
        assert "WARNING" not in lab.vm.console()
        assert "BUG" not in lab.vm.console()
        lab.guest.check("rmmod rl_halves rebootless_core")


@pytest.fixture
def lab(jump_lab) -> Iterator[object]:
    with left_clean(jump_lab):
        yield jump_lab


def entry(lab) -> bytes:
    return text.entries(lab.machine, text.locate(lab.machine, [CMDLINE]))[CMDLINE]


def test_the_entry_becomes_a_jump_and_is_itself_again(lab):
    before = entry(lab)
    lab.guest.check(on("rl_cmdline"))
    pad = 4 if before.startswith(b"\xf3\x0f\x1e\xfa") else 0
    after = entry(lab)
    assert after[:pad] + after[pad + 5 :] == before[:pad] + before[pad + 5 :]
    assert after[pad] == 0xE9
    assert lab.guest.check("cat /proc/cmdline") == "rebootless was here\n"
    lab.guest.check(off("rl_cmdline"))
    assert entry(lab) == before
    assert "console=" in lab.guest.check("cat /proc/cmdline")


def test_a_kprobe_at_the_entry_is_left_alone(lab):
    probe = "insmod /lab/patches/rl_probe.ko symbol=cmdline_proc_show"
    before = entry(lab)
    lab.guest.check(probe)
    assert lab.guest.run("insmod /lab/patches/rl_cmdline.ko engine=atomic").status != 0
    assert "cmdline_proc_show has a kprobe at its entry" in lab.guest.check("dmesg -c")
    assert "console=" in lab.guest.check("cat /proc/cmdline; rmmod rl_probe")
    assert entry(lab) == before
    lab.guest.check(on("rl_cmdline"))
    lab.guest.check(f"{probe}; echo 3 >{PARAMETERS}/tries; cat /proc/cmdline")
    assert lab.guest.check("cat /sys/module/rl_probe/parameters/hits") == "1\n"
    lab.guest.check(f"echo 0 >{ROOT}/rl_cmdline/enabled; {end_of('rl_cmdline')}")
    assert lab.guest.check(f"cat {ROOT}/rl_cmdline/enabled") == "1\n", "taken back after 3 tries"
    assert "has been changed at its entry by somebody else" in lab.guest.check("dmesg")
    force = f"{{ echo 1000 >{PARAMETERS}/tries; cd {ROOT}/rl_cmdline; echo 0 >enabled; }}"
    assert lab.guest.run(f"{force} && echo 1 >force").status != 0
    lab.guest.check(f"echo 1 >{ROOT}/rl_cmdline/enabled; {end_of('rl_cmdline')}")
    assert "rebootless was here" in lab.guest.check("cat /proc/cmdline; rmmod rl_probe")
    lab.guest.check(f"echo 45 >{PARAMETERS}/tries; {off('rl_cmdline')}")
    assert entry(lab) == before


def test_halves_never_mix_on_any_cpu(lab):
    assert hammer_through(lab.guest, 10) > 10_000


def test_whoever_is_killed_while_writing_leaves_a_whole_state(lab):
    lab.guest.check(on("rl_cmdline"))
    for delay in range(0, 4000, 1000):
        lab.guest.check(
            f"[ -e {ROOT}/rl_cmdline ] && {{ echo 0 >{ROOT}/rl_cmdline/enabled & p=$!;"
            f" usleep {delay}; kill -9 $p; wait; }}; {end_of('rl_cmdline')}; true"
        )
    lab.guest.check(gone("rl_cmdline"))
    assert "console=" in lab.guest.check("cat /proc/cmdline")
