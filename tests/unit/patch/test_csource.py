"""C files as input: what is read of them before they are compiled."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebootless.base.errors import PatchInputError
from rebootless.patch import csource
from rebootless.patch.source import Acceptance

GOOD = b"""/* REBOOTLESS_PATCH(vmlinux, in_a, comment) fixes CVE-2030-1234 */
REBOOTLESS_UNIT("fs/proc/version.c");
// REBOOTLESS_UNIT("no/other.c")
const char *s = "/*"; REBOOTLESS_PATCH(vmlinux, old, new); /* "*/
REBOOTLESS_PATCH( nf-tables ,
	a, b);
"""


def test_what_a_file_says() -> None:
    found = csource.parse(GOOD, "fix.c")
    assert found.unit == "fs/proc/version.c"
    assert [(r.object, r.old, r.new) for r in found.replacements] == [
        ("vmlinux", "old", "new"),
        ("nf-tables", "a", "b"),
    ]
    patch = csource.as_patch([found])
    assert patch.name == "fix" and patch.cves == ("CVE-2030-1234",) and patch.text == GOOD


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"int f;\n", "replaces nothing"),
        (b"\0ELF", "binary"),
        (b'REBOOTLESS_PATCH(v, a, b); REBOOTLESS_UNIT("a.c"); REBOOTLESS_UNIT("b.c");', "two"),
        (b'REBOOTLESS_PATCH(v, a, b); REBOOTLESS_UNIT("../a.c");', "not the path"),
        (b'REBOOTLESS_PATCH(v, a, b); REBOOTLESS_UNIT("/a.c");', "not the path"),
        (b'REBOOTLESS_PATCH(v, a, b); REBOOTLESS_UNIT("a.S");', "not the path"),
    ],
)
def test_bad_files(text: bytes, message: str) -> None:
    with pytest.raises(PatchInputError, match=message):
        csource.parse(text, "fix.c")


def test_c_files_and_patches_do_not_mix(tmp_path: Path) -> None:
    assert csource.is_c([Path("a.c"), Path("b.c")]) and not csource.is_c([Path("a.patch")])
    with pytest.raises(PatchInputError, match="cannot be built into one"):
        csource.is_c([Path("a.c"), Path("b.patch")])
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "fix.c").write_bytes(GOOD)
    with pytest.raises(PatchInputError, match=r"two of the files are called fix\.c"):
        csource.load([tmp_path / "one/fix.c", tmp_path / "two/fix.c"])


def test_a_comment_accepts_findings() -> None:
    lines = b"/*\n * Rebootless-Accept: may-sleep-long f, g\n */\n// Rebootless-Accept: a-b\n"
    more = b"/* Rebootless-Accept: c-d h */\n"
    patch = csource.as_patch([csource.parse(lines + more + GOOD, "fix.c")])
    assert patch.accepts == (
        Acceptance("may-sleep-long", ("f", "g")),
        Acceptance("a-b"),
        Acceptance("c-d", ("h",)),
    )
