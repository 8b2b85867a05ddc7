"""Touched paths, by name."""

from __future__ import annotations

import pytest

from rebootless.patch.units import Kind, classify


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("fs/ext4/mballoc.c", Kind.UNIT),
        ("include/linux/fs.h", Kind.HEADER),
        ("arch/x86/kernel/cpu/common.c", Kind.UNIT),
        ("arch/x86/entry/entry_64.S", Kind.REFUSED),
        ("arch/x86/entry/vdso/vma.c", Kind.REFUSED),
        ("arch/x86/realmode/init.c", Kind.REFUSED),
        ("arch/x86/boot/compressed/misc.c", Kind.REFUSED),
        ("arch/x86/purgatory/purgatory.c", Kind.REFUSED),
        ("arch/x86/kernel/vmlinux.lds.S", Kind.REFUSED),
        ("arch/x86/entry/syscalls/syscall_64.tbl", Kind.REFUSED),
        ("fs/ext4/Kconfig", Kind.REFUSED),
        ("fs/ext4/Makefile", Kind.REFUSED),
        ("Kbuild", Kind.REFUSED),
        ("drivers/x/y.rs", Kind.REFUSED),
        ("tools/objtool/check.c", Kind.IGNORED),
        ("Documentation/x.rst", Kind.IGNORED),
        ("samples/livepatch/x.c", Kind.IGNORED),
        ("arch/arm64/mm/fault.c", Kind.IGNORED),
        ("MAINTAINERS", Kind.IGNORED),
    ],
)
def test_kinds(path: str, kind: Kind) -> None:
    entry = classify(path)
    assert entry.kind is kind
    if kind in (Kind.REFUSED, Kind.IGNORED):
        assert entry.reason
    if kind is Kind.REFUSED:
        assert entry.hint


def test_arch_makefile_level_files_are_not_other_architectures() -> None:
    assert classify("arch/Kconfig").kind is Kind.REFUSED
