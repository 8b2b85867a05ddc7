"""Running compilers side by side, unpacking, and what is said when something is missing."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from rebootless.base.errors import CommandError, CompileError, PatchInputError
from rebootless.compile import kbuild, originals, tree, untar, versions
from rebootless.compile.originals import Variant
from rebootless.compile.runner import Job, Outcome, run_all
from rebootless.provider.base import SourceTarball, SourceTree


def job(name: str, folder: Path, *scripts: str) -> Job:
    return Job(name, folder, tuple(("sh", "-c", script) for script in scripts))


def test_steps_run_in_order_and_jobs_side_by_side(tmp_path: Path) -> None:
    jobs = [job(n, tmp_path, f"echo {n}1 >{n}; sleep 0.3", f"echo {n}2 >>{n}") for n in "ab"]
    seen: list[str] = []
    start = time.monotonic()
    outcomes = run_all(jobs, parallel=2, finished=lambda o: seen.append(o.job.name))
    assert time.monotonic() - start < 0.58
    assert [o.failed for o in outcomes] == [None, None] and sorted(seen) == ["a", "b"]
    assert (tmp_path / "a").read_text() == "a1\na2\n"


def test_a_failed_step_ends_its_job_only(tmp_path: Path) -> None:
    jobs = [job("a", tmp_path, "echo why; exit 3", "touch never"), job("b", tmp_path, "touch yes")]
    a, b = run_all(jobs, parallel=2, finished=lambda o: None)
    assert a.failed == ("sh", "-c", "echo why; exit 3") and a.output == "why\n"
    assert b.failed is None
    assert not (tmp_path / "never").exists() and (tmp_path / "yes").exists()


def test_an_interrupt_leaves_nothing_running(tmp_path: Path) -> None:
    jobs = [job("quick", tmp_path, "true"), job("slow", tmp_path, "sleep 0.6; touch survived")]

    def interrupt(outcome: Outcome) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(jobs, parallel=2, finished=interrupt)
    time.sleep(0.8)
    assert not (tmp_path / "survived").exists()


def test_error_lines_show_the_compiler() -> None:
    output = (
        "fs/a.c: In function 'f':\nfs/a.c:3:5: warning: w\n    3 | x\n"
        "fs/a.c:7:9: error: 'nosuch' undeclared\n    7 |  poff = nosuch;\n      |         ^~~~~~\n"
        "make[1]: *** [fs/a.o] Error 1\n"
    )
    assert originals.error_lines(output) == (
        "  fs/a.c:7:9: error: 'nosuch' undeclared\n"
        "      7 |  poff = nosuch;\n        |         ^~~~~~"
    )
    assert originals.error_lines("Killed\n") == "  Killed"


def test_variants_change_the_flags() -> None:
    step = ("gcc", "-O2", "-ffunction-sections", "-fdata-sections", "-g", "-c", "a.c")
    assert Variant().adapt(step) == step
    assert Variant(sections=False).adapt(step) == ("gcc", "-O2", "-g", "-c", "a.c")
    assert Variant().name != Variant(sections=False).name


def test_missing_programs_are_told_with_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for program in ("make", "gcc", "perl", "patch", "tar", "xz"):
        if path := shutil.which(program):
            (tmp_path / program).symlink_to(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match="flex, bison, bc, gcc-77") as error:
        tree.check_programs("gcc-77")
    assert error.value.hint == "apt install flex bison bc gcc-77"


def source_tree(root: Path) -> Path:
    for name in (
        "Makefile", "fs/a.c", "arch/x86/Kconfig", "arch/arm/kernel/x.c", "Documentation/x.rst",
        "fs/a.o", "fs/.a.o.cmd", "include/generated/x.h", ".config", "vmlinux",
        "arch/x86/kernel/vmlinux.lds.S", ".git/HEAD", "kernel/config/x.c",
    ):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_a_tarball_is_unpacked_without_other_architectures(tmp_path: Path) -> None:
    source_tree(tmp_path / "linux-1")
    subprocess.run(["tar", "cJf", "s.tar.xz", "linux-1"], cwd=tmp_path, check=True)
    (tmp_path / "out").mkdir()
    untar.unpack(SourceTarball(tmp_path / "s.tar.xz"), tmp_path / "out", untar.LEFT_OUT)
    out = tmp_path / "out"
    assert (out / "arch/x86/Kconfig").exists() and (out / "fs/a.c").exists()
    assert not (out / "arch/arm").exists() and not (out / "Documentation").exists()


def test_a_tree_of_ones_own_is_copied_without_what_was_built(tmp_path: Path) -> None:
    source = source_tree(tmp_path / "mine")
    (tmp_path / "out").mkdir()
    untar.unpack(SourceTree(source), tmp_path / "out", ())
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*")}
    assert {"fs/a.c", "arch/x86/kernel/vmlinux.lds.S", "kernel/config/x.c"} <= found
    built = {"fs/a.o", "fs/.a.o.cmd", ".config", "include/generated/x.h", ".git/HEAD"}
    assert not found & built
    assert not (tmp_path / "out/vmlinux").exists()
    (tmp_path / "out/fs/a.c").write_text("changed")
    assert (source / "fs/a.c").read_text() == "fs/a.c"


def test_bad_tarballs(tmp_path: Path) -> None:
    (tmp_path / "s.tar.xz").write_bytes(b"not xz")
    (tmp_path / "out").mkdir()
    with pytest.raises(CommandError, match="xz"):
        untar.unpack(SourceTarball(tmp_path / "s.tar.xz"), tmp_path / "out", ())
    with pytest.raises(PatchInputError, match=r"\.rar"):
        untar.unpack(SourceTarball(tmp_path / "s.rar"), tmp_path / "out", ())


def test_versions_of_both_forms_of_genksyms() -> None:
    text = "cmd_a.o := gcc a.c\n#SYMVER one 0x0000abcd\n__crc_two = 0x12345678;\n# x\n"
    assert kbuild.parse_versions(text) == {"one": 0xABCD, "two": 0x12345678}
    assert dict(kbuild.parse_command(text, "a.c").versions) == kbuild.parse_versions(text)


def test_the_preprocessor_of_a_units_command() -> None:
    step = ("gcc", "-Wp,-MMD,fs/.a.o.d", "-O2", "-c", "-o", "fs/a.o", "fs/a.c")
    assert versions.preprocessor(step) == ("gcc", "-E", "-D__GENKSYMS__", "-O2", "fs/a.c")


def test_objtool_sees_each_unit_where_kbuild_puts_it_off(tmp_path: Path) -> None:
    config = tmp_path / ".config"
    config.write_text("CONFIG_OBJTOOL=y\n# CONFIG_X86_KERNEL_IBT is not set\n")
    assert tree.objtool_now(tmp_path) == ()
    config.write_text("CONFIG_OBJTOOL=y\nCONFIG_X86_KERNEL_IBT=y\n")
    assert tree.objtool_now(tmp_path) == ("is-single-obj-m=y",)
