"""The include index on a small tree, through the real grep."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebootless.compile.headers import index, user_space_includes

FILES = {
    "include/linux/a.h": "#include <linux/b.h>\n",
    "include/linux/b.h": "int b;\n",
    "include/uapi/linux/a.h": "#ifndef __KERNEL__\n#include <linux/b.h>\n#endif\n",
    "include/uapi/linux/only.h": "int only;\n",
    "arch/x86/include/generated/asm/w.h": "#include <asm-generic/w.h>\n",
    "include/asm-generic/w.h": "\n",
    "fs/x/local.h": '  #  include "../shared.h"\n',
    "fs/shared.h": "\n",
    "fs/x/one.c": '#include "local.h"\n#include <linux/a.h>\n',
    "fs/x/two.c": "#include <asm/w.h>\n/* #include <linux/a.h> */\n",
    "fs/y/three.c": '#include "local.h"\n',
    "fs/y/local.h": "#include <uapi/linux/a.h>\n",
    "fs/z/four.c": '#include "x/local.h"\n#include "one.c"\n',
    "drivers/d.c": "#include <linux/only.h>\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_text(text)
    return tmp_path / "tree"


@pytest.mark.parametrize(
    ("header", "units"),
    [
        ("include/linux/b.h", {"fs/x/one.c", "fs/z/four.c"}),
        ("fs/shared.h", {"fs/x/one.c", "fs/z/four.c"}),
        ("fs/x/local.h", {"fs/x/one.c", "fs/z/four.c"}),
        ("fs/y/local.h", {"fs/y/three.c"}),
        ("include/asm-generic/w.h", {"fs/x/two.c"}),
        ("include/uapi/linux/only.h", {"drivers/d.c"}),
        ("include/uapi/linux/a.h", {"fs/y/three.c"}),
        ("fs/x/one.c", {"fs/z/four.c"}),
    ],
)
def test_units_that_include(tree: Path, tmp_path: Path, header: str, units: set[str]) -> None:
    found = index(tree, tmp_path / "cache").reach([header])
    assert {path for path in found if path.endswith(".c")} == units
    again = index(tree, tmp_path / "cache").reach([header])
    assert again == found


def test_includes_that_only_user_space_sees(tmp_path: Path) -> None:
    header = tmp_path / "x.h"
    header.write_text(
        "#ifdef __KERNEL__\n#include <k.h>\n#else\n#include <u.h>\n#endif\n"
        "#if !defined(__KERNEL__)\n# if X\n#include <deep.h>\n# endif\n#endif\n"
        "#if defined(__KERNEL__) || defined(OTHER)\n#include <either.h>\n#else\n"
        "#include <neither.h>\n#endif\n#ifndef GUARD\n#include <plain.h>\n#endif\n"
        "#if defined(__KERNEL__)\n#include <k2.h>\n#endif\n"
    )
    assert user_space_includes(header) == {"u.h", "deep.h"}
