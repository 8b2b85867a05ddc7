"""A stock kernel with IBT and call padding (6.12): one patch, the whole way, with each engine.

QEMU emulates no IBT, so that a missing landing pad would do no harm there: what is applied here is
looked through for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.base.errors import RebootlessError, RefusedError
from rebootless.base.events import NullMonitor
from rebootless.bundle import archive
from rebootless.compile.originals import Variant
from rebootless.compile.tree import Tree, prepare
from rebootless.compile.unit import build_originals
from rebootless.diff.normalize import normalize
from rebootless.elf.reader import parse, read
from rebootless.kernel.release import parse_release
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.machine import GuestMachine
from rebootless.lab.vm import Vm, VmConfig
from rebootless.match import match_unit
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.provider.base import KernelFiles
from rebootless.provider.debian import DebianProvider
from rebootless.safety.landing import ImagePads, ModulePads, missing_pads

pytestmark = pytest.mark.vm

SERIES = "6.12"
NAME = "rl_ibt"
CORE = "rebootless_core"
SOURCES = Path(__file__).parent / "sources"
PACKETS = "/sys/class/net/dummy0/statistics/tx_packets"
SHOW = "static int version_proc_show(struct seq_file *m, void *v)\n{\n"
QUIET = "\t\tstfu |= sysctl_drop_caches & 4;\n"
LOADED = "\tdev_lstats_read(dev, &stats->tx_packets, &stats->tx_bytes);\n"
Edits = Mapping[str, tuple[str, str]]
EditPatch = Callable[[Path, Edits, Path], Path]


@pytest.fixture(scope="module")
def files(debian: DebianProvider) -> KernelFiles:
    """The newest cloud kernel of the series that this suite's archive has."""
    found = [
        k.release
        for k in debian.list()
        if k.buildable
        and k.release.endswith("-cloud-amd64")
        and parse_release(k.release).series == SERIES
    ]
    if not found:
        pytest.skip(f"the archive has no {SERIES} kernel now: NO kernel with IBT is tested")
    try:
        return debian.fetch(found[-1], NullMonitor())
    except RebootlessError as exc:
        pytest.skip(f"{found[-1]} cannot be fetched, NO kernel with IBT is tested: {exc.message}")


@pytest.fixture(scope="module")
def tree(files: KernelFiles) -> Tree:
    return prepare(files, NullMonitor())


@pytest.fixture(scope="module")
def bundle(
    files: KernelFiles,
    tree: Tree,
    edit_patch: EditPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> archive.Bundle:
    """A patch of two built-in units and a module.

    It has static keys and calls, alternatives, faults, a constant of the boot, new data and
    functions that are called through pointers, and a static local that the kernel has.
    """
    folder = tmp_path_factory.mktemp(NAME)
    top, show = ((SOURCES / f"special_{part}.c").read_text() for part in ("top", "show"))
    edits = {
        "fs/proc/version.c": (SHOW, f"{top}\n{SHOW}{show}"),
        "fs/drop_caches.c": (QUIET, f'{QUIET}\t\tpr_info("rl_ibt: quiet %d\\n", stfu);\n'),
        "drivers/net/dummy.c": (LOADED, f"{LOADED}\tstats->tx_packets += 424200;\n"),
    }
    result = pipeline.build(
        [edit_patch(tree.orig, edits, folder / "ibt.patch")],
        kernel=files.release,
        name=NAME,
        output=folder / "ibt.rlp",
        workdir=folder / "work",
    )
    return archive.read(result.bundle_path)


@pytest.fixture(scope="module")
def bundle_path(bundle: archive.Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle") / "ibt.rlp"
    archive.write(bundle, path)
    return path


@pytest.fixture(scope="module")
def machine(
    files: KernelFiles, bundle: archive.Bundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuestMachine]:
    """The guest for all engines; the module that is patched is loaded."""
    assert files.modules is not None and bundle.core is not None
    stored = {name: f"/lab/{name}.ko" for name in (NAME, CORE)}
    blobs = {NAME: bundle.modules[NAME], CORE: bundle.core}
    image = GuestImage(
        files.modules,
        load=("dummy",),
        files={stored[name]: (blob, 0o644) for name, blob in blobs.items()},
    )
    log = tmp_path_factory.mktemp("guest") / "console.log"
    with Vm(VmConfig(files.image, cpus=2, cmdline="hardened_usercopy=off"), image, log) as vm:
        yield GuestMachine(Guest(vm), stored)


def said(guest: Guest) -> dict[str, str]:
    """What the patched /proc/version says: a word, and the rest of its line."""
    return dict(re.findall(r"^rl (\w+) (.*)$", guest.check("cat /proc/version"), re.M))


def packets(guest: Guest) -> int:
    return int(guest.check(f"cat {PACKETS}"))


@pytest.mark.parametrize("engine", ["livepatch", "atomic", "per-task"])
def test_every_engine_applies_and_undoes(
    machine: GuestMachine, bundle_path: Path, engine: str
) -> None:
    guest = machine.guest
    assert said(guest) == {} and packets(guest) < 424200
    pipeline.apply(bundle_path, engine=engine, machine=machine)
    lines = said(guest)
    assert lines["fault"] == "-14 steal 0", "USER_PTR_MAX is what the kernel has"
    assert lines["copy"] == "64" and lines["page"] == "1"
    assert lines["guest"] == "1 weight 16 tsc 1", "alternatives are in place"
    assert lines["way"] == "1" and lines["second"] == "on" and "own" not in lines
    assert "on" not in said(guest).get("own", ""), "the third read changes it"
    said(guest)
    lines = said(guest)
    assert lines["own"] == "on" and "second" not in lines and lines["way"] == "2"
    guest.check("echo 1 >/proc/sys/kernel/bpf_stats_enabled")
    assert said(guest)["bpf"] == "on"
    guest.check("echo 0 >/proc/sys/kernel/bpf_stats_enabled")
    assert "bpf" not in said(guest)
    assert 424200 <= packets(guest) < 430000
    guest.check("echo 4 >/proc/sys/vm/drop_caches")
    assert "rl_ibt: quiet 4" in guest.check("dmesg -c")
    pipeline.undo(NAME, machine=machine, verify=False)
    assert said(guest) == {} and packets(guest) < 424200
    guest.check("echo 4 >/proc/sys/vm/drop_caches")
    log = guest.check("dmesg -c")
    assert "rl_ibt" not in log.replace("'rl_ibt'", "")
    assert not re.search(r"\b(BUG|Oops|general protection|control protection)\b", log)


def test_whatever_is_pointed_to_has_a_landing_pad(bundle: archive.Bundle) -> None:
    for blob in (bundle.modules[NAME], bundle.core):
        assert blob is not None
        module = parse(blob, name=NAME)
        assert missing_pads(normalize(module)) == ()
        names = set(module.symbols.names)
        assert names & {"version_proc_show", "rb_transition_start", "init_module"}
        assert ".orc_unwind_ip" in module.section_by_name
        assert ".return_sites" in module.section_by_name


def test_pointer_to_a_sealed_function_is_refused(
    files: KernelFiles, tree: Tree, edit_patch: EditPatch, tmp_path: Path
) -> None:
    """What is exported stays open; of the rest the kernel closes what nothing points to."""
    shipped = ShippedKernel(files)
    pads = ImagePads(shipped.image, shipped.symbols)
    assert pads.lands("version_proc_show", 0) and pads.lands("seq_printf", 0)
    assert pads.lands("ksys_sync", 0) is False and pads.lands("init_task", 0) is None
    assert ModulePads(shipped.module("dummy")).lands("dummy_get_stats64", 0)
    use = '\tif (rl_sync == (void *)v)\n\t\tseq_puts(m, "rl sync\\n");\n'
    pointer = "#include <linux/syscalls.h>\nstatic void (*volatile rl_sync)(void) = ksys_sync;\n\n"
    edits = {"fs/proc/version.c": (SHOW, f"{pointer}{SHOW}{use}")}
    patch = edit_patch(tree.orig, edits, tmp_path / "sealed.patch")
    with pytest.raises(RefusedError, match=r"\[no-landing-pad\].*'ksys_sync'"):
        pipeline.build([patch], kernel=files.release, output=tmp_path / "x", workdir=tmp_path / "w")


def test_large_unit_is_what_is_shipped(files: KernelFiles, tree: Tree) -> None:
    unit = "kernel/sched/core.c"
    (path,) = build_originals(tree, [unit], NullMonitor(), variant=Variant()).values()
    match = match_unit(read(path), ShippedKernel(files).shipped("vmlinux"))
    assert len(match.functions) > 300
    assert len(match.mismatches) <= len(match.functions) // 100  # a loop may be aligned otherwise
    assert not any(f.name.startswith("__pfx_") for f in match.functions)
