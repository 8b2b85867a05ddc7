"""The plan of a real update, for a real kernel: what matters, what belongs together."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rebootless.base.events import NullMonitor
from rebootless.compile.tree import Tree, prepare
from rebootless.provider.changelog import changelog_of
from rebootless.provider.debian import DebianProvider
from rebootless.provider.updates import SourceUpdate
from rebootless.translate import changelog, planning
from rebootless.translate.model import Cause, Outcome, TranslationPlan, Update

# Two that have to do with each other, one that is not compiled, a comment, and another.
IDS = "struct net *get_net_ns_by_id(const struct net *net, {} id)"
EDITS = {
    "include/net/net_namespace.h": (IDS.format("int"), IDS.format("long")),
    "net/core/net_namespace.c": (IDS.format("int"), IDS.format("long")),
    "drivers/bluetooth/btusb.c": ("return 0;", "return 1;"),
    "fs/proc/version.c": ("seq_printf(m,", "seq_printf(m, /* as ever */"),
    "drivers/net/dummy.c": ("return 0;", "return -EPERM;"),
}  # fmt: skip


@pytest.fixture(scope="module")
def plan(stock_tree: Tree, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
         ) -> TranslationPlan:  # fmt: skip
    present = {p: e for p, e in EDITS.items() if (stock_tree.orig / p).is_file()}
    write = request.getfixturevalue("edit_patch")
    patch: Path = write(stock_tree.orig, present, tmp_path_factory.mktemp("plan") / "p.patch")
    update = Update(stock_tree.release, "b", "1", "2")
    return planning.plan(stock_tree, update, patch.read_text(), (), NullMonitor())


def test_what_this_kernel_does_not_compile_is_dropped(plan: TranslationPlan) -> None:
    causes = {d.path: d.cause for d in plan.dropped}
    assert causes["drivers/bluetooth/btusb.c"] is Cause.CONFIG_OFF
    assert causes["fs/proc/version.c"] is Cause.COMMENT_ONLY
    assert all(d.outcome is Outcome.NO_EFFECT for d in plan.dropped)
    (off,) = (d for d in plan.dropped if d.path == "drivers/bluetooth/btusb.c")
    assert "CONFIG_BT" in off.message


def test_a_prototype_and_its_function_are_one_part(plan: TranslationPlan, stock_tree: Tree) -> None:
    (one,) = (c for c in plan.candidates if "net/core/net_namespace.c" in c.paths)
    assert one.paths == ("include/net/net_namespace.h", "net/core/net_namespace.c")
    assert any("get_net_ns_by_id" in reason for reason in one.reasons)
    # Who calls it is compiled with it, though its own text stays.
    assert "net/core/rtnetlink.c" in one.readers
    assert set(one.readers) < set(one.units)
    assert not any(unit.startswith("drivers/gpu") for unit in one.units)


def test_every_part_applies_alone(plan: TranslationPlan, stock_tree: Tree, tmp_path: Path) -> None:
    for candidate in plan.candidates:
        for path in candidate.paths:
            copy = tmp_path / candidate.key / path
            copy.parent.mkdir(parents=True)
            copy.write_bytes((stock_tree.orig / path).read_bytes())
        argv = ["patch", "-p1", "--fuzz=0", "-s"]
        folder = tmp_path / candidate.key
        subprocess.run(argv, cwd=folder, input=candidate.patch, check=True)


@pytest.mark.archive
def test_a_small_real_update(debian: DebianProvider, small_update: SourceUpdate) -> None:
    """Each file of it is in a part or left out, and the changelog is tied to it."""
    tree = prepare(debian.fetch(small_update.release, NullMonitor()), NullMonitor())
    old, new = small_update.old_version, small_update.new_version
    entries = changelog.entries(changelog_of(debian, new, NullMonitor()), old, new)
    assert entries
    update = Update(small_update.release, "b", old, new)
    diff = small_update.diff.decode(errors="surrogateescape")
    plan = planning.plan(tree, update, diff, entries, NullMonitor())
    used = {p for c in plan.candidates for p in c.paths} | {d.path for d in plan.dropped}
    assert used == set(small_update.files)
    assert plan.files == len(small_update.files)
    if len(plan.candidates) == len(entries) == 1 and not plan.dropped:
        assert plan.candidates[0].title == entries[0].title
