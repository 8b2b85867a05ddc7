"""The pipeline on a real, prepared tree: reproducible bundles, facts of single stages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.bundle import archive
from rebootless.compile.tree import Tree
from rebootless.elf.reader import parse

Edits = dict[str, tuple[str, str]]
END = "\t\tutsname()->version);\n"
EDITS: Edits = {"fs/proc/version.c": (END, f'{END}\tseq_puts(m, "again\\n");\n')}


@pytest.fixture
def patch(
    stock_tree: Tree, edit_patch: Callable[[Path, Edits, Path], Path], tmp_path: Path
) -> Path:
    return edit_patch(stock_tree.orig, EDITS, tmp_path / "version.patch")


def build(patch: Path, release: str, folder: Path) -> Path:
    result = pipeline.build(
        [patch],
        kernel=release,
        name="rl_repro",
        cves=["CVE-2000-0001"],
        output=folder / "out.rlp",
        workdir=folder / "work",
    )
    return result.bundle_path


def test_same_input_gives_the_same_bytes(patch: Path, stock_release: str, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "another-folder"]
    digests = set()
    for folder in folders:
        folder.mkdir()
        bundle = build(patch, stock_release, folder)
        digests.add(hashlib.sha256(bundle.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_bundle_says_what_it_is(patch: Path, stock_release: str, tmp_path: Path) -> None:
    bundle = build(patch, stock_release, tmp_path)
    facts = pipeline.inspect(bundle)
    manifest = facts["manifest"]
    assert manifest["kernel"]["release"] == stock_release
    assert manifest["cves"] == ["CVE-2000-0001"]
    assert [f["name"] for f in manifest["objects"][0]["functions"]] == ["version_proc_show"]
    assert facts["modules"][0]["livepatch"] is True
    content = archive.read(bundle)
    assert content.source_patch == patch.read_bytes()
    functions = content.match["units"][0]["functions"]
    assert {f["status"] for f in functions} <= {"matched", "absent"}
    assert any(f["name"] == "version_proc_show" and f["address"] for f in functions)
    module = tmp_path / "one.ko"
    module.write_bytes(content.modules["rl_repro"])
    assert pipeline.inspect(module)["kind"] == "module"
    names = parse(module.read_bytes(), name="one.ko").symbols.names
    assert not [n for n in names if n.startswith("__rebootless")]
    check_explanation(bundle, tmp_path / "page.html")


def check_explanation(bundle: Path, page: Path) -> None:
    """The bundle alone tells why the function differs, and points at the line of the patch."""
    facts = pipeline.explain(bundle, html=page)
    (unit,) = facts["units"]
    (function,) = unit["functions"]
    assert unit["source"] == "fs/proc/version.c" and unit["has_lines"]
    (cause,) = function["causes"]
    assert (cause["file"], cause["mark"]) == ("fs/proc/version.c", "+")
    assert cause["text"] == 'seq_puts(m, "again\\n");'
    assert [frame[0] for frame in cause["chain"]] == ["version_proc_show"]
    assert not any(path.startswith(("/", ".")) for c in function["chains"] for _, path, _ in c)
    found = {r["name"]: r["how"] for r in function["references"]}
    assert found["seq_printf"] == "exported" and found['"again\\n"'] == "patch"
    assert [c["name"] for c in function["callers"]] == ["proc_version_init"]
    text = page.read_text()
    assert f'href="#{cause["anchor"]}"' in text and f'id="{cause["anchor"]}"' in text


def test_match_of_a_single_object(
    stock_tree: Tree, patch: Path, stock_release: str, tmp_path: Path
) -> None:
    build(patch, stock_release, tmp_path)
    (orig,) = (tmp_path / "work/1-orig").rglob("version.o")
    (patched,) = (tmp_path / "work/2-patched").rglob("version.o")
    same = pipeline.match_object(orig, kernel=stock_release)
    assert {f["status"] for f in same["functions"]} == {"matched"}
    other = pipeline.match_object(patched, kernel=stock_release)
    (changed,) = [f for f in other["functions"] if f["status"] == "mismatched"]
    assert changed["name"] == "version_proc_show"
    assert changed["first_difference"] is not None and changed["expected"] != changed["found"]
    delta = pipeline.diff_objects(orig, patched).to_json()
    assert [f["name"] for f in delta["changed"]] == ["version_proc_show"]
