"""Live patches by way of C, in one real kernel: one extracted, one scaffolded and then changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.bundle import archive
from rebootless.compile.tree import Tree
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.machine import GuestMachine
from rebootless.lab.vm import Vm, VmConfig
from rebootless.provider.base import KernelFiles

pytestmark = pytest.mark.vm

Edits = dict[str, tuple[str, str]]
QUIET = "\t\tif (!stfu) {\n"
DROP: Edits = {
    "fs/drop_caches.c": (QUIET, f'\t\tpr_info("rl_source: quiet %d\\n", stfu);\n{QUIET}')
}
SHOWN = "\tseq_printf(m, linux_proc_banner,\n"


def test_extracted_and_hand_written(
    stock_tree: Tree,
    stock_kernel: KernelFiles,
    edit_patch: Callable[[Path, Edits, Path], Path],
    tmp_path: Path,
) -> None:
    """The extracted one sees the state of the kernel's static variable; the other calls a private
    function of another unit."""
    release = stock_kernel.release
    patch = edit_patch(stock_tree.orig, DROP, tmp_path / "drop.patch")
    extracted = pipeline.build(
        [patch], kernel=release, name="rl_source", output=tmp_path / "source.rlp", from_source=True
    ).bundle_path
    made = pipeline.scaffold(
        "hand", ["version_proc_show"], kernel=release, output=tmp_path / "hand.c"
    )
    text = made.path.read_text()
    assert text.count(SHOWN) == 1
    text = text.replace(SHOWN, f'\tseq_puts(m, "by hand: ");\n\tcmdline_proc_show(m, v);\n{SHOWN}')
    declared = "extern int cmdline_proc_show(struct seq_file *m, void *v);\n"
    symbol = "REBOOTLESS_SYMBOL(vmlinux, cmdline_proc_show, 0);\n"
    made.path.write_text(text.replace("/* fs/proc", f"{declared}{symbol}\n/* fs/proc", 1))
    written = pipeline.build(
        [made.path], kernel=release, name="rl_hand", output=tmp_path / "hand.rlp"
    ).bundle_path
    modules = {n: b for p in (extracted, written) for n, b in archive.read(p).modules.items()}
    stored = {name: f"/lab/patches/{name}.ko" for name in modules}
    files = {stored[name]: (blob, 0o644) for name, blob in modules.items()}
    image = GuestImage(stock_kernel.modules, files=files)
    with Vm(VmConfig(stock_kernel.image, cpus=2), image, tmp_path / "guest.log") as vm:
        guest = Guest(vm)
        machine = GuestMachine(guest, stored)
        before = guest.check("cat /proc/version")
        guest.check("echo 4 >/proc/sys/vm/drop_caches")  # the kernel's own code sets stfu
        for bundle in (extracted, written):
            pipeline.apply(bundle, machine=machine)
        cmdline = guest.check("cat /proc/cmdline").strip()
        assert guest.check("cat /proc/version") == f"by hand: {cmdline}\n{before}"
        guest.check("echo 1 >/proc/sys/vm/drop_caches")
        assert "rl_source: quiet 4" in guest.check("dmesg")
        for name in ("rl_hand", "rl_source"):
            pipeline.undo(name, machine=machine, verify=False)
        assert guest.check("cat /proc/version") == before
        lines = guest.check("dmesg").count("rl_source: quiet")
        guest.check("echo 1 >/proc/sys/vm/drop_caches")
        assert guest.check("dmesg").count("rl_source: quiet") == lines
