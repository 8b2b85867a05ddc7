"""Applying with the real GNU patch, and what is said when it does not fit."""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rebootless.base.errors import PatchInputError
from rebootless.base.events import Event, Warned
from rebootless.patch.apply import apply
from rebootless.patch.source import Change, SourcePatch, combine, parse

pytestmark = pytest.mark.skipif(not shutil.which("patch"), reason="GNU patch is not installed")

BODY = "".join(f"line {i}\n" for i in range(1, 41))


class Recorder:
    """Keeps all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def diff(old: str, new: str, path: str = "fs/a.c") -> bytes:
    lines = difflib.unified_diff(
        old.splitlines(True), new.splitlines(True), f"a/{path}", f"b/{path}"
    )
    return "".join(lines).encode()


def made(*texts: bytes) -> SourcePatch:
    return combine([parse(text, f"{i}.patch") for i, text in enumerate(texts, 1)])


def tree(root: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


def test_applies_without_touching_the_source(tmp_path: Path) -> None:
    root = tree(tmp_path, {"fs/a.c": BODY})
    new = BODY.replace("line 20\n", "line 20\nadded\n")
    result = apply(made(diff(BODY, new)), root, Recorder())
    (file,) = result.files
    assert file.plain == new.encode() and file.original == BODY.encode()
    assert file.patched == new.replace("added\n", "added\n#line 21\n").encode()
    assert (root / "fs/a.c").read_text() == BODY and not result.fuzzy
    assert sorted(p.name for p in root.rglob("*")) == ["a.c", "fs"]


def test_several_patches_build_on_each_other(tmp_path: Path) -> None:
    root = tree(tmp_path, {"fs/a.c": BODY})
    second = BODY.replace("line 20\n", "twenty\n")
    third = second.replace("twenty\n", "TWENTY\n")
    result = apply(made(diff(BODY, second), diff(second, third)), root, Recorder())
    assert result.files[0].plain == third.encode()
    with pytest.raises(PatchInputError, match=r"1\.patch does not apply"):
        apply(made(diff(second, third), diff(BODY, second)), root, Recorder())


def test_fuzz_is_taken_with_a_warning(tmp_path: Path) -> None:
    new = BODY.replace("line 20\n", "twenty\n")
    root = tree(tmp_path, {"fs/a.c": BODY.replace("line 17\n", "other 17\n")})
    monitor = Recorder()
    result = apply(made(diff(BODY, new)), root, monitor)
    assert result.fuzzy and b"twenty" in (result.files[0].plain or b"")
    assert any(isinstance(e, Warned) and "hunk 1 of fs/a.c" in e.text for e in monitor.events)


def test_a_hunk_that_does_not_fit_is_shown(tmp_path: Path) -> None:
    new = BODY.replace("line 5\n", "five\n").replace("line 30\n", "thirty\n")
    root = tree(tmp_path, {"fs/a.c": BODY.replace("line 30\n", "LINE 30\n")})
    with pytest.raises(PatchInputError) as error:
        apply(made(diff(BODY, new)), root, Recorder())
    message = error.value.message
    assert "hunk 2 of fs/a.c (@@ -27,7 +27,7 @@)" in message
    assert "expects at line 30:\n    | line 30" in message
    assert "source has:\n    | LINE 30" in message
    assert error.value.hint


def test_already_applied_is_recognised(tmp_path: Path) -> None:
    new = BODY.replace("line 5\n", "five\n")
    root = tree(tmp_path, {"fs/a.c": new})
    with pytest.raises(PatchInputError, match="already in this kernel's source"):
        apply(made(diff(BODY, new)), root, Recorder())


def test_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(PatchInputError, match=r"changes fs/a\.c, which") as error:
        apply(made(diff(BODY, BODY + "x\n")), tmp_path, Recorder())
    assert "relative to" in (error.value.hint or "")


def test_new_and_deleted_headers(tmp_path: Path) -> None:
    root = tree(tmp_path, {"fs/old.h": "int y;\n"})
    text = b"--- /dev/null\n+++ b/fs/new.h\n@@ -0,0 +1 @@\n+int x;\n"
    text += b"--- a/fs/old.h\n+++ /dev/null\n@@ -1 +0,0 @@\n-int y;\n"
    new, old = apply(made(text), root, Recorder()).files
    assert (new.change, new.original, new.patched) == (Change.ADDED, None, b"int x;\n")
    assert (old.change, old.patched) == (Change.DELETED, None)


def test_skipped_files_may_be_missing(tmp_path: Path) -> None:
    root = tree(tmp_path, {"fs/a.c": BODY})
    new = BODY.replace("line 20\n", "twenty\n")
    text = diff("a\n", "b\n", "Documentation/x.rst")
    text = b"diff --git a/Documentation/x.rst b/Documentation/x.rst\n" + text
    text += b"diff --git a/fs/a.c b/fs/a.c\n" + diff(BODY, new)
    result = apply(made(text), root, Recorder(), skip=frozenset({"Documentation/x.rst"}))
    assert [file.path for file in result.files] == ["fs/a.c"]


def test_a_skipped_file_of_a_quilt_patch_takes_no_other_with_it(tmp_path: Path) -> None:
    """Quilt writes files one after the other with no line of git or diff between them."""
    root = tree(tmp_path, {"fs/a.c": BODY, "fs/b.c": BODY})
    new = BODY.replace("line 20\n", "line 20\n-- line\n")
    text = diff("a\n", "b\n", "Documentation/x.rst") + diff(BODY, new)
    text += diff("a\n", "b\n", "tools/x.c") + diff(new, BODY, "fs/b.c")
    (root / "fs/b.c").write_text(new)
    skip = frozenset({"Documentation/x.rst", "tools/x.c"})
    result = apply(made(text), root, Recorder(), skip=skip)
    assert [(f.path, f.plain) for f in result.files] == [
        ("fs/a.c", new.encode()),
        ("fs/b.c", BODY.encode()),
    ]


def bare(text: bytes) -> bytes:
    return text.replace(b"--- a/", b"--- ").replace(b"+++ b/", b"+++ ", 1)


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text.replace(b"\n", b"\r\n"),
        bare,
        lambda text: bare(text).replace(b"--- fs/a.c", b"--- fs/a.c.orig"),
        lambda text: b"Index: fs/a.c\n====\n" + bare(text),
        lambda text: b"diff --git fs/a.c fs/a.c\nindex 1..2 100644\n" + bare(text),
    ],
    ids=["crlf", "no-prefix", "orig", "index", "git-no-prefix"],
)
def test_patches_in_other_forms(tmp_path: Path, form: Callable[[bytes], bytes]) -> None:
    root = tree(tmp_path, {"fs/a.c": BODY})
    new = BODY.replace("line 20\n", "++ b/line\n")
    (file,) = apply(made(form(diff(BODY, new))), root, Recorder()).files
    assert (file.path, file.plain) == ("fs/a.c", new.encode())
