"""Makefiles of a small tree, asked by the real make; .cmd files as kbuild writes them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rebootless.base.errors import CompileError
from rebootless.compile.kbuild import Fate, Kbuild, parse_command, parse_dependencies, split_steps

needs_make = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")

FILES = {
    "include/config/auto.conf": "CONFIG_A=y\nCONFIG_M=m\nCONFIG_NET=y\n",
    "Kbuild": "obj-y += fs/\n",
    "fs/Makefile": "obj-y += open.o\nobj-$(CONFIG_A) += one/\nobj-$(CONFIG_OFF) += two/\n"
    "obj-y += deep/er/\nccflags-y += $(call cc-option,-Wx)\n",
    "fs/one/Makefile": "obj-$(CONFIG_A) += one.o\none-y := main.o sub/part.o\n"
    "one-$(CONFIG_X) += extra.o\nlib-y += helper.o\nobj-$(CONFIG_Y) += alone.o\n",
    "fs/two/Makefile": "obj-y += two.o\n",
    "fs/deep/er/Kbuild": "obj-$(CONFIG_M) += my-mod.o single.o\nobj-m += other.o\n"
    "my-mod-objs := a.o shared.o ../../../virt/far.o\nother-y := shared.o\n",
}


@pytest.fixture
def kbuild(tmp_path: Path) -> Kbuild:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Kbuild(tmp_path)


@needs_make
@pytest.mark.parametrize(
    ("source", "fate", "modules"),
    [
        ("fs/open.c", Fate.BUILTIN, ()),
        ("fs/one/main.c", Fate.BUILTIN, ()),
        ("fs/one/sub/part.c", Fate.BUILTIN, ()),
        ("fs/one/helper.c", Fate.LIBRARY, ()),
        ("fs/deep/er/a.c", Fate.MODULE, ("fs/deep/er/my-mod",)),
        ("fs/deep/er/single.c", Fate.MODULE, ("fs/deep/er/single",)),
        ("fs/deep/er/shared.c", Fate.MODULE, ("fs/deep/er/my-mod", "fs/deep/er/other")),
        ("virt/far.c", Fate.MODULE, ("fs/deep/er/my-mod",)),
    ],
)
def test_where_a_unit_goes(
    kbuild: Kbuild, source: str, fate: Fate, modules: tuple[str, ...]
) -> None:
    found = kbuild.membership(source)
    assert (found.fate, found.modules) == (fate, modules)
    assert found == kbuild.membership_if_built(source)


@needs_make
@pytest.mark.parametrize(
    ("source", "makefile", "options"),
    [
        ("fs/one/extra.c", "fs/one/Makefile", ("CONFIG_X",)),
        ("fs/one/alone.c", "fs/one/Makefile", ("CONFIG_Y",)),
        ("fs/two/two.c", "fs/Makefile", ("CONFIG_OFF",)),
        ("fs/one/included.c", "fs/one/Makefile", ()),
    ],
)
def test_what_is_off_and_why(
    kbuild: Kbuild, source: str, makefile: str, options: tuple[str, ...]
) -> None:
    found = kbuild.membership(source)
    assert (found.fate, found.makefile, found.options) == (Fate.OFF, makefile, options)
    assert kbuild.membership_if_built(source) is None


@needs_make
def test_target_of_a_unit_built_from_elsewhere(kbuild: Kbuild) -> None:
    assert kbuild.membership("virt/far.c").target == "fs/deep/er/../../../virt/far.o"


CMD = r"""savedcmd_fs/a.o := gcc-12 -Wp,-MMD,fs/.a.o.d -DX='"a b"' -Dh=$(pound)1 -D'd=$$x' -c -o fs/a.o fs/a.c  ; ./tools/objtool/objtool --orc fs/a.o

source_fs/a.o := fs/a.c

deps_fs/a.o := \
    $(wildcard include/config/A) \
  include/linux/kconfig.h \
  arch/x86/kvm/../../../virt/x.h \
    $(wildcard include/config/B) \

fs/a.o: $(deps_fs/a.o)
"""  # noqa: E501


def test_command_file() -> None:
    command = parse_command(CMD, "fs/a.c")
    assert command.steps == (
        ("gcc-12", "-Wp,-MMD,fs/.a.o.d", '-DX="a b"', "-Dh=#1", "-Dd=$x", "-c", "-o", "fs/a.o",
         "fs/a.c"),
        ("./tools/objtool/objtool", "--orc", "fs/a.o"),
    )  # fmt: skip
    assert command.dependencies == ("include/linux/kconfig.h", "arch/x86/kvm/../../../virt/x.h")
    older = parse_command(CMD.replace("savedcmd_", "cmd_"), "fs/a.c")
    assert older.steps == command.steps


def test_not_a_command_file() -> None:
    with pytest.raises(CompileError, match=r"fs/a\.c"):
        parse_command("garbage", "fs/a.c")


@pytest.mark.parametrize("line", ["a && b", "a | b", "a > f", "(a ; b)", "a `b`", 'a "$(b)"'])
def test_what_needs_a_shell_is_not_split(line: str) -> None:
    assert split_steps(line) == ()


def test_dependency_file() -> None:
    text = "fs/a.o: fs/a.c include/x.h \\\n include/y.h\n"
    assert parse_dependencies(text) == ("fs/a.c", "include/x.h", "include/y.h")
