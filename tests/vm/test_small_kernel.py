"""Kernels without livepatch: built for, applied and undone by the core alone.

The small kernel has no ftrace either: its functions are redirected by jumps. Its loader knows no
livepatch relocations, so that the core applies them all.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small_kernel import SmallKernel

from rebootless import pipeline
from rebootless.base.events import NullMonitor
from rebootless.base.proc import run
from rebootless.bundle import archive
from rebootless.compile.tree import prepare
from rebootless.elf.reader import parse
from rebootless.engine import patching, text
from rebootless.engine.doctor import examine
from rebootless.engine.status import PatchedFunction
from rebootless.kernel.config import parse as parse_config

if TYPE_CHECKING:
    from .conftest import BootGuest, Lab, StockKernel

pytestmark = pytest.mark.vm

RELOCATIONS = Path(__file__).parent / "relocations"
PATCHES = "/sys/kernel/rebootless/patches"
NAME = "rl_small"
PAGE = 4096
SHOW = (
    "static int filesystems_proc_show(struct seq_file *m, void *v)\n{\n"
    "\tstruct file_system_type * tmp;\n"
)
# A shadow variable, callbacks and a state; private data of the unit as the variable's owner.
FEATURES = """
#include <rebootless.h>

REBOOTLESS_SHADOW(unsigned long, reads, 0x524c01);
REBOOTLESS_STATE(0x524c, 3);

static int rl_pre_patch(struct klp_object *object)
{
	struct klp_state *state = klp_get_state(&rebootless_patch, 0x524c);

	pr_info("rl_small: pre_patch %s, state %u, before %s\\n",
		object->name ?: "vmlinux", state ? state->version : 0,
		klp_get_prev_state(0x524c) ? "some" : "none");
	return 0;
}

static void rl_post_unpatch(struct klp_object *object)
{
	pr_info("rl_small: post_unpatch, shadow %s\\n",
		reads_get(&file_systems) ? "there" : "gone");
	reads_free_all(NULL);
}

REBOOTLESS_PRE_PATCH(rl_pre_patch);
REBOOTLESS_POST_UNPATCH(rl_post_unpatch);

"""
COUNTING = """	unsigned long *reads = reads_get_or_alloc(&file_systems, GFP_KERNEL, NULL, NULL);

	if (reads)
		seq_printf(m, "reads\\t%lu\\n", ++*reads);
"""
DISABLED = "\t\t/* Disable all handlers. */\n\t\tenabled = 0;\n"
EDITS = {
    "fs/filesystems.c": (SHOW, FEATURES + SHOW + COUNTING),
    "fs/proc/meminfo.c": ('"MemTotal:       "', '"MemPatched:     "'),
    "fs/binfmt_misc.c": (DISABLED, DISABLED.replace("enabled = 0", "enabled = 1")),
}
CHANGED = {
    ("vmlinux", "filesystems_proc_show"),
    ("vmlinux", "meminfo_proc_show"),
    ("binfmt_misc", "bm_status_write"),
}


@pytest.fixture(scope="module")
def build_for(
    edit_patch: Callable[[Path, Mapping[str, tuple[str, str]], Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[SmallKernel], archive.Bundle]:
    """Builds the patch of two units of the kernel and one of a module."""
    return lambda kernel: _build(kernel, edit_patch, tmp_path_factory.mktemp("small-build"))


@pytest.fixture(scope="module")
def built(
    small_built: SmallKernel, build_for: Callable[[SmallKernel], archive.Bundle]
) -> archive.Bundle:
    """The patch, built for the small kernel."""
    return build_for(small_built)


def _build(kernel: SmallKernel, edit_patch: Callable[..., Path], folder: Path) -> archive.Bundle:
    tree = prepare(kernel.provider().fetch(), NullMonitor())
    patch = edit_patch(tree.orig, EDITS, folder / "fix.patch")
    pipeline.build(
        [patch], local=kernel.provider(), name=NAME, output=folder / "fix.rlp",
        workdir=folder / "work",
    )  # fmt: skip
    return archive.read(folder / "fix.rlp")


@pytest.fixture(scope="module")
def relocating(small_kernel: StockKernel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The module whose relocations can be made bad."""
    folder = tmp_path_factory.mktemp("relocations") / "rl"
    shutil.copytree(RELOCATIONS, folder)
    headers = Path(pipeline.__file__).parents[1] / "kmod"
    for name in ("rebootless_core.h", "rebootless_klp.h"):
        shutil.copyfile(headers / name, folder / name)
    with small_kernel.lock():
        run(small_kernel.command(f"M={folder}", "modules"), timeout=300)
    return (folder / "rl_relocs.ko").read_bytes()


def module_of(bundle: archive.Bundle) -> bytes:
    return bundle.members[f"{archive.MODULES}{NAME}.ko"]


@pytest.fixture(scope="module")
def shared(
    boot_small: BootGuest, small_kernel: StockKernel, built: archive.Bundle, relocating: bytes
) -> Iterator[Lab]:
    blobs = {NAME: module_of(built), "rl_relocs": relocating}
    with boot_small(small_kernel, blobs, ("binfmt_misc",), cpus=2) as lab:
        lab.machine.load_module(b"", name="rebootless_core")
        yield lab


@pytest.fixture
def lab(shared: Lab) -> Iterator[Lab]:
    """The shared guest; a test leaves no patch in it."""
    yield shared
    assert shared.guest.run(f"ls {PATCHES}").output.split() == []
    assert "rl_" not in shared.guest.run("cat /proc/modules").output


def settled(lab: Lab, name: str, enabled: str) -> None:
    lab.guest.check(
        f"for i in $(seq 100); do [ $(cat {PATCHES}/{name}/transition) = 0 ] && "
        f"[ $(cat {PATCHES}/{name}/enabled) = {enabled} ] && exit 0; usleep 100000; done; exit 1"
    )


def undo(lab: Lab, name: str) -> None:
    """Undoes a patch and removes its module."""
    lab.guest.check(f"echo 0 >{PATCHES}/{name}/enabled")
    lab.guest.check(
        f"for i in $(seq 100); do [ -e {PATCHES}/{name} ] || break; usleep 100000; done; "
        f"for i in $(seq 100); do rmmod {name} && exit 0; usleep 100000; done; exit 1"
    )


def seen(lab: Lab) -> tuple[str, str]:
    """The first lines of what the patch changes in the kernel proper."""
    return tuple(
        lab.guest.check(f"head -n1 /proc/{name}").split()[0] for name in ("filesystems", "meminfo")
    )


def load_module(lab: Lab) -> None:
    lab.machine.insert("/lib/modules/binfmt_misc.ko", name="binfmt_misc")
    lab.guest.check("mkdir -p /tmp/binfmt && mount -t binfmt_misc none /tmp/binfmt")


def unload_module(lab: Lab) -> None:
    lab.guest.check("umount /tmp/binfmt && rmmod binfmt_misc")


def disabled(lab: Lab) -> str:
    """The module's status once it has been told to be disabled."""
    return lab.guest.check("cd /tmp/binfmt && echo 0 >status && cat status")


def kernel_text(lab: Lab) -> str:
    """A checksum over all code of the kernel proper as it is in memory."""
    listed = lab.guest.check("grep -E ' (_stext|_etext)$' /proc/kallsyms").split()
    start, end = sorted(int(address, 16) for address in listed[::3])
    memory = text.open_memory(lab.machine)
    assert memory is not None
    offset = text.file_offset(memory.segments, start)
    assert offset is not None and offset % PAGE == 0
    pages = f"bs={PAGE} skip={offset // PAGE} count={(end - start) // PAGE}"
    return lab.guest.check(f"dd if=/proc/kcore {pages} 2>/dev/null | md5sum")


def code(lab: Lab) -> dict[PatchedFunction, bytes]:
    functions = [PatchedFunction(owner, name, 0) for owner, name in sorted(CHANGED)]
    return dict(text.entries(lab.machine, text.locate(lab.machine, functions)))


def test_the_kernel_is_what_is_wanted(small_built: SmallKernel) -> None:
    config = parse_config((small_built.folder / "config").read_text())
    assert not [o for o in ("LIVEPATCH", "FTRACE", "DYNAMIC_FTRACE") if config.enabled(o)]
    assert config.enabled("KPROBES") and config.enabled("RETHUNK")


def test_the_patch_needs_nothing_that_the_kernel_lacks(built: archive.Bundle) -> None:
    module = parse(module_of(built), name=NAME)
    assert not [s.name for s in module.sections if s.name.startswith(".klp")]
    assert not [n for n in module.symbols.names if n.startswith(".klp")]
    assert b"livepatch=Y" not in module_of(built)
    records = bytes(module.section_by_name[".rebootless.relocs"].data)
    names = set(re.findall(rb"[\w|.]+,\d+", records))
    assert {
        b"vmlinux|vmlinux.file_systems,0",
        b"vmlinux|vmlinux.seq_put_decimal_ull_width,0",
        b"binfmt_misc|binfmt_misc.parse_command,0",
        b"binfmt_misc|binfmt_misc.enabled,0",
    } <= names
    patched = {(o.name, f.name) for o in built.manifest.objects for f in o.functions}
    assert patched == CHANGED


def test_both_processors_are_there(lab: Lab) -> None:
    """Else stopping everything would prove little."""
    assert lab.guest.check("nproc") == "2\n"


def test_the_doctor_says_which_engine_is_left(lab: Lab) -> None:
    found = {check.name: check for check in examine(lab.machine).checks}
    assert found["engine atomic"].status == found["stack walks"].status == "ok"
    assert found["engine livepatch"].status == found["engine per-task"].status == "warning"
    assert found["chosen engine"].why.startswith("atomic: ")


def test_apply_and_undo(lab: Lab) -> None:
    guest = lab.guest
    whole, before, shown = kernel_text(lab), code(lab), seen(lab)
    assert shown[1] == "MemTotal:" and len(before) == 2, "the module is not loaded yet"
    guest.run("dmesg -c")
    lab.machine.load_module(b"", name=NAME, parameters="engine=atomic")
    settled(lab, NAME, "1")
    assert seen(lab) == ("reads", "MemPatched:")
    assert "nodev\tproc\n" in guest.check("cat /proc/filesystems"), "by the kernel's own list"
    assert guest.check("head -n1 /proc/filesystems") == "reads\t3\n", "the variable keeps count"
    assert "pre_patch vmlinux, state 3, before none" in guest.check("dmesg")
    assert all(code(lab)[f] != before[f] for f in before)
    load_module(lab)
    assert disabled(lab) == "enabled\n", "by the module's own parser and variable"
    undo(lab, NAME)
    assert disabled(lab) == "disabled\n"
    assert seen(lab) == shown
    assert kernel_text(lab) == whole, "byte by byte"
    assert "post_unpatch, shadow there" in guest.check("dmesg")
    unload_module(lab)


def test_a_module_comes_again_under_a_patch(lab: Lab) -> None:
    """Its relocations are applied anew: the addresses are other ones."""
    lab.machine.load_module(b"", name=NAME, parameters="engine=atomic")
    settled(lab, NAME, "1")
    for _ in range(2):
        load_module(lab)
        assert disabled(lab) == "enabled\n"
        unload_module(lab)
    undo(lab, NAME)
    assert seen(lab)[1] == "MemTotal:"


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("missing", "vmlinux has no symbol 'rl_not_there' at position 0"),
        ("position", "vmlinux has no symbol 'linux_banner' at position 7"),
        ("reach", "a relocation (type 32) against 'vmlinux.linux_banner,0'"),
        ("type", "is of no known type"),
        ("name", "'vmlinux|linux_banner' is no name of a relocation"),
        ("place", "is out of the patch"),
    ],
)
def test_a_bad_relocation_is_refused_and_nothing_is_written(lab: Lab, bad: str, told: str) -> None:
    cmdline = lab.guest.check("cat /proc/cmdline")
    lab.guest.run("dmesg -c")
    assert lab.guest.run(f"insmod /lab/patches/rl_relocs.ko bad={bad}").status != 0
    log = lab.guest.check("dmesg")
    assert told in log and "rl_relocs: refused 000" in log and "'rl_relocs':" in log
    assert lab.guest.check("cat /proc/cmdline") == cmdline


def test_good_relocations_also_of_constants_and_shadow_variables(lab: Lab) -> None:
    lab.guest.run("dmesg -c")
    lab.guest.check("insmod /lab/patches/rl_relocs.ko")
    settled(lab, "rl_relocs", "1")
    log = lab.guest.check("dmesg")
    assert "rl_relocs: relocated 111" in log and "rl_relocs: %s version %s" in log
    assert "rl_relocs: shadows 0" in log, "else the number is a line of rl_relocs.c"
    assert lab.guest.check("cat /proc/cmdline") == "rl_relocs\n"
    undo(lab, "rl_relocs")


@pytest.mark.soak  # a kernel of its own
def test_task_by_task_where_there_is_ftrace_only(
    boot_small: BootGuest,
    traced_built: SmallKernel,
    traced_kernel: StockKernel,
    build_for: Callable[[SmallKernel], archive.Bundle],
) -> None:
    """The kernel has no kprobes either: the core is told where the symbols are."""
    bundle = build_for(traced_built)
    with boot_small(traced_kernel, {NAME: module_of(bundle)}, ("binfmt_misc",), cpus=2) as lab:
        shown = seen(lab)
        applied = patching.apply(lab.machine, module_of(bundle), core_module=bundle.core)
        assert applied.engine == "per-task"
        assert seen(lab) == ("reads", "MemPatched:")
        load_module(lab)
        assert disabled(lab) == "enabled\n"
        undone = patching.undo(lab.machine, NAME)
        assert not undone.remains
        assert seen(lab) == shown and disabled(lab) == "disabled\n"
