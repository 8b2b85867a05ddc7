"""Diffs taken apart into single changes and put together again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rebootless.base.errors import PatchInputError
from rebootless.translate import blocks

OLD = "".join(f"line {number}\n" for number in range(1, 41))


def diff_of(tmp_path: Path, old: str, new: str) -> str:
    """What GNU diff says, as the source difference is made."""
    (tmp_path / "old").write_text(old)
    (tmp_path / "new").write_text(new)
    argv = ["diff", "-u", "--label", "a/x/f.c", "--label", "b/x/f.c", "old", "new"]
    return subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False).stdout


def patched(tmp_path: Path, old: str, diff: str) -> str:
    """What GNU patch makes of it."""
    file = tmp_path / "x/f.c"
    file.parent.mkdir(exist_ok=True)
    file.write_text(old)
    argv = ["patch", "-p1", "--fuzz=0", "-s"]
    subprocess.run(argv, cwd=tmp_path, input=diff, text=True, check=True)
    return file.read_text()


def changed() -> str:
    new = OLD.replace("line 5\n", "line five\n").replace("line 7\n", "line 7\nmore\n")
    return new.replace("line 30\n", "").replace("line 40\n", "the end")


@pytest.mark.skipif(not shutil.which("patch"), reason="needs GNU patch")
def test_each_block_applies_alone_and_all_together_are_the_diff(tmp_path: Path) -> None:
    diff = diff_of(tmp_path, OLD, changed())
    (change,) = blocks.read_diff(diff, {"x/f.c": OLD})
    assert (change.path, change.kind, change.change) == ("x/f.c", "unit", "modified")
    assert [b.start for b in change.blocks] == [5, 8, 30, 40]
    assert change.new_hash == blocks.digest(changed())
    for block in change.blocks:
        alone = blocks.write_diff({"x/f.c": [block]}, {"x/f.c": OLD}, {})
        assert patched(tmp_path, OLD, alone) == blocks.applied(OLD, [block])
    alone = [blocks.write_diff({"x/f.c": [b]}, {"x/f.c": OLD}, {}) for b in change.blocks]
    whole = blocks.joined([*alone, alone[0]], {"x/f.c": OLD})
    assert patched(tmp_path, OLD, whole) == changed()


def test_the_same_blocks_give_the_same_text_in_any_order(tmp_path: Path) -> None:
    found = blocks.blocks_of(diff_of(tmp_path, OLD, changed()))["x/f.c"]
    one, other = (
        blocks.write_diff({"x/f.c": order}, {"x/f.c": OLD}, {}) for order in (found, found[::-1])
    )
    assert one == other


def test_a_block_of_another_source_is_told(tmp_path: Path) -> None:
    (change,) = blocks.read_diff(diff_of(tmp_path, OLD, changed()), {})
    with pytest.raises(PatchInputError, match="line 5"):
        blocks.applied(OLD.replace("line 5", "line V"), change.blocks)


def test_added_and_removed_files(tmp_path: Path) -> None:
    diff = "--- /dev/null\n+++ b/x/n.c\n@@ -0,0 +1,2 @@\n+int a;\n+int b;\n"
    diff += "--- a/x/o.h\n+++ /dev/null\n@@ -1 +0,0 @@\n-int c;\n"
    added, removed = blocks.read_diff(diff, {"x/o.h": "int c;\n"})
    assert (added.change, removed.change) == ("added", "deleted")
    kinds = {"x/n.c": "added", "x/o.h": "deleted"}
    parts = {change.path: change.blocks for change in (added, removed)}
    assert blocks.write_diff(parts, {"x/o.h": "int c;\n"}, kinds) == diff


def test_a_cut_diff_is_told() -> None:
    with pytest.raises(PatchInputError, match="within a hunk"):
        blocks.read_diff("--- a/x.c\n+++ b/x.c\n@@ -1,3 +1,3 @@\n a\n", {})
