"""A scaffold of a small unit: the words of the source, where they say what is compiled."""

from __future__ import annotations

from rebootless.extract.closure import Wanted, extract
from rebootless.extract.scaffold import Draft, scaffold
from rebootless.extract.statics import Outside
from rebootless.extract.toplevel import split

SOURCE = """#define pr_fmt(fmt) "x: " fmt
#include <linux/fs.h>
#ifdef CONFIG_OFF
#include <linux/off.h>
#endif
#ifdef CONFIG_NONE
#define UNUSED 1
#endif
#define CREATE_TRACE_POINTS
#include "own.h"
#define LIMIT (BASE + \\
	1)
#define BASE 7
struct mine { int a; };	/* kept */
static DEFINE_THING(state);
static int helper(struct mine *m);
static int helper(struct mine *m) { return m->a; }
static inline int small(int x) { return x + 1; }
/* What it does. */
int shown(struct mine *m)
{
	static int calls = LIMIT;	/* how often */
	static DEFINE_THING(lock);

	return helper(m) + small(calls++) + state + lock;
}
int plain(void)
{
	static int calls = LIMIT;	/* how often */

	return calls++;
}
"""
FIRST = SOURCE[: SOURCE.index("struct mine")].count("\n") + 1
PLAIN = SOURCE[: SOURCE.index("int plain")].count("\n") + 1
PREPROCESSED = (
    '# 1 "u.c"\n# 0 "<command-line>"\n# 1 "u.c"\n# 1 "include/linux/fs.h" 1\nint from_header;\n'
    f'# {FIRST} "u.c" 2\n'
    + SOURCE[SOURCE.index("struct mine") :]
    .replace("DEFINE_THING(state)", "int state = 1")
    .replace("DEFINE_THING(lock)", "int lock = 1")
    .replace("LIMIT", "(7 + 1)")
    .replace("\t/* kept */", "")
    .replace("/* What it does. */", "")
)


def made(*functions: str) -> str:
    outside = {
        name: Outside(name, 0, 4, name in ("state", "helper"))
        for name in ("state", "helper", "shown", "plain")
    }
    locals_ = {"calls": Outside("calls.3", 2, 4, True), "lock": Outside("lock.4", 0, 4, True)}
    wanted = Wanted(functions, frozenset(), outside, lambda function, name: locals_.get(name))
    unit = split(PREPROCESSED)
    found = extract(unit, wanted, whole_types=True)
    return scaffold(unit, found, wanted, SOURCE, Draft("s.c", "u.c", "mod", "6.1"))


def test_the_words_of_the_source() -> None:
    text = made("plain")
    assert 'extern int calls __asm__("rebootless_plain_calls");\t/* how often */' in text
    assert "static int new_plain(void)\n{" in text
    assert "REBOOTLESS_PATCH(mod, plain, new_plain);" in text
    assert 'REBOOTLESS_SYMBOL_AS(mod, rebootless_plain_calls, "calls.3", 2);' in text
    assert f"/* u.c:{PLAIN}. Change it here. */" in text
    assert "struct mine" not in text and "helper" not in text


def test_state_hidden_in_a_macro_is_kept_as_well() -> None:
    text = made("shown")
    assert 'extern int lock __asm__("rebootless_shown_lock");' in text
    assert "DEFINE_THING" not in text
    assert "extern int state;" in text and "REBOOTLESS_SYMBOL(mod, state, 0);" in text
    assert "extern int helper(struct mine *m);" in text
    assert "static inline int small(int x) { return x + 1; }" in text
    assert "struct mine { int a; };\t/* kept */" in text


def test_includes_and_macros() -> None:
    text = made("plain", "shown")
    assert "#ifdef CONFIG_OFF\n#include <linux/off.h>\n#endif\n" in text
    assert "CONFIG_NONE" not in text and "CREATE_TRACE_POINTS" not in text
    assert text.index("pr_fmt") < text.index("<linux/fs.h>") < text.index('"own.h"')
    assert "LIMIT" not in made("plain").partition("REBOOTLESS_UNIT")[0], "nothing mentions it"
