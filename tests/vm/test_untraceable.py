"""Functions that ftrace does not know, in a kernel that has it: left to the engine atomic."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.base.errors import KernelRefusedError
from rebootless.bundle import archive
from rebootless.compile.tree import Tree
from rebootless.engine import text
from rebootless.engine.status import PatchedFunction

pytestmark = pytest.mark.vm

NAME = "rl_untraceable"
TRACING = "/sys/kernel/tracing"
HIDDEN = f"/sys/kernel/debug:\n\n{TRACING}:\n"
README = f"cat {TRACING}/README"
# The first is in a unit without any call of ftrace, the other is `notrace` in one that has them.
FUNCTIONS = tuple(
    PatchedFunction("vmlinux", name) for name in ("tracing_readme_read", "ktime_get_mono_fast_ns")
)
EDITS = {
    "kernel/trace/trace.c": ("readme_msg, strlen(readme_msg));", "readme_msg, 7);"),
    "kernel/time/timekeeping.c": (
        "\treturn __ktime_get_fast_ns(&tk_fast_mono);",
        "\treturn __ktime_get_fast_ns(&tk_fast_mono) + 1000000ULL * NSEC_PER_SEC;",
    ),
}


@pytest.fixture(scope="module")
def bundle(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: Callable[[Path, Mapping[str, tuple[str, str]], Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("untraceable")
    patch = edit_patch(stock_tree.orig, EDITS, folder / "fix.patch")
    return pipeline.build(
        [patch], kernel=stock_release, name=NAME, output=folder / "fix.rlp", workdir=folder / "work"
    ).bundle_path


@pytest.fixture(scope="module")
def lab(boot) -> Iterator[object]:
    with boot(cpus=2) as lab:
        yield lab
        assert "WARNING" not in lab.vm.console()
        assert "BUG" not in lab.vm.console()


def entries(lab) -> dict[PatchedFunction, bytes]:
    return dict(text.entries(lab.machine, text.locate(lab.machine, FUNCTIONS)))


def clock(lab) -> float:
    """The time of an event by the clock that is patched, in seconds."""
    lab.guest.check(f"cd {TRACING}; echo mono >trace_clock; echo x >trace_marker")
    line = lab.guest.check(f"tail -n 1 {TRACING}/trace")
    return float(line.split(": ")[0].split()[-1])


def test_the_manifest_says_so(bundle: Path) -> None:
    manifest = archive.read(bundle).manifest
    found = {(w.code, w.symbol) for w in manifest.warnings}
    assert {("not-traceable", f.name) for f in FUNCTIONS} <= found
    assert not {code for code, _ in found} & {"no-fentry", "no-fentry-information"}
    assert {f.name for _, f in manifest.untraceable} == {f.name for f in FUNCTIONS}


@pytest.mark.parametrize("listed", [True, False])
def test_other_engines_refuse_it_by_name(lab, bundle: Path, listed: bool) -> None:
    """Also where the kernel's list of functions cannot be read: the bundle knows."""
    if not listed:
        lab.guest.run(f"umount {TRACING}; umount /sys/kernel/debug/tracing /sys/kernel/debug")
        assert lab.guest.run(f"ls {TRACING} /sys/kernel/debug").output == HIDDEN
    for engine in ("livepatch", "per-task"):
        with pytest.raises(KernelRefusedError, match=r"ftrace cannot redirect .*mono_fast") as told:
            pipeline.apply(bundle, machine=lab.machine, engine=engine)
        assert "--engine atomic" in (told.value.hint or "")
    if not listed:
        lab.guest.check(f"mount -t tracefs nodev {TRACING}")
    assert not lab.machine.exists(f"/sys/module/{NAME}")


def test_bytes_that_were_not_shipped_are_not_overwritten(lab, bundle: Path) -> None:
    lab.guest.check("insmod /lab/patches/rl_poke.ko name=tracing_readme_read offset=0")
    with pytest.raises(KernelRefusedError, match="tracing_readme_read does not begin as") as told:
        pipeline.apply(bundle, machine=lab.machine)
    assert "rebootless verify" in (told.value.hint or "")
    lab.guest.check("rmmod rl_poke")


def test_the_engine_atomic_is_chosen_and_puts_all_back(lab, bundle: Path) -> None:
    before, readme = entries(lab), lab.guest.check(README)
    assert len(before) == 2 and len(readme) > 100
    applied = pipeline.apply(bundle, machine=lab.machine)
    assert applied.engine == "atomic" and "ftrace cannot redirect" in applied.why
    assert lab.guest.check(README) == readme[:7]
    assert clock(lab) > 1_000_000
    assert all(code != before[f] for f, code in entries(lab).items())
    undone = pipeline.undo(NAME, machine=lab.machine, verify=False)
    assert not undone.remains and not undone.still_redirected
    assert entries(lab) == before
    assert lab.guest.check(README) == readme
    assert clock(lab) < 1_000_000
