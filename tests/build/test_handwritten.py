"""`rebootless build FILE.c`: a hand-written live patch, good and bad, on the stock kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Command

from rebootless import pipeline
from rebootless.bundle import archive
from rebootless.compile import twin
from rebootless.compile.tree import Tree
from rebootless.elf.reader import parse
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.provider.base import KernelFiles

UNIT = "fs/proc/version.c"
HEAD = """#include <linux/seq_file.h>
#include <linux/utsname.h>
#include <rebootless.h>

"""
SHOW = """static int new_show(struct seq_file *m, void *v)
{{
	{code}
	return 0;
}}
REBOOTLESS_PATCH({owner}, {old}, new_show);
"""
NAMED = f'REBOOTLESS_UNIT("{UNIT}");\n'


def show(code: str = "", *, old: str = "version_proc_show", owner: str = "vmlinux") -> str:
    return SHOW.format(code=code, old=old, owner=owner)


def test_private_symbols_of_any_unit(
    stock_release: str, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    """Without REBOOTLESS_UNIT the name tells the unit; symbols are reached as declared."""
    twins = ShippedKernel(stock_kernel).symbols.positions("c_start")
    assert len(twins) > 1, "the test needs a name that occurs several times"
    source = tmp_path / "two-things.c"
    source.write_text(
        HEAD + "extern int cmdline_proc_show(struct seq_file *m, void *v);\n"
        "REBOOTLESS_SYMBOL(vmlinux, cmdline_proc_show, 0);\n"
        "extern void *c_start(struct seq_file *m, loff_t *pos);\n"
        "REBOOTLESS_SYMBOL(vmlinux, c_start, 2);\n"
        + show("if (!v && c_start(m, NULL))\n\t\treturn 1;\n\treturn cmdline_proc_show(m, v);")
    )
    result = pipeline.build(
        [source], kernel=stock_release, output=tmp_path / "t.rlp", workdir=tmp_path / "work"
    )
    facts = pipeline.inspect(result.bundle_path)
    assert facts["manifest"]["name"] == "rebootless_two_things"
    (target,) = facts["manifest"]["objects"]
    assert [f["name"] for f in target["functions"]] == ["version_proc_show"]
    symbols = facts["modules"][0]["livepatch_symbols"]
    assert set(symbols) == {"vmlinux.cmdline_proc_show,0", "vmlinux.c_start,2"}
    bundle = archive.read(result.bundle_path)
    assert bundle.members["source/two-things.c"] == source.read_bytes()
    module = parse(bundle.modules["rebootless_two_things"], name="module")
    kept = {s.name for s in module.sections if s.name.startswith(".rebootless")}
    assert kept == {".rebootless.relocs"}  # what the core would apply


BAD = {
    "not C": (5, HEAD + NAMED + "this is not C\n" + show(), ("bad.c:6:", "does not compile")),
    "another type": (
        5,
        "#include <linux/mm.h>\n" + HEAD + "static void mine(void) { }\n"
        "REBOOTLESS_PATCH(vmlinux, vm_munmap, mine);\n",
        ("bad.c:7:", "conflicting types", "vm_munmap"),
    ),
    "private, not declared": (
        2,
        HEAD + "extern int cmdline_proc_show(struct seq_file *m, void *v);\n"
        + show("return cmdline_proc_show(m, v);"),
        ("REBOOTLESS_SYMBOL(vmlinux, cmdline_proc_show, 0);",),
    ),
    "unknown": (
        2,
        HEAD + "extern int no_such(void);\nREBOOTLESS_SYMBOL(vmlinux, no_such, 0);\n"
        + show("return no_such();"),
        ("[unknown-symbol]", "no_such"),
    ),
    "ambiguous": (
        2,
        HEAD + "extern void c_start(void);\nREBOOTLESS_SYMBOL(vmlinux, c_start, 0);\n"
        + show("c_start();"),
        ("[ambiguous-symbol]", "c_start", "\n      2: at 0xffffffff", "near "),
    ),
    "no such function": (6, HEAD + show(old="no_such_function"), ("no_such_function",)),
    "in several units": (4, HEAD + show(old="c_start"), ("units define", "c_start")),
    "in a header": (6, HEAD + show(old="seq_has_overflowed"), ("linux/seq_file.h",)),
    "of another unit": (2, HEAD + NAMED + show(old="cmdline_proc_show"), ("[not-in-unit]",)),
    "of another object": (2, HEAD + show(owner="ext4"), ("[wrong-object]", "ext4")),
    "no such unit": (6, HEAD + 'REBOOTLESS_UNIT("fs/none.c");\n' + show(), ("fs/none.c",)),
    "init": (2, HEAD + NAMED + show(old="proc_version_init"), ("[init-function]",)),
    "nothing": (4, HEAD, ("REBOOTLESS_PATCH",)),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_c_files(
    command: Command, stock_tree: Tree, stock_release: str, tmp_path: Path, case: str
) -> None:
    code, text, fragments = BAD[case]
    (tmp_path / "bad.c").write_text(text)
    words = ("--kernel", stock_release, "--workdir", tmp_path / "work")
    command("build", tmp_path / "bad.c", *words, "--output", tmp_path / "bad.rlp").refused(
        code, *fragments
    )
    assert not (tmp_path / "bad.rlp").exists()
    with stock_tree.locked():  # others may build in it
        assert not (stock_tree.root / twin.JOURNAL).exists(), "the twin tree was put back"
        assert not (stock_tree.patched / "include/rebootless.h").exists()


def test_patches_and_c_files(
    command: Command, stock_release: str, tmp_path: Path,
    edit_patch: Callable[..., Path], stock_tree: Tree,
) -> None:  # fmt: skip
    (tmp_path / "a.c").write_text(HEAD + show())
    patch = edit_patch(stock_tree.orig, {UNIT: ("return 0;", "return 1;")}, tmp_path / "b.patch")
    command("build", tmp_path / "a.c", patch, "--kernel", stock_release).refused(4, "one live")


def test_scaffold_is_built_as_it_is(command: Command, stock_release: str, tmp_path: Path) -> None:
    """Unchanged, it replaces the function by itself, at the size that it has in the kernel."""
    words = ("--kernel", stock_release)
    for name, function, private in (
        ("caches", "drop_caches_sysctl_handler", {"drop_pagecache_sb,0", "stfu."}),
        ("store", "fs/ext4/sysfs.c:ext4_attr_store", set()),
    ):
        path = tmp_path / f"{name}.c"
        done = command("new", name, "--function", function, *words, "--output", path)
        assert done.code == 0, done.err
        output = path.with_suffix(".rlp")
        done = command("build", path, *words, "--output", output, "--workdir", tmp_path / name)
        assert done.code == 0, done.err
        facts = pipeline.inspect(output)
        (replaced,) = facts["manifest"]["objects"][0]["functions"]
        assert replaced["name"] == function.rpartition(":")[2]
        assert replaced["size_old"] == replaced["size_new"]
        symbols = " ".join(facts["modules"][0]["livepatch_symbols"])
        assert all(f"vmlinux.{symbol}" in symbols for symbol in private)
    command("new", "caches", "--function", "no", *words, "--output", path).refused(4, "exists")


@pytest.mark.parametrize(
    ("functions", "code", "fragments"),
    [
        (["no_such_function"], 6, ("no_such_function",)),
        (["c_start"], 4, ("units define", "fs/proc/consoles.c:c_start")),
        (["seq_has_overflowed"], 6, ("linux/seq_file.h",)),
        (["fs/proc/version.c:proc_version_init"], 2, ("[init-function]", ".init.text")),
        (["kernel/audit.c:audit_rate_check"], 2, ("[not-in-unit]", "put it into")),
        (["version_proc_show", "cmdline_proc_show"], 4, ("2 units",)),
        (["fs/none.c:version_proc_show"], 6, ("fs/none.c",)),
        (["fs/proc/version.c:no_such"], 6, ("fs/proc/version.c does not define", "'no_such'")),
        ([""], 4, ("does not name a function",)),
        (["ext4:"], 4, ("'ext4:' does not name a function",)),
        (["ext4:version_proc_show"], 4, ("belongs to vmlinux",)),
    ],
)
def test_functions_that_cannot_be_scaffolded(
    command: Command, stock_release: str, tmp_path: Path,
    functions: list[str], code: int, fragments: tuple[str, ...],
) -> None:  # fmt: skip
    words = [word for function in functions for word in ("--function", function)]
    output = tmp_path / "x.c"
    ended = command("new", "x", *words, "--kernel", stock_release, "--output", output)
    ended.refused(code, *fragments)
    assert not output.exists()
