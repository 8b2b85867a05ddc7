"""What make -n prints, read back as the commands that kbuild would record."""

from __future__ import annotations

from rebootless.compile import commands
from rebootless.compile.kbuild import parse_command

PRINTED = r"""
make -f ./scripts/Makefile.build obj=net/core \
need-builtin=1 \
net/core/dev.o
set -e;  echo '  CC      net/core/dev.o';  gcc-12 -Wp,-MMD,net/core/.dev.o.d -DKBUILD_BASENAME='"dev"' -c -o net/core/dev.o net/core/dev.c   ; ./tools/objtool/objtool --orc   net/core/dev.o; scripts/basic/fixdep net/core/.dev.o.d net/core/dev.o 'gcc-12 -Wp,-MMD,net/core/.dev.o.d -DKBUILD_BASENAME='\''"dev"'\'' -DPRICE=$$1 -c -o net/core/dev.o net/core/dev.c   ; ./tools/objtool/objtool --orc   net/core/dev.o' > net/core/.dev.o.cmd; rm -f net/core/.dev.o.d
set -e; scripts/basic/fixdep arch/x86/kvm/../../../virt/kvm/.main.o.d arch/x86/kvm/../../../virt/kvm/main.o 'gcc-12 -c -o arch/x86/kvm/../../../virt/kvm/main.o virt/kvm/main.c' > arch/x86/kvm/../../../virt/kvm/.main.o.cmd
"""  # noqa: E501 (as make prints it)


def test_commands_are_read_as_kbuild_records_them() -> None:
    found = dict(commands.parse(PRINTED))
    assert list(found) == ["net/core/dev.o", "virt/kvm/main.o"]
    command = parse_command(f"cmd_net/core/dev.o := {found['net/core/dev.o']}\n", "net/core/dev.c")
    compiler, objtool = command.steps
    assert compiler[:3] == ("gcc-12", "-Wp,-MMD,net/core/.dev.o.d", '-DKBUILD_BASENAME="dev"')
    assert "-DPRICE=$1" in compiler and compiler[-1] == "net/core/dev.c"
    assert objtool == ("./tools/objtool/objtool", "--orc", "net/core/dev.o")


def test_a_record_reads_back() -> None:
    text = "cmd_a/b.o := gcc -c -o a/b.o a/b.c\n"
    command = parse_command(text, "a/b.c")
    full = commands.record(
        commands.Command(command.line, command.steps, (), {"symbol": 0xABC, "other": 1}),
        text,
        ["a/b.c", "include/x.h"],
        "a/b.o",
    )
    again = parse_command(full, "a/b.c")
    assert again.line == command.line
    assert again.dependencies == ("a/b.c", "include/x.h")
    assert again.versions == {"symbol": 0xABC, "other": 1}
