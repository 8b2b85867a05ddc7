"""Lines of a patch by the numbers that the compiler gives them."""

from __future__ import annotations

from rebootless.patch.lines import keep_numbers
from rebootless.report.patchview import DiffLine, read

DIFF = """Subject: title

Body of the message.
---
 a.c | 3 ++-
--- a/a.c
+++ b/a.c
@@ -2,5 +2,6 @@ int f(void)
 two
-three
+drei
+und
 four
 five
 six
"""


def found(line: DiffLine | None) -> tuple[str, str] | None:
    return (line.mark, line.text) if line else None


def test_numbers_of_both_sides() -> None:
    view = read(DIFF)
    assert view.message == "Body of the message."
    assert found(view.find(["f", "a.c", 3], "old", differs=True)) == ("-", "three")
    assert found(view.find(["f", "a.c", 3], "new", differs=True)) == ("+", "drei")
    # The second added line is the fourth to the compiler, and so is the unchanged one.
    assert found(view.find(["f", "a.c", 4], "new", differs=True)) == ("+", "und")
    assert found(view.find(["f", "a.c", 4], "new", differs=False)) == (" ", "four")
    assert found(view.find(["f", "a.c", 4], "old", differs=True)) == (" ", "four")
    assert view.find(["f", "a.c", 3], "new", differs=False) is None
    assert view.find(["f", "a.c", 99], "old", differs=True) is None
    assert view.find(["f", "b.c", 3], "old", differs=True) is None


def test_the_numbers_are_those_that_the_compiler_sees() -> None:
    """With the #line directives that the build inserts."""
    old = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n"
    new = b"one\ntwo\ndrei\nund\nfour\nfive\nsix\nseven\n"
    numbers = {}
    number = 0
    for line in keep_numbers(old, new).decode().splitlines():
        if line.startswith("#line"):
            number = int(line.split()[1]) - 1
            continue
        number += 1
        numbers[line] = number
    view = read(DIFF)
    for text in ("drei", "und"):
        assert found(view.find(["f", "a.c", numbers[text]], "new", differs=True)) == ("+", text)
    for text in ("two", "four", "six"):
        assert found(view.find(["f", "a.c", numbers[text]], "new", differs=False)) == (" ", text)


def test_what_is_no_diff_is_shown_as_it_is() -> None:
    source = "/* by hand */\nint f(void) { return 1; }\n"
    view = read(source)
    assert view.files == () and view.raw == source
    broken = "--- a/x\n+++ b/x\n@@ -1,5 +1,5 @@\n one\n"
    assert read(broken).raw == broken


SYSCALL = """--- a/s.c
+++ b/s.c
@@ -5,4 +5,8 @@ SYSCALL_DEFINE1(olduname, struct old_utsname __user *, name)
 }
 #endif
 
+static bool is_fine(const char *text)
+{
+\treturn text[0];
+}
 SYSCALL_DEFINE2(sethostname, char __user *, name, int, len)
"""


def test_a_new_function_above_does_not_take_the_lines_of_the_one_below() -> None:
    """Line 8 is both the first of is_fine() and the head of the system call."""
    view = read(SYSCALL)
    new = view.find(["is_fine", "s.c", 8], "new", differs=True)
    assert found(new) == ("+", "static bool is_fine(const char *text)")
    old = view.find(["__do_sys_sethostname", "s.c", 8], "new", differs=True)
    assert found(old) == (" ", "SYSCALL_DEFINE2(sethostname, char __user *, name, int, len)")
    assert view.find(["__do_sys_sethostname", "s.c", 10], "new", differs=True) is None
    assert view.files[0].hunks[0].lines[-1].function == "sethostname"
    assert view.files[0].hunks[0].lines[0].function == "olduname"
    assert view.files[0].hunks[0].lines[1].function == ""
