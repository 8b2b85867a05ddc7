"""The extractor on small preprocessed texts: items, names, closure, what stays in the kernel."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from rebootless.base.errors import RefusedError
from rebootless.extract import names
from rebootless.extract.closure import Extraction, Wanted, extract
from rebootless.extract.render import Cover, render
from rebootless.extract.statics import Outside, declaration, keep_locals, prototype
from rebootless.extract.toplevel import Kind, Origin, split

UNIT = """# 0 "a.c"
# 1 "./include/first.h" 1
struct prelude { int x; };
# 0 "<command-line>" 2
# 1 "a.c"
# 1 "./include/types.h" 1
typedef unsigned int u32;
enum color { RED, GREEN = (1 << 2), BLUE };
struct opaque { u32 inside; };
struct list { struct list *next; struct opaque *owner; enum color color : 3; };
# 1 "./include/other.h" 1
static inline u32 twice(u32 x) { return "};{"[0] ? x * 2 : '{'; }
extern int unused(struct list *), (*hook)(int), many[4];
#pragma GCC diagnostic ignored "-Wx"
#pragma pack(1)
_Static_assert(sizeof(u32) == 4, "u32;");
# 3 "a.c" 2
asm(".globl x; x:");
static int counter = 3, other;
static const char *const colors[] = { [RED] = "red", [GREEN] = "green" };
static struct { int a; } pair = { .a = BLUE };
static int private(struct list *l);

static int private(struct list *l)
{
 return l->color + other;
}
static int inlined(int x)
{
 static int calls, more = { 3 };
 if (x) { static const char __func[] = "f"; return __func[0]; }
 return calls++ + more;
}
int changed(struct list *l, u32 n)
{
# 30 "a.c"
 counter += l->color == BLUE;
 return private(l) + inlined(n) + pair.a + twice(n) + (int)sizeof(colors) + colors[0][1];
}
"""


def wanted(**changes: object) -> Wanted:
    outside = {
        "counter": Outside("counter", 2, 4, True),
        "other": Outside("other", 0, 4, True),
        "colors": Outside("colors", 0, 40, True),
        "pair": Outside("pair", 0, 4, True),
        "private": Outside("private", 3, 20, True),
        "changed": Outside("changed", 0, 60, False),
    }
    locals_ = {"calls": Outside("calls.7", 0, 4, True), "more": Outside("more.9", 1, 4, True)}
    values: dict[str, object] = {
        "replaced": ("changed",),
        "carried": frozenset(),
        "outside": outside,
        "local": lambda function, name: locals_.get(name) if function == "inlined" else None,
    }
    return Wanted(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def extraction() -> Extraction:
    return extract(split(UNIT), wanted())


def texts(found: Extraction) -> str:
    return "\n".join(w.text for w in found.written)


def test_items_and_where_they_come_from() -> None:
    unit = split(UNIT)
    found = {name: item for item in unit.items for name in (*item.names, *item.tags)}
    assert found["twice"].kind is found["changed"].kind is Kind.FUNCTION
    assert [i.kind for i in unit.items if i.kind in (Kind.ASM, Kind.ASSERTION)] == [
        Kind.ASSERTION, Kind.ASM,
    ]  # fmt: skip
    assert found["BLUE"] is found["color"] and found["color"].kind is Kind.TYPE
    assert found["counter"] is found["other"] and found["hook"] is found["many"]
    assert unit.origin(found["twice"]) == Origin("include/other.h", 1)
    assert unit.origin(found["counter"]) == Origin("a.c", 4)
    assert "# 30" not in unit.source(found["changed"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("extern int a, *b[3], (*c)(int, char), d(void);", ("a", "b", "c", "d")),
        ("typedef int (fn_t)(struct x *, int y);", ("fn_t",)),
        ("typedef void (*fn_t)(void *data);", ("fn_t",)),
        ("struct x;", ()),
        ("struct x *f(struct y *z) __attribute__((pure, format(printf, 1, 2)));", ("f",)),
        ("static __attribute__((section(\".a\" \"b\"))) typeof(struct x *) v = {};", ("v",)),
        ("extern __typeof__(int (*)(void)) v;", ("v",)),
        ("int (*table[4])(int) = {}, next;", ("table", "next")),
        ("unsigned long flags;", ("flags",)),
        ("extern void *p __asm__(\"q\");", ("p",)),
    ],
)  # fmt: skip
def test_declared_names(text: str, found: tuple[str, ...]) -> None:
    assert names.declared(text) == found


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("static inline __attribute__((always_inline)) int f(int (*g)(void))", "f"),
        ("void (*f(int x))(int)", "f"),
        ("my_type (*f(int x))(int)", "f"),
        ("__attribute__((section(\".a\"))) long __x64_sys_f(const struct pt_regs *regs)",
         "__x64_sys_f"),
    ],
)  # fmt: skip
def test_function_names(header: str, name: str) -> None:
    assert names.function_name(header) == name


def test_mentions_by_name_space() -> None:
    found = names.mentions(
        "struct a *p; struct b v = { .m = q->n, 0x1fUL, \"z\", 'y' }; f(1 ... X);"
    )
    assert found.pointed == {"a"} and found.tags == {"b"} and found.members == {"m", "n"}
    assert found.names == {"p", "v", "q", "f", "X"}
    of_type = names.mentions(
        "struct s { u32 flags; struct t inner; int w:WIDTH, n[SIZE]; void (*fn)(gfp_t); };",
        is_type=True,
    )
    assert {"u32", "WIDTH", "SIZE", "gfp_t"} <= of_type.names and "t" in of_type.tags
    assert not {"flags", "inner", "fn"} & of_type.names


def test_what_is_needed_and_nothing_else(extraction: Extraction) -> None:
    text = texts(extraction)
    assert "typedef unsigned int u32;" in text and "twice" in text and "int inlined(int x)" in text
    assert not re.search(r"unused|prelude|_Static_assert|asm\(|diagnostic", text)
    assert "#pragma pack(1)" in text
    assert "struct opaque;" in text and "inside" not in text, "only a pointer to it is used"
    order = [w.item.start for w in extraction.written]
    assert order == sorted(order)


def test_what_the_kernel_has_is_only_declared(extraction: Extraction) -> None:
    text = texts(extraction)
    assert "extern int private(struct list *l);" in text and "return l->color" not in text
    assert "extern int counter;\nextern int other;" in text
    assert "extern const char *const colors[40 / sizeof(const char *const)];" in text
    assert "extern struct { int a; } pair;" in text and ".a = BLUE" not in text
    assert 'extern int calls __asm__("rebootless_inlined_calls");' in text
    assert 'extern int more __asm__("rebootless_inlined_more");' in text
    assert 'static const char __func[] = "f";' in text
    assert extraction.symbols["rebootless_inlined_more"].symbol == "more.9"
    assert "changed" not in extraction.symbols, "it is global, and defined here"


def test_the_file_is_c(extraction: Extraction) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    unit = split(UNIT)
    text = render(
        unit,
        extraction,
        ("changed",),
        Cover("x.c", "a */ title", "a.c", "m", "6.1", frozenset({"inline", "unused", "x"})),
    )
    assert "#undef inline\n#undef x\n" in text, "nothing is expanded twice"
    assert "a * / title" in text and "/* from include/other.h:1 */" in text
    assert "REBOOTLESS_SYMBOL(m, counter, 2);" in text
    assert 'REBOOTLESS_SYMBOL_AS(m, rebootless_inlined_calls, "calls.7", 0);' in text
    assert text.rstrip().endswith("REBOOTLESS_PATCH(m, changed, changed);")
    code = re.sub(r"^(REBOOTLESS_|#include).*$", "", text, flags=re.M)
    done = subprocess.run(
        ["gcc", "-std=gnu11", "-Werror", "-c", "-o", "/dev/null", "-xc", "-"],
        input=code, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_extracted_is_refused() -> None:
    with pytest.raises(RefusedError, match="'gone' is not in the preprocessed unit"):
        extract(split(UNIT), wanted(replaced=("gone",)))
    mixed = wanted(outside={"counter": Outside("counter", 0, 4, True)})
    with pytest.raises(RefusedError, match="counter, other"):
        extract(split(UNIT), mixed)

    def only_calls(_function: str, name: str) -> Outside | None:
        return Outside("calls.1", 0, 4, True) if name == "calls" else None

    with pytest.raises(RefusedError, match=r"inlined\(\): one declaration .*calls, more"):
        extract(split(UNIT), wanted(local=only_calls))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("static int a = 3;", "extern int a;"),
        ("static int a[2][3] = { { 1 } };", "extern int a[2][3];"),
        ("int a, *b = &x;", "extern int a;\nextern int *b;"),
        ("static int (*a)(int) = f;", "extern int (*a)(int);"),
        (
            'static __attribute__((section(".x"))) struct s a = { .b = 1, .c = { 2 } };',
            'extern __attribute__((section(".x"))) struct s a;',
        ),
    ],
)
def test_declarations_without_values(text: str, found: str) -> None:
    outside = {"a": Outside("a", 0, 24, True), "b": Outside("b", 0, 8, True)}
    assert declaration(text, outside) == found


def test_prototypes() -> None:
    assert prototype("static inline int f(int x)\n") == "extern int f(int x);"
    assert prototype("void *f(void)") == "extern void *f(void);"


def test_static_locals_in_nested_blocks_and_strings() -> None:
    body = '{ log("; static int a = 1;"); if (x) { static int a = f(1), b; a++; } static_call(a); }'
    found = keep_locals(body, lambda name: (f"id_{name}", Outside(name, 0, 4, True)))
    assert '"; static int a = 1;"' in found and "static_call(a)" in found
    assert 'extern int a __asm__("id_a");\nextern int b __asm__("id_b"); a++;' in found
