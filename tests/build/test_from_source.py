"""`build --from-source`: extracted C replaces what the object way replaces, and keeps the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from command_line import Command

from rebootless import pipeline
from rebootless.bundle import archive
from rebootless.compile.tree import Tree
from rebootless.pipeline.artifact import BuildResult
from rebootless.provider.updates import SourceUpdate

Edits = Mapping[str, tuple[str, str]]
WritePatch = Callable[[Path, Edits, Path], Path]
VERSION = "\t\tutsname()->version);\n"
EDITS: Edits = {
    "fs/proc/version.c": (VERSION, f'{VERSION}\tseq_puts(m, "extracted\\n");\n'),
    # a static local, a static function of which the address is taken, a global variable
    "fs/drop_caches.c": ("\t\tif (!stfu) {\n", "\t\tstfu &= 4;\n\t\tif (!stfu) {\n"),
    # a helper that is put into its caller, which has a static local; a static lock and hash table
    "fs/inode.c": (
        "\thlist_for_each_entry_rcu(inode, b, i_hash) {\n\t\tif (inode->i_ino == ino",
        "\thlist_for_each_entry_rcu(inode, b, i_hash) {\n\t\tif (ino && inode->i_ino == ino",
    ),
    # a system call: functions made by a macro, of which two are replaced
    "kernel/sys.c": (
        "\tup_read(&uts_sem);\n\tif (copy_to_user(name, &tmp",
        "\ttmp.sysname[64] = 0;\n\tup_read(&uts_sem);\n\tif (copy_to_user(name, &tmp",
    ),
}


@pytest.fixture
def both(tmp_path: Path) -> Callable[..., tuple[BuildResult, BuildResult]]:
    """Builds a patch both ways, in one work folder."""

    def run(patch: Path, release: str) -> tuple[BuildResult, BuildResult]:
        options = {"kernel": release, "name": "rl_both", "workdir": tmp_path / "work"}
        return (
            pipeline.build([patch], output=tmp_path / "object.rlp", **options),
            pipeline.build([patch], output=tmp_path / "source.rlp", from_source=True, **options),
        )

    return run


def replaced(result: BuildResult) -> list[tuple[str, str, int]]:
    functions = [(o.name, f.name, f.sympos) for o in result.manifest.objects for f in o.functions]
    return sorted(functions)


def symbols(result: BuildResult) -> set[str]:
    return set(pipeline.inspect(result.bundle_path)["modules"][0]["livepatch_symbols"])


def test_both_ways_replace_the_same_functions(
    both: Callable[..., tuple[BuildResult, BuildResult]],
    edit_patch: WritePatch,
    stock_tree: Tree,
    stock_release: str,
    tmp_path: Path,
) -> None:
    patch = edit_patch(stock_tree.orig, EDITS, tmp_path / "fix.patch")
    by_objects, by_source = both(patch, stock_release)
    functions = {name for _, name, _ in replaced(by_objects)}
    assert {"version_proc_show", "drop_caches_sysctl_handler", "iunique"} <= functions
    assert any(name.startswith("__x64_sys_") for name in functions)
    assert replaced(by_source) == replaced(by_objects)
    assert symbols(by_source) == symbols(by_objects), "also the state: static variables, locks"
    assert any(".stfu." in s for s in symbols(by_source))
    drop = "drop_caches_sysctl_handler"
    assert by_objects.begins[drop].startswith("drop_caches.c:")
    assert by_source.begins[drop].startswith("rl_both-drop_caches.c:"), "the file that is read"
    members = archive.read(by_source.bundle_path).members
    for unit in EDITS:
        name = f"rl_both-{Path(unit).stem}.c"
        text = (tmp_path / name).read_text()
        assert members[f"source/{name}"].decode() == text
        assert f'REBOOTLESS_UNIT("{unit}");' in text and len(text.splitlines()) < 8000
    assert "source.patch" in members
    drop = (tmp_path / "rl_both-drop_caches.c").read_text()
    assert 'extern int stfu __asm__("rebootless_drop_caches_sysctl_handler_stfu");' in drop
    assert "REBOOTLESS_SYMBOL(vmlinux, drop_pagecache_sb, 0);" in drop
    assert "extern void drop_pagecache_sb(struct super_block *sb, void *unused);" in drop


def test_real_fix(
    both: Callable[..., tuple[BuildResult, BuildResult]],
    small_update: SourceUpdate,
    tmp_path: Path,
) -> None:
    (tmp_path / "update.patch").write_bytes(small_update.diff)
    by_objects, by_source = both(tmp_path / "update.patch", small_update.release)
    assert replaced(by_source) == replaced(by_objects) != []


def test_edited_file_is_built_and_never_overwritten(
    command: Command, edit_patch: WritePatch, stock_tree: Tree, stock_release: str, tmp_path: Path
) -> None:
    edits = {"fs/proc/version.c": EDITS["fs/proc/version.c"]}
    patch = edit_patch(stock_tree.orig, edits, tmp_path / "fix.patch")
    words = ("--kernel", stock_release, "--name", "rl_edit", "--workdir", tmp_path / "work")
    output = tmp_path / "rl_edit.rlp"
    done = command("build", patch, "--from-source", *words, "--output", output)
    assert done.code == 0, done.err
    source = tmp_path / "rl_edit.c"
    source.write_text(source.read_text().replace('"extracted', '"edited'))
    again = command("build", patch, "--from-source", *words, "--output", output)
    again.refused(4, "rl_edit.c exists")
    done = command("build", source, *words, "--output", output)
    assert done.code == 0, done.err
    bundle = archive.read(output)
    assert b'"edited' in bundle.members["source/rl_edit.c"]
    assert "source.patch" not in bundle.members
    assert [f.name for f in bundle.manifest.objects[0].functions] == ["version_proc_show"]


def test_what_cannot_be_extracted_is_named(
    command: Command, edit_patch: WritePatch, stock_tree: Tree, stock_release: str, tmp_path: Path
) -> None:
    """A clone is called in a way that the compiler chose."""
    edit = (
        "\tif (!audit_rate_limit) return 1;\n",
        "\tif (!audit_rate_limit || audit_rate_limit == 77) return 1;\n",
    )
    patch = edit_patch(stock_tree.orig, {"kernel/audit.c": edit}, tmp_path / "fix.patch")
    words = ("--kernel", stock_release, "--workdir", tmp_path / "work")
    output = tmp_path / "audit.rlp"
    ended = command("build", patch, "--from-source", *words, "--output", output)
    ended.refused(2, "[not-extractable]", "audit_log_feature_change.part.")
    (tmp_path / "x.c").write_text("int x;\n")
    command("build", tmp_path / "x.c", "--from-source", *words).refused(4)
