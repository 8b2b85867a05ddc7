"""The command in a guest, with each engine: apply, undo, stall, force, and every bad moment.

One guest serves all tests; each leaves it with no patch. The kernel takes what real bundles bring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import guest_python
import pytest

from rebootless import pipeline
from rebootless.bundle import archive
from rebootless.bundle.manifest import CoreEntry
from rebootless.compile.tree import Tree
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.vm import Vm, VmConfig
from rebootless.provider.base import KernelFiles

pytestmark = pytest.mark.vm

HERE = Path(__file__).parent
SEARCH = (guest_python.SOURCES, Path(click.__file__).parents[1])
VERBS = ("apply", "boot", "doctor", "engine", "install", "list", "status", "undo", "uninstall")
MODULES = ", ".join(
    (
        *("encodings.cp437", "importlib.resources.readers", "importlib.readers", "subprocess"),
        *("rebootless.__main__", "rebootless.pipeline.running", "rebootless.pipeline.cores"),
        *(f"rebootless.cli.verbs.{verb}" for verb in VERBS),
    )
)
SHOW = "\t\tutsname()->version);\n"
NULL_READ = "\tif (unlikely(total_len == 0))\n\t\treturn 0;\n"
READ = NULL_READ.replace("== 0", "== 4242424242").replace("return 0", "return -EINVAL")
EDITS = {
    "rl_one": {"fs/proc/version.c": (SHOW, f'{SHOW}\tseq_puts(m, "one\\n");\n')},
    "rl_two": {"fs/proc/version.c": (SHOW, f'{SHOW}\tseq_puts(m, "two\\n");\n')},
    "rl_nap": {"fs/pipe.c": (NULL_READ, NULL_READ + READ)},
}
LEFT = "ls /sys/kernel/livepatch /sys/kernel/rebootless/patches; lsmod"
CLEAN = """
killall -q -9 cat
for file in /sys/kernel/livepatch/*/enabled /sys/kernel/rebootless/patches/*/enabled; do
    [ -e "$file" ] && echo 0 >"$file"
done
sleep 2
lsmod | while read name rest; do case $name in rl_*) rmmod $name ;; esac; done
"""  # after a test that failed
ENGINES = ("livepatch", "atomic", "per-task")


@pytest.fixture(scope="module")
def bundles(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("verbs")
    made = {}
    for name, edits in EDITS.items():
        patch = edit_patch(stock_tree.orig, edits, folder / f"{name}.patch")
        made[name] = pipeline.build(
            [patch], kernel=stock_release, name=name, output=folder / f"{name}.rlp"
        ).bundle_path
    return made | with_other_cores(made["rl_one"], stock_release, folder)


def with_other_cores(path: Path, release: str, folder: Path) -> dict[str, Path]:
    """The same patch with each core module that a bundle should not have."""
    content = archive.read(path)
    assert content.core is not None and content.manifest.core is not None
    cores = {
        "none": None,
        "short": content.core[:4096],
        "foreign": content.core.replace(release.encode(), release.replace("6.1", "6.2").encode()),
        "patch": content.modules["rl_one"],
        "newer": content.core,
    }
    found = {}
    for name, core in cores.items():
        members = {m: blob for m, blob in content.members.items() if m != archive.CORE}
        abi = content.manifest.core.abi + (name == "newer")
        manifest = replace(
            content.manifest, core=None if core is None else CoreEntry(abi, archive.CORE)
        )
        members |= {} if core is None else {archive.CORE: core}
        found[f"core_{name}"] = folder / f"core_{name}.rlp"
        archive.write(archive.create(manifest, members), found[f"core_{name}"])
    return found


PROGRAM = f"""
import sys
sys.path[:0] = {[guest_python.in_guest(n) for n in range(len(SEARCH))]!r}
sys.argv[0] = "/usr/bin/rebootless"
from rebootless.__main__ import main
"""
START = f"""{PROGRAM}
sys.path.append("/lab")
import {MODULES}
import engine_driver
engine_driver.serve()
"""


class Shell:
    """Runs a Python text in the guest, in a child of the driver."""

    def __init__(self, guest: Guest, python: str) -> None:
        self.guest = guest
        self.python = python
        self.server = guest.background(f"exec {python} -I -S -B /lab/start.py >/dev/console 2>&1")

    def run(self, script: str, **values: object) -> str:
        given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        self.guest.put_file(f"{given}\n{script}".encode(), "/lab/next.py")
        answer = self.guest.run(
            "rm -f /lab/status; mv /lab/next.py /lab/script.py;"
            f" until [ -e /lab/status ]; do [ -e /proc/{self.server} ] || exit; usleep 50000; done;"
            " cat /lab/output; exit $(cat /lab/status)",
            timeout=600,
        )
        print(answer.output)
        assert answer.status == 0, answer.output + self.guest.run("dmesg | tail -20").output
        return answer.output


@pytest.fixture(scope="module")
def shell(
    bundles: dict[str, Path], stock_kernel: KernelFiles, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    python, files = guest_python.python_files(MODULES, search=SEARCH)
    unit = guest_python.SOURCES / "rebootless/engine/units/rebootless.service"
    files |= {
        guest_python.guest_path(unit): (unit.read_bytes(), 0o644),
        "/usr/bin/rebootless": (b"#!/bin/sh\n", 0o755),
        "/lab/start.py": (START.encode(), 0o644),
        "/lab/rebootless.py": (f"{PROGRAM}sys.exit(main())\n".encode(), 0o755),
        "/lab/cut.rlp": (bundles["rl_one"].read_bytes()[:-100], 0o644),
        "/lab/engine_driver.py": ((HERE / "engine_driver.py").read_bytes(), 0o644),
        **{f"/lab/{n}.rlp": (path.read_bytes(), 0o644) for n, path in bundles.items()},
        "/lab/core.ko": (archive.read(bundles["rl_one"]).core or b"", 0o644),
    }
    config = VmConfig(stock_kernel.image, memory_mib=768, cpus=2)
    log = tmp_path_factory.mktemp("guest") / "console.log"
    with Vm(config, GuestImage(stock_kernel.modules, files=files), log) as vm:
        yield Shell(Guest(vm), python)


@pytest.fixture(autouse=True)
def _no_patch_stays(shell: Shell) -> Iterator[None]:
    yield
    left = shell.guest.run(LEFT).output
    shell.guest.run(CLEAN)
    assert "rl_" not in left


ONE_PATCH = """
applied = ok("apply /lab/rl_one.rlp")
assert (applied["name"], applied["schema"]) == ("rl_one", 1)
assert version().endswith("one\\n")
facts = ok("status --verbose")
assert facts["build_id"] == build_id, facts
(patch,) = facts["patches"]
assert patch["state"] == "applied"
assert [f["name"] for f in patch["functions"]] == ["version_proc_show"]
assert "rl_one" in refused("apply /lab/rl_one.rlp", "state")
assert cli("apply /lab/cut.rlp")["exit"] == 8
ok("doctor --for apply")
undone = ok("undo rl_one")
assert undone["still_redirected"] == [] and "one" not in version()
assert undone["compared"]["clean"] is None and "not installed" in undone["compared"]["why"], undone
assert cli("undo rl_one")["exit"] == 10
ok("install /lab/rl_one.rlp")
assert [p["installed"] for p in ok("list")["patches"]] == [os.uname().release]
assert ok("boot")["patches"] == [{"name": "rl_one", "state": "applied"}]
assert version().endswith("one\\n")
ok("uninstall rl_one")
assert cli("uninstall rl_one")["exit"] == 10
assert ok("undo rl_one --no-verify")["compared"] is None
"""


def test_one_patch_by_the_kernel_s_own_engine(shell: Shell, bundles: dict[str, Path]) -> None:
    kernel = archive.read(bundles["rl_one"]).manifest.kernel
    shell.run(ONE_PATCH, build_id=kernel.build_id)


def test_the_program_itself(shell: Shell) -> None:
    """A process of its own, which says the same in words."""
    program = f"{shell.python} -I -S -B /lab/rebootless.py"
    answer = shell.guest.run(f"{program} status", timeout=120)
    assert answer.status == 0 and "no live patch is applied" in answer.output, answer.output
    answer = shell.guest.run(f"{program} undo rl_nothing", timeout=120)
    assert answer.status == 10, answer.output
    assert "error: no live patch rl_nothing is applied" in answer.output
    assert "hint: `rebootless list`" in answer.output


VERBS_IN_ORDER = """
loaded = Path("/sys/module/rebootless_core").exists
assert not loaded()
applied = ok("apply /lab/rl_one.rlp")
assert applied["engine"] == "livepatch" and applied["why"], applied
assert not loaded()
message = refused("apply /lab/rl_two.rlp --engine atomic", "state")
assert "rl_one already patches version_proc_show (by the engine livepatch)" in message, message
ok("undo rl_one")
for engine in ("atomic", "per-task"):
    applied = ok(f"apply /lab/rl_one.rlp --engine {engine}")
    assert applied["engine"] == engine, applied
    assert applied["transition"]["stats"]["attempts"] >= 1, applied
    assert loaded() and version().endswith("one\\n")
    assert states() == {"rl_one": (engine, "applied")}
    (listed,) = ok("list")["patches"]
    assert (listed["engine"], listed["state"]) == (engine, "applied")
    assert "rl_one" in refused("engine unload", "state")
    message = refused("apply /lab/rl_two.rlp --engine livepatch", "state")
    assert f"(by the engine {engine})" in message, message
    ok("undo rl_one")
    assert "one" not in version() and loaded()
assert ok("engine")["core"]["loaded"]
found = {c["name"]: c for c in ok("doctor")["checks"] if c["area"] == "engines"}
assert found["chosen engine"]["why"].startswith("livepatch"), found
assert "driven by the core module" in found["engine livepatch"]["why"], found
applied = ok("apply /lab/rl_one.rlp")
assert applied["engine"] == "livepatch", applied
ok("undo rl_one")
assert not ok("engine unload")["core"]["loaded"]
assert "not loaded" in refused("engine unload", "state")
ok("install /lab/rl_one.rlp --engine atomic")
assert ok("boot")["patches"] == [{"name": "rl_one", "state": "applied"}]
assert states() == {"rl_one": ("atomic", "applied")}
ok("uninstall rl_one")
ok("undo rl_one")
"""


def test_every_verb_with_every_engine(shell: Shell) -> None:
    shell.run(VERBS_IN_ORDER)


SIDE_BY_SIDE = """
with Sleeper() as pid:
    ok("apply /lab/rl_one.rlp --engine atomic")
    applied = ok("apply /lab/rl_nap.rlp --engine per-task --signal 0 --wait 30")
    assert applied["transition"]["signalled"], applied
    assert Path(f"/proc/{pid}").exists()  # woken, it sleeps on
assert states() == {"rl_nap": ("per-task", "applied"), "rl_one": ("atomic", "applied")}
ok("undo rl_one")
assert states() == {"rl_nap": ("per-task", "applied")}
ok("apply /lab/rl_one.rlp --engine livepatch")
ok("undo rl_nap")
ok("undo rl_one")
"""


def test_patches_of_several_engines_side_by_side(shell: Shell) -> None:
    shell.run(SIDE_BY_SIDE)


STALLED = """
patience(100000)  # with the core loaded, mainline's livepatch wakes nobody by itself either
with Sleeper() as pid:
    apply = f"apply /lab/rl_nap.rlp --engine {engine} {NEVER} --wait 3"
    message = refused(apply, "stalled")
    assert f"{pid} cat in pipe_read" in message, message
    assert "reversed: rl_nap is not applied" in message, message
    assert states() == {}
    message = refused(f"{apply} --on-timeout leave", "stalled")
    assert "goes on trying" in message, message
    (patch,) = ok("status")["patches"]
    assert (patch["engine"], patch["state"], patch["left"]) == (engine, "applying", 1), patch
    (blocker,) = patch["blockers"]
    assert (blocker["pid"], blocker["comm"]) == (pid, "cat"), blocker
    assert blocker["where"] == "pipe_read", blocker
    assert "busy applying rl_nap" in refused(f"apply /lab/rl_one.rlp --engine {engine}", "state")
    ok("undo rl_nap")
    forced = ok(f"{apply} --force")
    assert forced["transition"]["outcome"] == "forced", forced
    assert [b["pid"] for b in forced["transition"]["blockers"]] == [pid], forced
assert states() == {"rl_nap": (engine, "applied")}
ok("undo rl_nap")
patience(45)
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_task_in_the_way(shell: Shell, engine: str) -> None:
    shell.run(STALLED, engine=engine)


GIVES_UP = """
patience(8)
with Sleeper() as pid:
    message = refused(f"apply /lab/rl_nap.rlp --engine atomic {NEVER}", "stalled")
patience(45)
assert f"{pid} cat in pipe_read" in message, message
assert "gave up" in message and "not applied, as before" in message, message
assert not Path("/sys/module/rl_nap").exists()
"""


def test_the_atomic_engine_gives_up_and_says_why(shell: Shell) -> None:
    shell.run(GIVES_UP)


BAD_MOMENTS = """
core = engine != "livepatch"
if Path("/sys/module/rebootless_core").exists():
    ok("engine unload")
with Sleeper() as pid:
    apply = f"apply /lab/rl_nap.rlp --engine {engine} {NEVER} --wait 30"
    assert cli(apply, interrupted=True)["exit"] == 130
    assert states() == {} and not Path("/sys/module/rl_nap").exists()
    if core:
        ok("engine unload")
        assert cli(apply, dies_after=1)["exit"] == -9  # the core is loaded
        assert states() == {} and ok("engine")["core"]["loaded"]
    patience(100000)
    assert cli(apply, dies_after=1)["exit"] == -9  # the patch is loaded
    if not core:
        Path("/sys/kernel/rebootless/livepatch/drive").write_text("1")  # 15 s may pass here
    assert states() == {"rl_nap": (engine, "applying")}
    assert "already applying" in refused(apply, "state")
    assert cli("undo rl_nap", dies_after=1)["exit"] == -9  # it was turned back
    until(False, states)
    assert ok("status")["leftovers"] == ["rl_nap"]
    ok("undo rl_nap")
    assert not Path("/sys/module/rl_nap").exists()
ok(f"apply /lab/rl_nap.rlp --engine {engine}")
with Sleeper() as pid:  # in the patch's own code
    assert cli(f"undo rl_nap {NEVER}", interrupted=True)["exit"] == 130
    assert states() == {"rl_nap": (engine, "applied")}
    assert cli(f"undo rl_nap {NEVER}", dies_after=1)["exit"] == -9
    (patch,) = ok("status")["patches"]
    assert patch["state"] == "undoing", patch
until(False, states)  # the kernel ends it by itself
assert ok("status")["leftovers"] == ["rl_nap"]
ok("undo rl_nap")
assert ok("status")["leftovers"] == []
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_the_tool_ends_at_any_moment(shell: Shell, engine: str) -> None:
    shell.run(BAD_MOMENTS, engine=engine)


BAD_CORES = """
if Path("/sys/module/rebootless_core").exists():
    ok("engine unload")
for name, code, said in (
    ("none", "kernel-refused", "no core module for this kernel here | `rebootless engine build`"),
    ("short", "bad-elf", "the core module: "),
    ("foreign", "wrong-kernel", "the core module was built for 6.2.0-"),
    ("patch", "bad-input", "what should be the core module is the module rl_one"),
    ("newer", "state", f"and {abi + 1} is needed | `rebootless engine unload`"),
):
    message = refused(f"apply /lab/core_{name}.rlp --engine atomic", code)
    assert said in message, message
    assert states() == {} and not Path("/sys/module/rl_one").exists()
message = refused("apply /lab/core_newer.rlp --engine per-task", "kernel-refused")
assert f"has interface {abi}, and the patch was made for {abi + 1}" in message, message
ok("apply /lab/core_none.rlp --engine atomic")  # with the core that is loaded
ok("undo rl_one")
ok("engine unload")
assert ok("apply /lab/core_none.rlp")["engine"] == "livepatch"
ok("undo rl_one")
assert "engine build" in refused("install /lab/core_none.rlp --engine atomic", "bad-input")
store = Path("/var/lib/rebootless") / os.uname().release
store.mkdir(parents=True, exist_ok=True)
kept = store / "rebootless_core.ko"
kept.write_bytes(b"nothing")
refused("engine load", "bad-elf")
kept.write_bytes(Path("/lab/core.ko").read_bytes())
assert ok("engine load")["core"]["loaded"]
assert "loaded already" in refused("engine load", "state")
ok("engine unload")
ok("apply /lab/core_none.rlp --engine atomic")  # with the one that was installed
ok("undo rl_one")
ok("install /lab/core_none.rlp --engine atomic")
assert "uninstall rl_one" in refused("engine remove", "state")
ok("uninstall rl_one")
assert ok("engine")["core"]["installed"] == str(kept)
assert ok("engine remove")["removed"] == str(kept) and not kept.exists()
assert f"no core module is installed for {os.uname().release}" in refused("engine remove", "state")
assert ok("engine")["core"] == {**ok("engine")["core"], "loaded": True, "installed": ""}
"""


def test_core_modules_that_do_not_fit(shell: Shell, bundles: dict[str, Path]) -> None:
    core = archive.read(bundles["rl_one"]).manifest.core
    assert core is not None
    shell.run(BAD_CORES, abi=core.abi)


NOT_ROOT = """
if Path("/sys/module/rebootless_core").exists():
    ok("engine unload")
for engine in ("livepatch", "atomic"):
    message = refused(f"apply /lab/rl_one.rlp --engine {engine}", "kernel-refused", user=1)
    assert "no permission to load modules [EPERM] | run as root" in message, message
ok("apply /lab/rl_one.rlp --engine atomic")
for words in ("status", "list", "doctor", "engine"):
    assert cli(words, user=1)["exit"] == 0, words
message = refused("undo rl_one", "kernel-refused", user=1)
assert "Permission denied | run as" in message, message
ok("undo rl_one")
message = refused("engine unload", "kernel-refused", user=1)
assert "no permission" in message and "| run as root" in message, message
"""


def test_users_that_are_not_root(shell: Shell) -> None:
    shell.run(NOT_ROOT)


FTRACE_OFF = """
switch = Path("/proc/sys/kernel/ftrace_enabled")
switch.write_text("0")
try:
    for engine in ("auto", "livepatch", "atomic", "per-task"):
        message = refused(f"apply /lab/rl_one.rlp --engine {engine}", "kernel-refused")
        assert "kernel.ftrace_enabled=0" in message, message
        assert "sysctl kernel.ftrace_enabled=1" in message, message
    examined = cli("doctor")
    assert examined["exit"] == 1 and not examined["can"]["engines"]["ok"], examined["can"]
finally:
    switch.write_text("1")
for engine in ("livepatch", "atomic", "per-task"):
    ok(f"apply /lab/rl_one.rlp --engine {engine}")
    try:
        switch.write_text("0")
    except OSError:
        pass  # refused while a patch is in force
    assert version().endswith("one\\n"), engine
    switch.write_text("1")
    ok("undo rl_one")
"""


def test_ftrace_that_is_switched_off(shell: Shell) -> None:
    shell.run(FTRACE_OFF)


def test_the_test_in_qemu_uses_the_engine_that_is_asked_for(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    check = tmp_path / "check"
    check.write_text("grep -q one /proc/version\n")
    report = pipeline.test(
        bundles["rl_one"], check=check, engine="atomic", workload=False, verify=False
    )
    assert report.verdict == "passed", report.reason
    (step,) = [s for s in report.steps if s.name == "apply rl_one"]
    assert step.detail.startswith("engine atomic")
