"""`#line` after changes: the compiler is the judge."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebootless.patch.lines import keep_numbers, original_numbers, scan

gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed")

SOURCE = (Path(__file__).parent / "data" / "unsafe.c").read_bytes()


def compiled(text: bytes, folder: Path, name: str) -> bytes:
    """The assembly that gcc makes of C source."""
    (folder / "f.c").write_bytes(text)
    result = subprocess.run(
        ["gcc", "-O1", "-S", "-w", "-o", name, "f.c"], cwd=folder, capture_output=True, check=False
    )
    assert result.returncode == 0, result.stderr.decode()
    return (folder / name).read_bytes()


@gcc
def test_a_comment_line_at_any_safe_place_changes_nothing(tmp_path: Path) -> None:
    lines = SOURCE.split(b"\n")
    expected = compiled(SOURCE, tmp_path, "orig.s")
    starts = scan(SOURCE)
    generator = random.Random(1)
    safe = [i for i, start in enumerate(starts) if start.safe and i < len(lines) - 1]
    for _ in range(25):
        new = list(lines)
        for place in sorted(generator.sample(safe, generator.randint(1, 4)), reverse=True):
            new[place:place] = [b"/* new */"] * generator.randint(1, 3)
        numbered = keep_numbers(SOURCE, b"\n".join(new))
        assert b"#line" in numbered
        assert compiled(numbered, tmp_path, "new.s") == expected


@gcc
def test_without_the_directive_it_would_change(tmp_path: Path) -> None:
    assert compiled(b"\n" + SOURCE, tmp_path, "a.s") != compiled(SOURCE, tmp_path, "b.s")


@gcc
def test_removed_lines_are_made_up_for(tmp_path: Path) -> None:
    new = SOURCE.replace(b"\t// a comment ( continued \\\n\t   here )\n", b"")
    assert new != SOURCE
    assert compiled(keep_numbers(SOURCE, new), tmp_path, "a.s") == compiled(SOURCE, tmp_path, "b.s")


@gcc
def test_a_group_that_is_left_out_does_not_swallow_the_directive(tmp_path: Path) -> None:
    for marker in (b"nothing ( here\n", b"# define LINE_NUMBER (\n", b"#error don't (\n"):
        new = SOURCE.replace(marker, marker + b"\n\n")
        assert compiled(keep_numbers(SOURCE, new), tmp_path, "a.s") == compiled(
            SOURCE, tmp_path, "b.s"
        )


def test_unsafe_places() -> None:
    starts = scan(SOURCE)
    lines = SOURCE.split(b"\n")

    def at(text: bytes) -> bool:
        return starts[next(i for i, line in enumerate(lines) if text in line)].safe

    assert not at(b"parentheses ( in comments")
    assert not at(b"do {  ")
    assert not at(b"continued on a second line")
    assert not at(b"here )")
    assert not at(b"\t\t     LINE_NUMBER,")
    assert not at(b"2, 3));")
    assert not at(b'(LINE_NUMBER, "x")')
    assert not at(b"\t\t 5))")
    assert at(b"return first")
    assert at(b"int fourth")
    assert at(b'{ __LINE__, "one" }')


def test_no_directive_where_numbers_agree_again() -> None:
    new = SOURCE.replace(b"return WARN(x);", b"return WARN(x + 1);")
    assert keep_numbers(SOURCE, new) == new


def test_a_file_with_its_own_numbers_is_left_alone() -> None:
    text = b"int x;\n#line 5\nint y;\n"
    assert keep_numbers(text, b"int z;\n" + text) == b"int z;\n" + text


LINES = st.lists(st.sampled_from([b"a", b"b", b"c;", b"", b"}", b"x = 1;"]), max_size=30)


@settings(max_examples=300)
@given(LINES, LINES)
def test_alignment_is_monotone_and_true(old: list[bytes], new: list[bytes]) -> None:
    numbers = original_numbers(old, new)
    known = [(n, new[i]) for i, n in enumerate(numbers) if n is not None]
    assert all(old[n - 1] == line for n, line in known)
    assert [n for n, _ in known] == sorted({n for n, _ in known})


PIECES = st.sampled_from(
    [b"f(", b")", b"/*", b"*/", b"//", b'"', b"'", b"\\\n", b"\n", b"#if X\n", b"#else\n",
     b"#endif\n", b"#define A(", b"a;", b" ", b"{", b"}", b"\r\n", b"\x0c", b"\xff"]
)  # fmt: skip


@settings(max_examples=500)
@given(st.lists(PIECES, max_size=40), st.lists(PIECES, max_size=40), st.lists(PIECES, max_size=5))
def test_nothing_but_directives_is_added(
    head: list[bytes], tail: list[bytes], new: list[bytes]
) -> None:
    original, patched = b"".join(head + tail), b"".join(head + new + tail)
    assert len(scan(patched)) == patched.count(b"\n") + 1
    numbered = keep_numbers(original, patched)
    assert re.sub(rb"(?m)^#line \d+\n", b"", numbered) == patched
