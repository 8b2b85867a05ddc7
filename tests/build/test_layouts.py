"""Changed types of a real kernel are refused, and an ordinary fix is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.base.errors import RefusedError
from rebootless.compile.tree import Tree
from rebootless.pipeline.artifact import BuildResult
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.pipeline.layouts import shipped_types
from rebootless.provider.base import KernelFiles
from rebootless.provider.updates import SourceUpdate
from rebootless.types.btf import parse

UNIT = "fs/binfmt_misc.c"
MEMBER = "\tunsigned long flags;\t\t/* type, status, etc. */\n"
LAST = "\trefcount_t users;\t\t/* sync removal with load_misc_binary() */\n"
PLACE = "\t/* Need to be able to load the file after exec */\n"
Build = Callable[[str, str], BuildResult]


@pytest.fixture
def build(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: Callable[..., Path],
    tmp_path: Path,
) -> Build:
    """Builds a change of binfmt_misc's `Node`, with a function that uses the new member."""

    def run(old: str, new: str) -> BuildResult:
        patch = edit_patch(stock_tree.orig, {UNIT: (old, new)}, tmp_path / "1.patch")
        use = edit_patch(
            stock_tree.orig, {UNIT: (PLACE, "\tfmt->hits++;\n" + PLACE)}, tmp_path / "2.patch"
        )
        return pipeline.build(
            [patch, use], kernel=stock_release, output=tmp_path / "x.rlp", workdir=tmp_path / "w"
        )

    return run


def test_a_larger_type_is_refused_with_both_layouts(
    build: Build, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError) as error:
        build(MEMBER, MEMBER + "\tunsigned long hits;\n")
    (finding,) = error.value.refusals
    assert (finding.code, finding.symbol) == ("layout-changed", "Node")
    lines = [" ".join(line.split()) for line in error.value.message.splitlines()]
    assert "original, 88 bytes patched, 96 bytes" in lines
    assert "+ 24 8 long unsigned int hits" in lines
    assert "> 24 4 int offset 32 4 int offset" in lines
    assert error.value.hint and "Rebootless-Accept: layout-changed Node" in error.value.hint
    for side, differs in (("1-orig", []), ("2-patched", ["typedef Node"])):
        types = parse((tmp_path / f"w/{side}/fs/binfmt_misc.btf").read_bytes(), name=side)
        shipped = shipped_types(ShippedKernel(stock_kernel))("binfmt_misc")
        assert shipped is not None
        assert [c.title for c in shipped.differing(types)] == differs


def test_a_member_in_free_bytes_is_built_with_a_warning(build: Build) -> None:
    result = build(LAST, LAST + "\tint hits;\n")
    (warning,) = [w for w in result.warnings if w.code == "layout-hole-used"]
    assert warning.symbol == "Node" and "gains 'int hits'" in warning.message


def test_an_ordinary_fix_has_no_finding(small_update: SourceUpdate, tmp_path: Path) -> None:
    patch = tmp_path / "update.patch"
    patch.write_bytes(small_update.diff)
    result = pipeline.build(
        [patch], kernel=small_update.release, output=tmp_path / "x.rlp", workdir=tmp_path / "w"
    )
    found = {w.code.partition("-")[0] for w in result.warnings}
    assert not found & {"layout", "enum", "constant", "prototype", "crc"}
    for side in ("1-orig", "2-patched"):
        assert list((tmp_path / "w" / side).rglob("*.btf")), "the types were compared"
