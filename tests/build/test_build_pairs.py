"""Units of a real kernel, compiled with the real compiler in a prepared tree from the cache."""

from __future__ import annotations

import difflib
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rebootless.base.errors import (
    CompileError,
    NoChangeError,
    PatchInputError,
    RebootlessError,
    RefusedError,
)
from rebootless.base.events import Event, Note, NullMonitor, Warned
from rebootless.base.workdir import Workdir
from rebootless.compile import reach, twin
from rebootless.compile.kbuild import Fate, Kbuild
from rebootless.compile.originals import Variant
from rebootless.compile.tree import Tree
from rebootless.compile.unit import PATCHED_STAGE, UnitPair, build_originals, build_pairs
from rebootless.patch.source import SourcePatch, combine, parse

UNIT = "fs/ext4/mballoc.c"
PLACE = "\tpoff = block % blocks_per_page;\n"
Change = Callable[[str], str]


class Recorder:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def emit(self, event: Event) -> None:
        if isinstance(event, Note | Warned):
            self.texts.append(event.text)


@pytest.fixture(scope="module")
def tree(stock_tree: Tree) -> Tree:
    """The stock kernel's prepared tree."""
    return stock_tree


def patch_of(tree: Tree, *changes: tuple[str, Change]) -> SourcePatch:
    """A patch that does `change` to the text of each file."""
    parts = []
    for path, change in changes:
        old = (tree.orig / path).read_text()
        new = change(old)
        lines = difflib.unified_diff(
            old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}"
        )
        parts.append(f"diff --git a/{path} b/{path}\n" + "".join(lines))
    return combine([parse("".join(parts).encode(), "test.patch")])


def built(
    tree: Tree, patch: SourcePatch, folder: Path, **more: object
) -> tuple[tuple[UnitPair, ...], list[str]]:
    monitor = Recorder()
    return build_pairs(tree, patch, Workdir(folder), monitor, **more), monitor.texts  # type: ignore[arg-type]


def restored(tree: Tree, *paths: str) -> bool:
    """Whether the twin is linked to the originals, and no object lies about.

    The caller holds the tree: others may build in it.
    """
    return not (tree.root / twin.JOURNAL).exists() and all(
        (tree.orig / path).samefile(tree.patched / path)
        and not list((tree.patched / path).parent.glob(f"*{Path(path).stem}*.o"))
        for path in (paths or (UNIT,))
    )


def installs(tree: Tree, path: str) -> bool:
    """Whether a build is under way that has something else for `path`."""
    try:
        return path in (tree.root / twin.JOURNAL).read_text()
    except FileNotFoundError:
        return False


def put_back(tree: Tree, *paths: str) -> bool:
    """Whether a build has left the twin as it was."""
    with tree.locked():
        return restored(tree, *paths)


def comment(text: str) -> str:
    return text.replace(PLACE, "\t/* one\n\t * two */\n" + PLACE, 1)


def fix(text: str) -> str:
    return text.replace(PLACE, PLACE + "\tif (block == 12346)\n\t\treturn -EIO;\n", 1)


def test_added_comment_lines_compile_to_the_same_object(tree: Tree, tmp_path: Path) -> None:
    (pair,), _ = built(tree, patch_of(tree, (UNIT, comment)), tmp_path)
    assert pair.orig.read_bytes() == pair.patched.read_bytes()
    assert (pair.source, pair.module_path) == (UNIT, "" if pair.module == "vmlinux" else
                                               "fs/ext4/ext4")  # fmt: skip
    assert put_back(tree)


def test_without_line_directives_the_same_change_shows(
    tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rebootless.patch.apply.keep_numbers", lambda old, new: new)
    (pair,), _ = built(tree, patch_of(tree, (UNIT, comment)), tmp_path)
    assert pair.orig.read_bytes() != pair.patched.read_bytes()


def test_a_real_change_and_resuming(tree: Tree, tmp_path: Path) -> None:
    patch = patch_of(tree, (UNIT, fix))
    first, _ = built(tree, patch, tmp_path)
    assert first[0].orig.read_bytes() != first[0].patched.read_bytes()
    stamp = first[0].patched.stat().st_mtime_ns
    start = time.monotonic()
    again, _ = built(tree, patch, tmp_path)
    assert time.monotonic() - start < 0.5
    assert again == first and again[0].patched.stat().st_mtime_ns == stamp
    other, _ = built(tree, patch_of(tree, (UNIT, comment)), tmp_path)
    assert other[0].patched.stat().st_mtime_ns != stamp
    assert put_back(tree)


def test_a_warm_unit_is_quick(tree: Tree, tmp_path: Path) -> None:
    built(tree, patch_of(tree, (UNIT, comment)), tmp_path / "1")
    spent = []
    for number in "23":
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        built(tree, patch_of(tree, (UNIT, fix)), tmp_path / number)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # Processor time, so that a busy machine does not matter: one compiler and objtool, no make.
    assert min(spent) < 6, "a warm unit takes 2.5 s on an idle machine"


def test_what_does_not_compile_shows_the_compilers_lines(tree: Tree, tmp_path: Path) -> None:
    def bad(text: str) -> str:
        return text.replace(PLACE, PLACE + "\n\n\tpoff = nosuch;\n", 1)

    patch = patch_of(tree, (UNIT, bad))
    with pytest.raises(CompileError) as error:
        built(tree, patch, tmp_path)
    text = (tree.orig / UNIT).read_text()
    line = text[: text.index(PLACE)].count("\n") + 4
    assert f"{UNIT}:{line}:" in error.value.message and "nosuch" in error.value.message
    assert "(it does without)" in error.value.message
    assert put_back(tree)


def test_a_header_reaches_the_units_that_read_it(tree: Tree, tmp_path: Path) -> None:
    header = "fs/ext4/acl.h"

    def change(text: str) -> str:
        return text.replace("#define EXT4_ACL_VERSION\t0x0001", "#define EXT4_ACL_VERSION\t0x0003")

    patch = patch_of(tree, (header, change))
    assert patch.files, "fs/ext4/acl.h no longer has EXT4_ACL_VERSION"
    pairs, texts = built(tree, patch, tmp_path)
    sources = {pair.source for pair in pairs}
    assert {"fs/ext4/acl.c", "fs/ext4/inode.c"} <= sources and len(sources) < 20
    assert any(f"included by {len(sources)} compiled units" in text for text in texts)
    changed = {p.source for p in pairs if p.orig.read_bytes() != p.patched.read_bytes()}
    assert "fs/ext4/acl.c" in changed and changed < sources
    reached = reach.read(tmp_path / PATCHED_STAGE)
    assert reached.headers == (header,) and reached.rebuilt == len(sources)
    assert reached.kept == ()
    assert put_back(tree, header, "fs/ext4/acl.c")


def test_too_many_units_are_refused(tree: Tree, tmp_path: Path) -> None:
    def change(text: str) -> str:
        return text + "/* end */\n"

    with pytest.raises(RefusedError, match="limit of 3") as error:
        built(tree, patch_of(tree, ("fs/ext4/ext4.h", change)), tmp_path, max_units=3)
    assert error.value.hint
    with pytest.raises(RefusedError, match=r"include/linux/fs\.h"):
        built(tree, patch_of(tree, ("include/linux/fs.h", change)), tmp_path)
    with pytest.raises(RefusedError, match="every unit"):
        built(tree, patch_of(tree, ("include/linux/kconfig.h", change)), tmp_path)


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("lib/string.c", "lib-y in lib/Makefile"),
        ("arch/x86/entry/entry_64.S", "assembly"),
        ("arch/x86/entry/vdso/vclock_gettime.c", "vDSO"),
        ("arch/x86/boot/main.c", "boot code"),
        ("fs/ext4/Makefile", "how the kernel is built"),
    ],
)
def test_refused_files(tree: Tree, tmp_path: Path, path: str, word: str) -> None:
    patch = patch_of(tree, (path, lambda text: text + "\n"), (UNIT, fix))
    with pytest.raises(RefusedError, match=word) as error:
        built(tree, patch, tmp_path)
    assert path in error.value.message and error.value.hint and error.value.refusals
    assert not (tmp_path / "1-orig").exists()


def test_new_units_are_refused(tree: Tree, tmp_path: Path) -> None:
    text = b"--- /dev/null\n+++ b/fs/ext4/new.c\n@@ -0,0 +1 @@\n+int x;\n"
    with pytest.raises(RefusedError, match=r"fs/ext4/new\.c"):
        built(tree, combine([parse(text, "n")]), tmp_path)


def test_a_new_header_that_a_unit_includes(tree: Tree, tmp_path: Path) -> None:
    def include(text: str) -> str:
        return text.replace('#include "mballoc.h"\n', '#include "mballoc.h"\n#include "new.h"\n')

    new = b"--- /dev/null\n+++ b/fs/ext4/new.h\n@@ -0,0 +1 @@\n+#define NEW 1\n"
    patch = combine([parse(new, "1"), *patch_of(tree, (UNIT, include)).parts])
    (pair,), _ = built(tree, patch, tmp_path)
    assert pair.source == UNIT and put_back(tree)
    with tree.locked():
        assert not (tree.patched / "fs/ext4/new.h").exists()


def test_nothing_of_it_is_compiled(tree: Tree, tmp_path: Path) -> None:
    path = "drivers/block/floppy.c"
    if Kbuild(tree.orig).membership(path).fate is not Fate.OFF:
        pytest.skip(f"this flavour compiles {path}")
    with pytest.raises(NoChangeError, match=r"CONFIG_BLK_DEV_FD is off \(drivers/block/Makefile"):
        built(tree, patch_of(tree, (path, lambda text: text + "\n")), tmp_path)
    assert not (tmp_path / "1-orig").exists()


def test_a_patch_for_another_version(tree: Tree, tmp_path: Path) -> None:
    patch = patch_of(tree, (UNIT, fix))
    text = patch.text.replace(b" \tpoff = block % blocks_per_page;", b" \tpoff = other;")
    with pytest.raises(PatchInputError, match=rf"hunk 1 of {re.escape(UNIT)} \(@@ "):
        built(tree, combine([parse(text, "x")]), tmp_path)


def test_a_file_that_a_unit_includes(tree: Tree, tmp_path: Path) -> None:
    path = "kernel/sched/rt.c"
    if Kbuild(tree.orig).membership(path).fate is not Fate.OFF:
        pytest.skip(f"{path} is a unit of its own in this kernel")
    (pair,), _ = built(tree, patch_of(tree, (path, lambda t: "/* x */\n" + t)), tmp_path)
    assert pair.source == "kernel/sched/build_policy.c"


def test_a_unit_of_a_module_built_from_elsewhere(tree: Tree, tmp_path: Path) -> None:
    path = "virt/kvm/eventfd.c"
    (pair,), _ = built(tree, patch_of(tree, (path, lambda t: t + "/* x */\n")), tmp_path)
    assert (pair.module, pair.module_path) == ("kvm", "arch/x86/kvm/kvm")
    assert put_back(tree, path)


def test_a_plain_build_for_matching(tree: Tree) -> None:
    found = build_originals(tree, [UNIT], NullMonitor(), variant=Variant(sections=False))
    symbols = subprocess.run(
        ["objdump", "-h", found[UNIT]], capture_output=True, text=True, check=True
    ).stdout
    assert ".text.ext4_mb_new_blocks" not in symbols and " .text " in symbols
    with pytest.raises(RebootlessError):
        build_originals(tree, ["drivers/nosuch.c"], NullMonitor(), variant=Variant())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_is_undone(tree: Tree, tmp_path: Path, how: signal.Signals) -> None:
    patch = patch_of(tree, (UNIT, fix))
    built(tree, patch_of(tree, (UNIT, comment)), tmp_path / "warm")
    (tmp_path / "p").write_bytes(patch.text)
    code = (
        "from pathlib import Path\nfrom rebootless.base.events import NullMonitor\n"
        "from rebootless.base.workdir import Workdir\nfrom rebootless.compile.tree import Tree\n"
        "from rebootless.compile.unit import build_pairs\n"
        "from rebootless.patch.source import load\n"
        f"tree = Tree({tree.release!r}, Path({str(tree.root)!r}), {tree.compiler!r})\n"
        f"build_pairs(tree, load([Path({str(tmp_path / 'p')!r})]), "
        f"Workdir(Path({str(tmp_path / 'w')!r})), NullMonitor())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(twin.__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL
    )
    while not installs(tree, UNIT):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGSTOP)  # it holds the tree, and nobody puts it back
    assert not restored(tree)
    process.send_signal(how)
    process.send_signal(signal.SIGCONT)
    assert process.wait(10) != 0
    assert not (tmp_path / "w/2-patched").exists()
    if how is signal.SIGINT:
        assert put_back(tree)
    (pair,), _ = built(tree, patch, tmp_path / "w")
    assert pair.orig.read_bytes() != pair.patched.read_bytes()
    assert put_back(tree)


def test_external_modules_build_against_the_tree(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("obj-m := hello.o\n")
    (tmp_path / "hello.c").write_text(
        '#include <linux/module.h>\nMODULE_LICENSE("GPL");\n'
        "static int __init hello(void) { return 0; }\nmodule_init(hello);\n"
    )
    with tree.locked():
        subprocess.run(tree.make(f"M={tmp_path}", "modules"), check=True, capture_output=True)
    info = subprocess.run(
        ["modinfo", "-F", "vermagic", tmp_path / "hello.ko"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    if info:
        assert info.startswith(f"{tree.release} SMP ") and "modversions" in info
