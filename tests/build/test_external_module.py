"""`rebootless build --module-source`: what is wrong is told before anything long begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Command

from rebootless.provider.base import KernelFiles

SOURCE = Path(__file__).parents[1] / "vm/external"
FIX = """--- a/book.c
+++ b/book.c
@@ -15,5 +15,5 @@
 static noinline int check(int amount)
 {
 \tif (!is_small(amount))
-\t\treturn -ERANGE;
+\t\treturn -EDOM;
 \treturn 0;
"""
Wrong = Callable[..., None]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SOURCE, tmp_path / "source"))


@pytest.fixture
def wrong(command: Command, stock_kernel: KernelFiles, source: Path, tmp_path: Path) -> Wrong:
    """Builds a patch of the source; checks exit code and message, and that nothing is written."""

    def run(patch: str, code: int, *said: str, more: tuple[str | Path, ...] = ()) -> None:
        (tmp_path / "fix.patch").write_text(patch)
        words = ["build", tmp_path / "fix.patch", "--kernel", stock_kernel.release]
        words += ["--workdir", tmp_path / "work", "-o", tmp_path / "fix.rlp"]
        ended = command(*words, "--module-source", source, *more)
        ended.refused(code, *said)
        assert not (tmp_path / "fix.rlp").exists()

    return run


def test_no_makefile(wrong: Wrong, source: Path) -> None:
    (source / "Kbuild").unlink()
    wrong(FIX, 4, "source has no Kbuild and no Makefile")
    (source / "Makefile").write_text("all:\n\tcc book.c\n")
    wrong(FIX, 4, "Makefile names no module (obj-m := ...)")


def test_patch_does_not_apply(wrong: Wrong) -> None:
    wrong(FIX.replace("is_small(amount))", "is_tiny(amount))"), 4, "hunk 1 of book.c", "the module")
    wrong(FIX.replace("book.c", "cook.c"), 4, "changes cook.c, which", "source does not have")
    # as made one directory too high
    wrong(FIX.replace("/book.c", "/source/book.c"), 4, "changes source/book.c, which")


def test_files_that_are_not_the_modules(wrong: Wrong) -> None:
    kernel = "--- a/fs/pipe.c\n+++ b/fs/pipe.c\n@@ -1,1 +1,1 @@\n-int a;\n+int b;\n"
    wrong(FIX + kernel, 2, "fs/pipe.c: it is a file of the kernel, and not of the module's source")
    makefile = "--- a/Kbuild\n+++ b/Kbuild\n@@ -1,1 +1,1 @@\n-obj-m := rl_ledger.o\n+obj-m :=\n"
    wrong(FIX + makefile, 2, "Kbuild: it changes how the kernel is built")


def test_module_not_found(wrong: Wrong, source: Path, stock_kernel: KernelFiles) -> None:
    wrong(FIX, 6, "no_such_module' is not installed in", more=("--module", "no_such_module"))
    wrong(FIX, 6, "/nowhere/rl_ledger.ko", more=("--module", "/nowhere/rl_ledger.ko"))
    (source / "text.ko").write_text("no ELF file at all, but some text that is long enough\n" * 9)
    wrong(FIX, 4, "text.ko", more=("--module", source / "text.ko"))
    wrong(
        FIX,
        6,
        "no Module.symvers at /nowhere/symvers",
        more=("--module-symvers", "/nowhere/symvers"),
    )


def test_what_the_build_says(wrong: Wrong, source: Path, stock_kernel: KernelFiles) -> None:
    """Another module's file; a module that is not installed; source that does not compile."""
    assert stock_kernel.modules is not None
    other = next(stock_kernel.modules.rglob("dummy.ko"))
    wrong(FIX, 4, "is the module 'dummy', and", "builds rl_ledger", more=("--module", other))
    wrong(FIX, 6, "the module 'rl_ledger' is not installed in")
    (source / "ledger.c").write_text("int f(void) { return nothing; }\n")
    wrong(FIX, 5, "source does not build for", f"{source}/ledger.c:1:22", "undeclared")


def test_options_that_need_the_source(command: Command, tmp_path: Path) -> None:
    ended = command("build", tmp_path / "x.patch", "--module", "rl_ledger")
    assert ended.code == 64 and "need --module-source" in ended.err
