"""The twin tree: links are broken for a build and put back, also after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rebootless.compile import twin
from rebootless.compile.tree import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree("6.1.0-test", tmp_path, "gcc")
    (made.orig / "fs").mkdir(parents=True)
    (made.orig / "fs/a.c").write_text("original\n")
    (made.orig / "fs/b.h").write_text("header\n")
    subprocess.run(["cp", "-al", made.orig, made.patched], check=True)
    return made


def is_restored(tree: Tree) -> bool:
    names = sorted(p.relative_to(tree.orig) for p in tree.orig.rglob("*"))
    twins = sorted(p.relative_to(tree.patched) for p in tree.patched.rglob("*"))
    return (
        names == twins
        and all((tree.orig / n).samefile(tree.patched / n) for n in names if n.suffix)
        and not (tree.root / twin.JOURNAL).exists()
    )


def test_files_are_there_for_the_block_only(tree: Tree) -> None:
    contents = {"fs/a.c": b"patched\n", "fs/b.h": None, "fs/new.h": b"new\n"}
    with twin.installed(tree, contents, ["fs/a.o"]):
        assert (tree.patched / "fs/a.c").read_bytes() == b"patched\n"
        assert (tree.orig / "fs/a.c").read_bytes() == b"original\n"
        assert not (tree.patched / "fs/b.h").exists()
        assert (tree.patched / "fs/new.h").read_bytes() == b"new\n"
        (tree.patched / "fs/a.o").write_bytes(b"object")
    assert is_restored(tree)
    assert (tree.orig / "fs/b.h").exists()


def test_an_exception_restores(tree: Tree) -> None:
    with pytest.raises(KeyboardInterrupt), twin.installed(tree, {"fs/a.c": b"x"}, []):
        raise KeyboardInterrupt
    assert is_restored(tree)


def test_a_killed_build_is_undone_by_the_next(tree: Tree) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from rebootless.compile import twin\nfrom rebootless.compile.tree import Tree\n"
        f"tree = Tree('6.1.0-test', Path({str(tree.root)!r}), 'gcc')\n"
        "with twin.installed(tree, {'fs/a.c': b'x', 'fs/new.h': b'y'}, ['fs/a.o']):\n"
        "    (tree.patched / 'fs/a.o').write_bytes(b'o')\n"
        "    (tree.patched / 'fs/.a.c.half').write_bytes(b'o')\n"
        "    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    source = str(Path(twin.__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not is_restored(tree)
    twin.restore(tree)
    assert is_restored(tree)
