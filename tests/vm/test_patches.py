"""The whole way, for patches of every kind: from source to a real kernel and back.

Each patch is made from the kernel's own source when the test runs, built, applied in QEMU with a
workload running, checked by its behaviour, and undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.base.errors import StalledError, StateError, WrongKernelError
from rebootless.bundle import archive
from rebootless.compile.tree import Tree
from rebootless.engine.transition import OnTimeout, Policy
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.machine import GuestMachine
from rebootless.lab.report import TestReport
from rebootless.lab.scenario import run
from rebootless.lab.vm import Vm, VmConfig
from rebootless.pipeline.demonstrating import EXT4_CHECK, EXT4_IMAGE, ext4_image
from rebootless.pipeline.kernel import find
from rebootless.pipeline.testing import scenario_of
from rebootless.provider.base import KernelFiles
from rebootless.provider.updates import SourceUpdate

pytestmark = pytest.mark.vm

Edits = dict[str, tuple[str, str]]
Build = Callable[..., Path]
VERSION_END = "\t\tutsname()->version);\n"
UPTIME_END = "(idle.tv_nsec / (NSEC_PER_SEC / 100)));\n"


@pytest.fixture(scope="module")
def build(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: Callable[[Path, Edits, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Build:
    """Builds a bundle for the stock kernel from edits of its source."""

    def make(name: str, edits: Edits, **options: object) -> Path:
        folder = tmp_path_factory.mktemp(name)
        patch = edit_patch(stock_tree.orig, edits, folder / f"{name}.patch")
        result = pipeline.build(
            [patch],
            kernel=stock_release,
            name=name,
            output=folder / f"{name}.rlp",
            workdir=folder / "work",
            **options,  # type: ignore[arg-type]
        )
        return result.bundle_path

    return make


def try_out(bundle: Path, files: KernelFiles, folder: Path, **options: object) -> TestReport:
    """Runs the standard scenario; fails the test with its report if it does not pass."""
    scenario = scenario_of(archive.read(bundle), files, **options)  # type: ignore[arg-type]
    return run(scenario, folder / "console.log").require()


def version_edit(text: str) -> Edits:
    return {"fs/proc/version.c": (VERSION_END, f'{VERSION_END}\tseq_puts(m, "{text}\\n");\n')}


def test_visible_change_comes_and_goes(
    build: Build, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    bundle = build("rl_version", version_edit("patched live"))
    report = try_out(bundle, stock_kernel, tmp_path, check="grep 'patched live' /proc/version\n")
    assert report.redirected == ("version_proc_show",) and report.restored
    assert report.states == ("none", "rl_version applied", "none")


def test_the_test_verb_adds_its_log(build: Build) -> None:
    bundle = build("rl_logged", version_edit("logged"))
    check = bundle.with_name("check.sh")
    check.write_text("grep logged /proc/version\n")
    before = archive.read(bundle).id
    report = pipeline.test(bundle, check=check)
    assert report.passed
    (compared,) = [s for s in report.steps if s.name == "all code as shipped"]
    assert compared.outcome == "ok" and compared.detail.startswith("as shipped ("), compared
    after = archive.read(bundle)
    assert after.id == before and "verdict: passed" in (after.test_log or "")
    check.write_text("true\n")
    report = pipeline.test(bundle, check=check, verify=False, workload=False)
    assert not report.passed, "it passes before the patch too"


def test_two_units_share_a_new_global(
    build: Build, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    counter = (
        "unsigned long rl_reads;\n"
        "noinline unsigned long rl_count(void) { return ++rl_reads; }\n\n"
        "static int version_proc_show("
    )
    declared = (
        "extern unsigned long rl_reads;\nunsigned long rl_count(void);\n\n"
        "static int uptime_proc_show("
    )
    bundle = build(
        "rl_two",
        {
            "fs/proc/version.c": (
                "static int version_proc_show(struct seq_file *m, void *v)\n{\n",
                f"{counter}struct seq_file *m, void *v)\n{{\n"
                '\tseq_printf(m, "reads %lu\\n", rl_count());\n',
            ),
            "fs/proc/uptime.c": (
                "static int uptime_proc_show(struct seq_file *m, void *v)\n{\n",
                f"{declared}struct seq_file *m, void *v)\n{{\n\trl_reads += 100;\n\trl_count();\n",
            ),
        },
    )
    check = """
    first=$(sed -n 's/^reads //p' /proc/version); [ -n "$first" ] || exit 1
    cat /proc/uptime >/dev/null
    second=$(sed -n 's/^reads //p' /proc/version)
    [ $((second - first)) -eq 102 ]
    """
    report = try_out(bundle, stock_kernel, tmp_path, check=check, workload=False)
    assert report.redirected == ("uptime_proc_show", "version_proc_show")


def test_static_local_keeps_the_state_of_the_kernel(
    build: Build, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    """`stfu` in drop_caches is set before the patch; the patched code must see it set."""
    source = "\t\tstfu |= sysctl_drop_caches & 4;\n"
    bundle = build(
        "rl_static",
        {"fs/drop_caches.c": (source, f'{source}\t\tpr_info("rl_static: quiet %d\\n", stfu);\n')},
    )
    check = """
    count() { dmesg | grep -c "$1"; }
    echo 4 >/proc/sys/vm/drop_caches
    patched=$(count 'rl_static: quiet 4'); spoken=$(count 'drop_caches: 1')
    echo 1 >/proc/sys/vm/drop_caches
    [ "$(count 'drop_caches: 1')" = "$spoken" ] || exit 1
    [ "$(count 'rl_static: quiet 4')" -gt "$patched" ]
    """
    report = try_out(bundle, stock_kernel, tmp_path, check=check)
    assert report.redirected == ("drop_caches_sysctl_handler",)


def test_function_without_fentry_goes_along_with_its_caller(
    build: Build, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    """`inline` means notrace in the kernel, and this one is left out of line."""
    first = "\tbool can_direct_reclaim = gfp_mask & __GFP_DIRECT_RECLAIM;\n"
    bundle = build("rl_carried", {"mm/page_alloc.c": (first, f'\tasm volatile("nop");\n{first}')})
    (unit,) = archive.read(bundle).report["units"]
    assert [f["name"].split(".")[0] for f in unit["carried"]] == ["__alloc_pages_slowpath"]
    report = try_out(bundle, stock_kernel, tmp_path)
    assert "__alloc_pages" in report.redirected and report.restored


def test_real_fix_built_in(small_update: SourceUpdate, tmp_path: Path) -> None:
    bundle = update_bundle(small_update, small_update.release, tmp_path)
    files = find(small_update.release)
    report = try_out(
        bundle,
        files,
        tmp_path,
        check=EXT4_CHECK,
        fails_without=False,
        extra_modules=("loop",),
        extra_files={EXT4_IMAGE: (ext4_image(), 0o600)},
    )
    assert report.restored and len(report.redirected) >= 1


def update_bundle(update: SourceUpdate, release: str, folder: Path) -> Path:
    patch = folder / "update.patch"
    patch.write_bytes(update.diff)
    return pipeline.build(
        [patch], kernel=release, name="rl_update", output=folder / "update.rlp"
    ).bundle_path


@pytest.fixture(scope="module")
def module_update(
    small_update: SourceUpdate, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, KernelFiles]:
    """The real fix for the plain flavour, where file systems are modules."""
    release = small_update.release.replace("-cloud-amd64", "-amd64")
    bundle = update_bundle(small_update, release, tmp_path_factory.mktemp("module"))
    objects = [o.name for o in archive.read(bundle).manifest.objects]
    if objects == ["vmlinux"]:
        pytest.skip("the newest small update touches no module of the plain flavour")
    return bundle, find(release)


@pytest.mark.parametrize("late", [False, True])
def test_real_fix_of_a_module(
    module_update: tuple[Path, KernelFiles], late: bool, tmp_path: Path
) -> None:
    bundle, files = module_update
    report = try_out(
        bundle,
        files,
        tmp_path,
        check=EXT4_CHECK,
        fails_without=False,
        late=late,
        extra_modules=("loop", "crc32c_generic"),
        extra_files={EXT4_IMAGE: (ext4_image(), 0o600)},
    )
    assert all(f.startswith("ext4:") for f in report.redirected) and report.restored


def test_cumulative_patch_replaces_the_first(
    build: Build, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    first = archive.read(build("rl_first", version_edit("first")))
    edits = version_edit("second")
    edits["fs/proc/uptime.c"] = (UPTIME_END, f'{UPTIME_END}\tseq_puts(m, "also here\\n");\n')
    second = archive.read(build("rl_second", edits, replace=True))
    assert second.manifest.replace
    scenario = scenario_of(
        first, stock_kernel, check="grep second /proc/version && grep 'also here' /proc/uptime\n"
    )
    both = (*scenario.patches, *second.modules.values())
    report = run(replace(scenario, patches=both), tmp_path / "console.log").require()
    assert report.states == (
        "none", "rl_first applied", "rl_second applied", "none"
    )  # fmt: skip


@pytest.fixture
def guest(stock_kernel: KernelFiles, tmp_path: Path) -> Iterator[Callable[..., GuestMachine]]:
    """Boots the stock kernel with the modules of bundles in it."""
    running: list[Vm] = []

    def boot(*bundles: Path) -> GuestMachine:
        stored = {}
        files: dict[str, tuple[bytes, int]] = {}
        for bundle in bundles:
            for name, blob in archive.read(bundle).modules.items():
                stored[name] = f"/lab/patches/{name}.ko"
                files[stored[name]] = (blob, 0o644)
        image = GuestImage(stock_kernel.modules, files=files)
        vm = Vm(VmConfig(stock_kernel.image, cpus=2), image, tmp_path / "guest.log")
        running.append(vm)
        vm.start()
        return GuestMachine(Guest(vm), stored)

    yield boot
    for vm in running:
        vm.stop()


def test_sleeper_is_named_and_the_patch_taken_back(
    build: Build, guest: Callable[..., GuestMachine]
) -> None:
    bundle = build(
        "rl_pipe",
        {
            "fs/pipe.c": (
                "\t/* Null read succeeds. */\n",
                "\tif (unlikely(total_len == 424242))\n"
                '\t\tpr_info_once("rl_pipe\\n");\n\t/* Null read succeeds. */\n',
            )
        },
    )
    thread = build(
        "rl_thread",
        {
            "mm/oom_kill.c": (
                "\tset_freezable();\n\n\twhile (true) {\n",
                '\tset_freezable();\n\tpr_info_once("rl_thread\\n");\n\n\twhile (true) {\n',
            )
        },
    )
    assert ("may-sleep-long", "pipe_read") in forecast(bundle)
    assert ("always-on-stack", "oom_reaper") in forecast(thread)
    machine = guest(bundle, thread)
    with pytest.raises(StalledError, match="oom_reaper"):  # nor do the signals help, after 15 s
        pipeline.apply(thread, wait=18, machine=machine)
    machine.guest.check("mkfifo /tmp/fifo")
    machine.guest.background("exec cat /tmp/fifo")
    machine.guest.background("exec sleep 600 >/tmp/fifo")  # a writer, so that cat waits in read
    machine.sleep(1)
    policy = Policy(wait=4, on_timeout=OnTimeout.REVERSE)
    with pytest.raises(StalledError, match=r"cat.*pipe_read"):
        apply(machine, bundle, policy)
    assert not pipeline.status(machine=machine)["patches"], "reversed, and nothing stays"
    with pytest.raises(StalledError):
        apply(machine, bundle, Policy(wait=3, on_timeout=OnTimeout.LEAVE))
    facts = pipeline.status(machine=machine, verbose=True)
    (patch,) = facts["patches"]
    assert patch["state"] == "applying"
    assert ("cat", "pipe_read") in {(b["comm"], b["where"]) for b in patch["blockers"]}


def forecast(bundle: Path) -> set[tuple[str, str]]:
    """What the build warned of, by code and symbol."""
    return {(w.code, w.symbol) for w in archive.read(bundle).manifest.warnings}


def apply(machine: GuestMachine, bundle: Path, policy: Policy) -> None:
    pipeline.apply(bundle, wait=policy.wait, on_timeout=policy.on_timeout.value, machine=machine)


def test_apply_refuses_what_does_not_fit(
    build: Build, guest: Callable[..., GuestMachine], stock_release: str, tmp_path: Path
) -> None:
    bundle = build("rl_once", version_edit("once"))
    rival = build("rl_rival", version_edit("rival"))
    machine = guest(bundle, rival)
    pipeline.apply(bundle, machine=machine)
    with pytest.raises(StateError, match="rl_once"):
        pipeline.apply(bundle, machine=machine)
    with pytest.raises(StateError, match="version_proc_show"):
        pipeline.apply(rival, machine=machine)
    foreign = archive.read(bundle)
    kernel = replace(foreign.manifest.kernel, build_id="00" * 20)
    other = archive.create(replace(foreign.manifest, kernel=kernel), foreign.members)
    archive.write(other, tmp_path / "foreign.rlp")
    pipeline.undo("rl_once", machine=machine, verify=False)
    with pytest.raises(WrongKernelError, match="build-id"):
        pipeline.apply(tmp_path / "foreign.rlp", machine=machine)
    with pytest.raises(StateError, match="rl_once"):
        pipeline.undo("rl_once", machine=machine, verify=False)
