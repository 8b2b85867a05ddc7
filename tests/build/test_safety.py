"""Safety checks on the kernel itself: entries, threads, and a build with accepted warnings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rebootless import pipeline
from rebootless.base.events import NullMonitor
from rebootless.base.workdir import Workdir
from rebootless.bundle import archive
from rebootless.compile.originals import Variant
from rebootless.compile.reach import HeaderReach
from rebootless.compile.tree import Tree
from rebootless.compile.unit import UnitPair, build_originals
from rebootless.elf.reader import read
from rebootless.patch.source import load
from rebootless.pipeline.copies import search
from rebootless.pipeline.job import Job
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.provider.base import KernelFiles
from rebootless.safety.code import CodeUnit
from rebootless.safety.entries import Entry, ImageEntries, ModuleEntries
from rebootless.safety.quiescence import forecast
from rebootless.safety.semantics import compare

Edits = dict[str, tuple[str, str]]
READ_START = "\t/* Null read succeeds. */\n"


def test_entries_of_the_shipped_kernel(stock_kernel: KernelFiles) -> None:
    kernel = ShippedKernel(stock_kernel)
    entries = ImageEntries(kernel.image, kernel.symbols)
    assert entries.entry("version_proc_show", 0) == Entry(("version_proc_show",), True)
    untraced = entries.entry("__schedule", 0)
    assert untraced is not None and untraced.traced is False
    assert entries.entry("no_such_function", 0) is None
    several = entries.entry("__x64_sys_getpid", 0)
    assert several is not None and "__ia32_sys_getpid" in several.names
    module = ModuleEntries(kernel.module("loop"))
    assert module.entry("loop_queue_rq", 0) == Entry(("loop_queue_rq",), True)
    assert module.entry("loop_queue_rq", 2) is None


def test_threads_and_sleepers_of_the_kernel_are_known(stock_tree: Tree) -> None:
    wanted = {
        "kernel/audit.c": {"kauditd_thread": "always-on-stack"},
        "mm/oom_kill.c": {"oom_reaper": "always-on-stack"},
        "fs/pipe.c": {"pipe_read": "may-sleep-long", "pipe_write": "may-sleep-long"},
        "fs/proc/version.c": {},
    }
    objects = build_originals(stock_tree, list(wanted), NullMonitor(), variant=Variant())
    for source, expected in wanted.items():
        code = CodeUnit(read(objects[source]))
        found = {f.symbol: f.code for f in forecast(code, code.functions).warnings}
        assert found.items() >= expected.items()
        assert len(found) <= len(code.functions) / 4, "most functions are left in time"
        same = compare(code, CodeUnit(read(objects[source])), {n: n for n in code.functions})
        assert {w.code for w in same.warnings} <= {"address-in-data"}
    assert not found


def test_accepted_warnings_are_kept_and_not_repeated(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: Callable[[Path, Edits, Path], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    check = "\tif (unlikely(total_len > 0x7ffff000))\n\t\treturn -E2BIG;\n"
    patch = edit_patch(
        stock_tree.orig, {"fs/pipe.c": (READ_START, check + READ_START)}, tmp_path / "p.patch"
    )
    header = (
        "Rebootless-Accept: may-sleep-long pipe_read\n"
        "Rebootless-Accept: lock-count-changed pipe_read\n"
    )
    patch.write_text(header + patch.read_text())
    result = pipeline.build(
        [patch],
        kernel=stock_release,
        name="rl_accept",
        output=tmp_path / "out.rlp",
        workdir=tmp_path / "work",
    )
    warnings = {
        (w.code, w.symbol): w.accepted for w in archive.read(tmp_path / "out.rlp").manifest.warnings
    }
    assert warnings == {
        ("may-sleep-long", "pipe_read"): True,
        ("error-values-changed", "pipe_read"): False,
        ("accept-unused", "pipe_read"): False,
    }
    assert [w.accepted for w in result.warnings] == list(warnings.values())
    (error,) = (w for w in result.warnings if w.code == "error-values-changed")
    assert "new is -E2BIG" in error.message


def test_a_header_of_code_that_is_not_rebuilt(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: Callable[[Path, Edits, Path], Path],
    tmp_path: Path,
) -> None:
    """What unpacks the kernel itself is compiled from the same inline functions."""
    header = "lib/xz/xz_lzma2.h"
    edits = {header: ("return state < LIT_STATES;", "return state < LIT_STATES - 1;")}
    result = pipeline.build(
        [edit_patch(stock_tree.orig, edits, tmp_path / "xz.patch")],
        kernel=stock_release,
        name="rl_xz",
        output=tmp_path / "out.rlp",
        workdir=tmp_path / "work",
    )
    (warning,) = (w for w in result.warnings if w.code == "inline-copies")
    assert warning.symbol == header
    for part in ("rebuilt: 1;", "patch: 1)", "decompress_unxz.c", "misc.c"):
        assert part in warning.message, warning.message


def test_copies_are_searched_for_in_shipped_code(
    stock_kernel: KernelFiles,
    stock_tree: Tree,
    edit_patch: Callable[[Path, Edits, Path], Path],
    tmp_path: Path,
) -> None:
    """As if no unit had been rebuilt, or one: the old audit_getname() calls __audit_getname()."""
    header, unit = "include/linux/audit.h", "fs/namei.c"
    old = "\tif (unlikely(!audit_dummy_context()))\n\t\t__audit_getname(name);"
    patch = load([edit_patch(stock_tree.orig, {header: (old, f"\tbarrier();\n{old}")},
                             tmp_path / "audit.patch")])  # fmt: skip
    kernel = ShippedKernel(stock_kernel)
    job = Job("rl", "1", patch, kernel, False, (), Workdir(tmp_path), NullMonitor(),
              tree=stock_tree)  # fmt: skip
    (found,) = search(job, HeaderReach((header,), 1), {})
    assert (found.inline, found.target) == ("audit_getname", "__audit_getname")
    assert {name.strip("'").partition(".")[0] for name in found.callers} == {
        "getname_flags", "getname_kernel",
    }  # fmt: skip
    built = build_originals(stock_tree, [unit], NullMonitor(), variant=Variant())
    pair = UnitPair(unit, "vmlinux", "", built[unit], built[unit])
    (found,) = search(replace(job, pairs=(pair,)), HeaderReach((header,), 1), {})
    assert (found.target, found.callers) == ("__audit_getname", ())


def test_copies_that_are_functions_of_their_own(
    stock_kernel: KernelFiles,
    stock_tree: Tree,
    edit_patch: Callable[[Path, Edits, Path], Path],
    tmp_path: Path,
) -> None:
    """bitmap_empty() is not put into all of its callers; each unit has its own then."""
    header, name = "include/linux/bitmap.h", "bitmap_empty"
    text = (stock_tree.orig / header).read_text()
    start = text.index(f"{name}(const unsigned long")
    old = text[start : text.index("{", start) + 2]
    patch = load([edit_patch(stock_tree.orig, {header: (old, f"{old}\tbarrier();\n")},
                             tmp_path / "bitmap.patch")])  # fmt: skip
    kernel = ShippedKernel(stock_kernel)
    job = Job("rl", "1", patch, kernel, False, (), Workdir(tmp_path), NullMonitor(),
              tree=stock_tree)  # fmt: skip
    (found,) = search(job, HeaderReach((header,), 1), {})
    own = [n for n in kernel.symbols.table.names if n.partition(".")[0] == name]
    assert found.inline == name and 0 < found.copies <= len(own)


def test_copies_in_modules_of_other_origin(
    stock_kernel: KernelFiles,
    stock_tree: Tree,
    edit_patch: Callable[[Path, Edits, Path], Path],
    tmp_path: Path,
) -> None:
    """A shipped module stands for one of other origin: it is compiled from the old header."""
    header = "include/net/sock.h"
    old = "\tif (unlikely(READ_ONCE(sk->sk_backlog.tail))) {"
    patch = load([edit_patch(stock_tree.orig, {header: (old, f"\tbarrier();\n{old}")},
                             tmp_path / "sock.patch")])  # fmt: skip
    kernel = ShippedKernel(stock_kernel)
    job = Job("rl", "1", patch, kernel, False, (), Workdir(tmp_path), NullMonitor(),
              tree=stock_tree)  # fmt: skip
    assert kernel.files.modules is not None
    paths = {name: next(kernel.files.modules.rglob(f"{name}.ko")) for name in ("tls", "dummy")}
    (found,) = search(job, HeaderReach((header,), 1), paths)
    assert (found.inline, found.target) == ("sk_flush_backlog", "__sk_flush_backlog")
    assert {name for name in found.callers if " of " in name} == {"'tls_sw_recvmsg' of tls"}
