"""Patches as people send them, read into values."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebootless.base.errors import NotFoundError, PatchInputError
from rebootless.patch.source import Acceptance, Change, combine, load, parse

MAIL = b"""From 0123456789abcdef Mon Sep 17 00:00:00 2001
From: A Developer <dev@example.org>
Date: Thu, 1 Jan 2026 00:00:00 +0000
Subject: [PATCH 6.1 3/7] ext4: do not follow a folio
 that is not there

CVE-2026-12345 and CVE-2026-7777777 are one bug; CVE-2026-12345 again.

Signed-off-by: A Developer <dev@example.org>
---
 fs/ext4/mballoc.c | 3 ++-
 1 file changed, 2 insertions(+), 1 deletion(-)

diff --git a/fs/ext4/mballoc.c b/fs/ext4/mballoc.c
index 1111111..2222222 100644
--- a/fs/ext4/mballoc.c
+++ b/fs/ext4/mballoc.c
@@ -10,3 +10,4 @@ static int helper(void)
 one

-old
+new CVE-1999-0001
+newer
--\x20
2.39.5
"""

PLAIN = b"""--- linux-6.1/mm/slub.c\t2026-01-01 00:00:00.000000000 +0000
+++ linux-6.1-new/mm/slub.c\t2026-01-02 00:00:00.000000000 +0000
@@ -1,2 +1,2 @@
-a
+b
 c
"""


def test_git_mail_keeps_title_and_cves() -> None:
    part = parse(MAIL, "0003-fix.patch")
    assert part.title == "ext4: do not follow a folio that is not there"
    assert part.cves == ("CVE-2026-12345", "CVE-2026-7777777")
    (file,) = part.files
    assert (file.path, file.change, file.added, file.removed) == (
        "fs/ext4/mballoc.c",
        Change.MODIFIED,
        2,
        1,
    )
    assert file.hunks[0].header == "@@ -10,3 +10,4 @@ static int helper(void)"
    assert file.hunks[0].expected == ("one", "", "old")


def test_plain_diff_loses_one_path_component() -> None:
    part = parse(PLAIN, "x.diff")
    assert [file.path for file in part.files] == ["mm/slub.c"]
    assert part.title == "" and part.cves == ()


def test_a_debian_patch_has_its_title_in_its_header() -> None:
    header = b"Description: ext4: do not loop\n A longer text.\nBug: CVE-2026-4242\n---\nNote.\n"
    part = parse(header + PLAIN, "x.patch")
    assert (part.title, part.cves) == ("ext4: do not loop", ("CVE-2026-4242",))


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("fs/x.c", "fs/x.c", "fs/x.c"),
        ("include/net/sock.h", "include/net/sock.h", "include/net/sock.h"),
        ("kernel/fork.c", "kernel/fork.c", "kernel/fork.c"),
        ("kernel/mm/slub.c", "kernel/mm/slub.c", "mm/slub.c"),
        ("linux/mm/slub.c", "linux/mm/slub.c", "mm/slub.c"),
        ("i/mm/slub.c", "w/mm/slub.c", "mm/slub.c"),
        ("/dev/null", "fs/new.h", "fs/new.h"),
    ],
)
def test_what_a_path_loses(old: str, new: str, path: str) -> None:
    (file,) = parse(f"--- {old}\n+++ {new}\n@@ -0,0 +1 @@\n+x\n".encode(), "x").files
    assert file.path == path


def test_every_file_has_to_be_without_prefix() -> None:
    hunk = "@@ -1 +1 @@\n-x\n+y\n"
    text = f"--- fs/x.c\n+++ fs/x.c\n{hunk}--- a/mm/y.c\n+++ b/mm/y.c\n{hunk}"
    assert [f.path for f in parse(text.encode(), "x").files] == ["x.c", "mm/y.c"]


def test_new_and_deleted_files() -> None:
    text = b"--- /dev/null\n+++ b/include/linux/new.h\n@@ -0,0 +1 @@\n+int x;\n"
    text += b"--- a/include/linux/old.h\n+++ /dev/null\n@@ -1 +0,0 @@\n-int y;\n"
    files = parse(text, "x").files
    assert [(f.path, f.change) for f in files] == [
        ("include/linux/new.h", Change.ADDED),
        ("include/linux/old.h", Change.DELETED),
    ]


def test_several_patches_merge_in_order(tmp_path: Path) -> None:
    (tmp_path / "1.patch").write_bytes(MAIL)
    (tmp_path / "2.patch").write_bytes(PLAIN)
    (tmp_path / "3.patch").write_bytes(MAIL.replace(b"CVE-2026-12345", b"CVE-2026-11111"))
    patch = load([tmp_path / f"{i}.patch" for i in (1, 2, 3)])
    assert [f.path for f in patch.files] == ["fs/ext4/mballoc.c", "mm/slub.c"]
    assert patch.files[0].added == 4
    assert patch.cves == ("CVE-2026-12345", "CVE-2026-7777777", "CVE-2026-11111")
    assert patch.name == "1.patch" and len(patch.parts) == 3


def test_added_then_changed_is_still_added() -> None:
    first = parse(b"--- /dev/null\n+++ b/a.h\n@@ -0,0 +1 @@\n+x\n", "1")
    second = parse(b"--- a/a.h\n+++ b/a.h\n@@ -1 +1 @@\n-x\n+y\n", "2")
    assert combine([first, second]).files[0].change is Change.ADDED


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"\x7fELF\0\0", "binary"),
        (b"Hello, this is a letter.\n", "not a diff"),
        (b"--- a/x.c\n+++ b/x.c\n@@ -1,9 +1,9 @@\n a\n", "well-formed"),
        (b"diff --git a/x b/x\nGIT binary patch\nliteral 3\n", "binary"),
        (b"--- a/../../etc/passwd\n+++ b/../../etc/passwd\n@@ -1 +1 @@\n-a\n+b\n", "outside"),
        (b"--- a//etc/passwd\n+++ b//etc/passwd\n@@ -1 +1 @@\n-a\n+b\n", "outside"),
        (
            b"diff --git a/x.c b/y.c\nsimilarity index 90%\nrename from x.c\nrename to y.c\n"
            b"--- a/x.c\n+++ b/y.c\n@@ -1 +1 @@\n-a\n+b\n",
            "renames",
        ),
    ],
)
def test_bad_patches_say_why(content: bytes, word: str) -> None:
    with pytest.raises(PatchInputError, match=word) as error:
        parse(content, "bad.patch")
    assert "bad.patch" in error.value.message
    assert error.value.hint


def test_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load([tmp_path / "none.patch"])
    with pytest.raises(PatchInputError):
        load([])


def test_form_feeds_and_carriage_returns_do_not_split_lines() -> None:
    text = b"--- a/x.c\n+++ b/x.c\n@@ -1,2 +1,2 @@\n a\x0cb\r\n-c\x85\n+d\n"
    assert len(parse(text, "x").files[0].hunks[0].expected) == 2


def test_the_header_accepts_findings() -> None:
    lines = b"Rebootless-Accept: address-in-data\nrebootless-accept: lock-count-changed f, g  h\r\n"
    accepted = (
        Acceptance("address-in-data"),
        Acceptance("lock-count-changed", ("f", "g", "h")),
    )
    part = parse(lines + PLAIN, "p.patch")
    assert part.accepts == accepted
    assert combine([part, parse(PLAIN, "q.patch"), part]).accepts == accepted
    inside = PLAIN + b"--- a/x.c\n+++ b/x.c\n@@ -1 +1,2 @@\n x\n+Rebootless-Accept: some-code\n"
    assert parse(inside, "p.patch").accepts == ()


@pytest.mark.parametrize("rest", [b"", b" ", b" Not_A_Code", b" a-code \x1b[31mf\x07", b" a \xff"])
def test_an_acceptance_without_a_code_is_refused(rest: bytes) -> None:
    with pytest.raises(PatchInputError, match="no code"):
        parse(b"Rebootless-Accept:" + rest + b"\n" + PLAIN, "p.patch")
