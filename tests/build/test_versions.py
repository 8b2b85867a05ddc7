"""Versions of exported symbols, of a unit of the stock kernel that exports some."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

import pytest

from rebootless import pipeline
from rebootless.base.errors import MismatchError, RefusedError
from rebootless.base.events import NullMonitor
from rebootless.base.workdir import Workdir
from rebootless.compile import versions
from rebootless.compile.kbuild import Kbuild
from rebootless.compile.tree import Tree
from rebootless.compile.unit import pair_of
from rebootless.kernel.symvers import Exports, parse
from rebootless.patch.source import load
from rebootless.pipeline.fitting import fitted
from rebootless.pipeline.job import Job, Unit
from rebootless.pipeline.versions import require_shipped

UNIT = "fs/mbcache.c"
HEADER = "include/linux/mbcache.h"
KEY = "\tu32\t\t\te_key;\n"
TOUCH = "\tset_bit(MBE_REFERENCED_B, &entry->e_flags);\n}\nEXPORT_SYMBOL(mb_cache_entry_touch);\n"
EditPatch = Callable[[Path, Mapping[str, tuple[str, str]], Path], Path]


@pytest.fixture
def exports(stock_tree: Tree) -> Exports:
    return parse((stock_tree.orig / "Module.symvers").read_text())


def patches(tree: Tree, edit_patch: EditPatch, folder: Path, new: str = "") -> list[Path]:
    """A change of a function, and with `new` one of a struct that exports lead to."""
    line = TOUCH.partition("\n")[0] + "\n"
    more = "\tif (!entry)\n\t\treturn;\n"
    edits = {UNIT: (TOUCH, TOUCH.replace(line, more + line))}
    if new:
        edits[HEADER] = (KEY, KEY + new)
    return [edit_patch(tree.orig, edits, folder / "1.patch")]


def test_a_changed_version_is_refused(
    stock_tree: Tree, stock_release: str, exports: Exports, edit_patch: EditPatch, tmp_path: Path
) -> None:
    with pytest.raises(RefusedError) as error:
        pipeline.build(
            patches(stock_tree, edit_patch, tmp_path, "\tu64\t\t\te_hits;\n"),
            kernel=stock_release,
            output=tmp_path / "x.rlp",
            workdir=tmp_path / "w",
        )
    findings = cast(Any, error.value.refusals)
    symbols = {f.symbol for f in findings if f.code == "crc-changed"}
    assert {"mb_cache_entry_touch", "mb_cache_entry_get"} <= symbols <= exports.keys()
    assert "mb_cache_create" not in symbols  # it leads to a type that the header only declares
    (touch,) = [f for f in findings if f.symbol == "mb_cache_entry_touch"]
    assert f"(CRC {exports['mb_cache_entry_touch'].crc:#010x} becomes 0x" in touch.message
    assert ("layout-changed", "mb_cache_entry") in {(f.code, f.symbol) for f in findings}
    assert len(findings) == len(symbols) + 1


def test_a_changed_version_of_the_same_layout_is_told(
    stock_tree: Tree, stock_release: str, edit_patch: EditPatch, tmp_path: Path
) -> None:
    """Another name for a member is another CRC, and nobody's harm; a new one finds free bytes."""
    line = TOUCH.partition("\n")[0] + "\n"
    new = "\tint\t\t\tc_new;\n\tstruct hlist_bl_head\t*c_hash;\n"
    edits = {
        HEADER: ("\te_flags;\n", "\te_marks;\n#define e_flags e_marks\n"),
        UNIT: (TOUCH, TOUCH.replace(line, f"\tif (!entry)\n\t\treturn;\n{line}")),
    }
    known = edit_patch(stock_tree.orig, edits, tmp_path / "1.patch")
    added = edit_patch(stock_tree.orig, {UNIT: (new.partition("\n")[2], new)}, tmp_path / "2.patch")
    options = {"kernel": stock_release, "output": tmp_path / "x.rlp", "workdir": tmp_path / "w"}
    with pytest.raises(RefusedError) as error:
        pipeline.build([known, added], **cast(Any, options))
    findings = {f.code: f for f in cast(Any, error.value.refusals)}
    assert findings["layout-changed"].symbol == "mb_cache"

    units = [pair_of(Kbuild(stock_tree.orig).membership(UNIT), Workdir(tmp_path / "w"))]
    better = fitted(load([known, added]), stock_tree, units, NullMonitor())
    assert better is not None and b"+\tint\t\t\tc_bucket_bits; int\t\t\tc_new;\n" in better.text
    (tmp_path / "3.patch").write_bytes(better.text)
    result = pipeline.build([tmp_path / "3.patch"], **cast(Any, options))
    codes = {w.code for w in result.warnings}
    assert {"crc-changed", "layout-renamed", "layout-hole-used"} <= codes


def test_an_exported_prototype_is_for_every_module(
    stock_tree: Tree, stock_release: str, edit_patch: EditPatch, tmp_path: Path
) -> None:
    """Every caller that the source has is changed along with it."""
    name = "mb_cache_entry_touch"
    head = f"void {name}(struct mb_cache *cache,\n\t\t\t  struct mb_cache_entry *entry"
    call = f"#define {name}(c, e) ({name})(c, e, 7)\n"
    edits = {
        HEADER: (f"{head});\n", f"{head}, int n);\n{call}"),
        UNIT: (f"{head})\n{{\n", f"#undef {name}\n{head}, int n)\n{{\n\tif (n > 9)\n\t\treturn;\n"),
    }
    with pytest.raises(RefusedError) as error:
        pipeline.build(
            [edit_patch(stock_tree.orig, edits, tmp_path / "1.patch")],
            kernel=stock_release,
            output=tmp_path / "x.rlp",
            workdir=tmp_path / "w",
        )
    findings = {f.code: f for f in cast(Any, error.value.refusals)}
    assert {f.symbol for f in findings.values()} == {name}
    assert set(findings) == {"crc-changed", "prototype-changed"}
    message = findings["prototype-changed"].message
    assert "'any module' would call the new code in the old way" in message
    assert f"+ void {name}(struct mb_cache *, struct mb_cache_entry *, int)" in message


def test_versions_stay_when_no_type_changes(
    stock_tree: Tree, exports: Exports, edit_patch: EditPatch, tmp_path: Path
) -> None:
    """What lets a build leave genksyms alone in the usual case."""
    assert len(versions.recorded(stock_tree, UNIT)) == 10, "the test before compiles the unit"
    patch = load(patches(stock_tree, edit_patch, tmp_path))
    (found,) = versions.compute(stock_tree, patch, [UNIT], NullMonitor())
    assert dict(found.patched) == dict(found.original)
    assert {name: exports[name].crc for name in found.original} == dict(found.original)
    with stock_tree.locked():  # others may build in it
        assert not list((stock_tree.patched / "fs").glob("*mbcache*.o"))


def test_headers_that_are_not_the_kernels(stock_tree: Tree, exports: Exports) -> None:
    def job(exported: Exports) -> Job:
        return cast(Job, SimpleNamespace(tree=stock_tree, kernel=SimpleNamespace(exports=exported)))

    units = [cast(Unit, SimpleNamespace(pair=SimpleNamespace(source=UNIT)))]
    require_shipped(job(exports), units)
    name = "mb_cache_create"
    text = f"0x12345678\t{name}\tvmlinux\tEXPORT_SYMBOL\n"
    altered = MappingProxyType({**exports.by_name, **parse(text).by_name})
    with pytest.raises(MismatchError, match=f"'{name}' of {UNIT}.*Module.symvers has 0x12345678"):
        require_shipped(job(Exports(altered)), units)
