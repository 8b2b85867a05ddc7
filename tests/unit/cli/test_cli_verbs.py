"""Verbs end to end, as far as they go without a kernel to patch: real objects, real bundles."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rebootless
from rebootless import pipeline
from rebootless.__main__ import main
from rebootless.bundle.archive import create, read, with_test_log, write
from rebootless.bundle.manifest import Manifest, PatchedFunction, PatchedObject, TargetKernel
from rebootless.cli import options
from rebootless.cli.output import PlainPage
from rebootless.cli.verbs import build as build_verb
from rebootless.engine import choose
from rebootless.engine.base import AUTO
from rebootless.engine.patching import Undone
from rebootless.engine.restored import Comparison
from rebootless.lab.report import verdict_of

SOURCE = """
extern int printk(const char *, ...);
int limit(int n) { return n > %d ? printk("too much") : n; }
int same(int n) { return n * 3; }
"""
FLAGS = [
    "-c",
    "-O2",
    "-ffunction-sections",
    "-fdata-sections",
    "-pg",
    "-mfentry",
    "-fno-pie",
    "-mcmodel=kernel",
]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    package = str(Path(rebootless.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "rebootless", *map(str, arguments)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": package, "PATH": path},
    )  # fmt: skip


@pytest.fixture
def objects(tmp_path: Path) -> tuple[Path, Path, Path]:
    """The same unit twice, and once with another limit."""
    if shutil.which("gcc") is None:
        pytest.skip("there is no gcc")
    found = []
    for name, limit in (("orig", 10), ("again", 10), ("patched", 20)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "unit.c").write_text(SOURCE % limit)
        subprocess.run(["gcc", *FLAGS, "unit.c"], cwd=folder, check=True)
        found.append(folder / "unit.o")
    return found[0], found[1], found[2]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    manifest = Manifest(
        name="fix_it",
        version="1",
        kernel=TargetKernel("1.2.3-none", "ab" * 20, "x86_64", "1.2.3-none SMP", "1.2.3-1"),
        objects=(PatchedObject("vmlinux", (PatchedFunction("f", 0, 10, 12, 4096),)),),
        replace=False,
        toolchain="gcc",
        tool_version="0",
    )
    path = tmp_path / "fix_it.rlp"
    write(create(manifest, {"modules/fix_it.ko": b"no module"}), path)
    return path


def test_diff_answers_by_its_exit_code(objects: tuple[Path, Path, Path]) -> None:
    orig, again, patched = objects
    changed = run("diff", orig, patched)
    assert changed.returncode == 0, changed.stderr
    assert "limit" in changed.stdout
    assert "same" not in changed.stdout
    nothing = run("diff", orig, again)
    assert (nothing.returncode, nothing.stdout) == (3, "no change\n")


def test_diff_as_json(objects: tuple[Path, Path, Path]) -> None:
    facts = json.loads(run("diff", objects[0], objects[2], "--json").stdout)
    assert facts["schema"] == 1
    assert [f["name"] for f in facts["changed"]] == ["limit"]


def test_explain_tells_where_two_objects_differ(
    objects: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    told = run("explain", objects[0], objects[2])
    assert told.returncode == 0, told.stderr
    assert "limit (changed, unit.c" in told.stdout
    assert "cmp $0x14, %edi (was: cmp $0xa, %edi)" in told.stdout
    assert "calls:" in told.stdout and "printk" in told.stdout
    page = tmp_path / "page.html"
    facts = json.loads(run("explain", objects[0], objects[2], "--json", "--html", page).stdout)
    assert facts["kind"] == "objects" and facts["page"] == str(page)
    assert [f["name"] for f in facts["units"][0]["functions"]] == ["limit"]
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_explain_of_objects_that_do_the_same(
    objects: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    assert run("explain", objects[0], objects[1], "--html", page).returncode == 0
    assert "no compiled function to show" in page.read_text()
    assert "no difference" in run("explain", objects[0], objects[1]).stdout


def test_explain_of_one_object(objects: tuple[Path, Path, Path]) -> None:
    told = run("explain", objects[0])
    assert told.returncode == 8 and "one alone" in told.stderr
    assert "hint: give both, `rebootless explain ORIG.o PATCHED.o`" in told.stderr


def test_control_characters_of_names_do_not_reach_the_terminal(tmp_path: Path) -> None:
    told = run("explain", tmp_path / "a\x1b[2J\x07.rlp")
    assert told.returncode == 6 and "a\\x1b[2J\\x07.rlp" in told.stderr
    assert "\x1b" not in told.stderr and "\x07" not in told.stderr


def test_build_does_not_tell_warnings_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal they have been told while the build went on; in a pipe they stand here."""
    warning = {"code": "may-sleep-long", "symbol": "f", "message": "sleeps", "accepted": ""}
    facts = {
        "bundle": "x.rlp", "report": "x.json", "seconds": {}, "begins": {}, "warnings": [warning],
        "manifest": {"name": "x", "kernel": {"release": "6.1"}, "cves": [], "objects": []},
    }  # fmt: skip
    build_verb.render(PlainPage(), facts)
    assert "warning: [may-sleep-long] sleeps\n" in capsys.readouterr().out
    build_verb.render(PlainPage(), facts, told=True)
    page = capsys.readouterr().out
    assert "sleeps" not in page and "Rebootless-Accept: may-sleep-long f" in page


def test_explain_of_a_bundle_without_an_explanation(bundle: Path, tmp_path: Path) -> None:
    told = run("explain", bundle)
    assert told.returncode == 0, told.stderr
    assert "fix_it 1" in told.stdout and "carries no explanation" in told.stdout
    page = tmp_path / "page.html"
    assert run("explain", bundle, "--html", page).returncode == 0
    assert "carries no explanation" in page.read_text()


def test_explain_of_a_bundle_with_nonsense_in_it(bundle: Path, tmp_path: Path) -> None:
    content = read(bundle)
    for number, nonsense in enumerate((b'{"units": 3}', b'{"units": [{}]}', b"[]", b"{")):
        members = {**content.members, "explain.json": nonsense}
        path = tmp_path / f"{number}.rlp"
        write(create(content.manifest, members), path)
        told = run("explain", path)
        assert told.returncode == 8 and "error: " in told.stderr, told.stderr


def test_diff_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_text("no object")
    result = run("diff", path, path)
    assert result.returncode == 4
    assert "not an ELF file" in result.stderr


def test_install_and_uninstall_in_a_root_directory(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("rebootless", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("rebootless is not installed in this environment")
    root = tmp_path / "root"
    installed = run("install", bundle, "--root", root, "--json")
    assert installed.returncode == 0, installed.stderr
    facts = json.loads(installed.stdout)
    assert Path(facts["path"]).read_bytes() == bundle.read_bytes()
    assert (root / "etc/systemd/system/rebootless.service").exists()
    assert run("uninstall", "fix_it", "--root", root).returncode == 0
    assert not Path(facts["path"]).exists()
    again = run("uninstall", "fix_it", "--root", root)
    assert again.returncode == 10
    assert "not installed" in again.stderr


def test_patches_go_by_their_short_names(bundle: Path, tmp_path: Path) -> None:
    if shutil.which("rebootless", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("rebootless is not installed in this environment")
    content = read(bundle)
    manifest = dataclasses.replace(content.manifest, name="rebootless_x")
    named = tmp_path / "x.rlp"
    write(create(manifest, {"modules/rebootless_x.ko": b"no module"}), named)
    root = tmp_path / "root"
    assert run("install", named, "--root", root).returncode == 0
    listed = json.loads(run("list", "--root", root, "--json").stdout)["patches"]
    assert [p["name"] for p in listed if p["installed"]] == ["rebootless_x"]
    assert run("uninstall", "x", "--root", root).returncode == 0


@pytest.mark.parametrize("verdict", ["passed", "failed"])
def test_the_verdict_is_in_the_bundle(verdict: str, bundle: Path) -> None:
    content = with_test_log(read(bundle), f"ok boot\nverdict: {verdict}: as it is\n")
    assert verdict_of(content.test_log or "") == verdict


@pytest.mark.parametrize("cve", ["CVE-26-1", "2026-12345", "bogus", ""])
def test_a_cve_id_has_to_be_one(cve: str, tmp_path: Path) -> None:
    result = run("build", tmp_path / "x.patch", "--cve", cve)
    assert result.returncode == 64
    assert "is not a CVE id" in result.stderr


@pytest.mark.parametrize("verb", ["apply", "install", "inspect", "test"])
def test_a_damaged_bundle_never_gets_anywhere(verb: str, bundle: Path, tmp_path: Path) -> None:
    damaged = bytearray(bundle.read_bytes())
    damaged[60] ^= 0xFF
    bundle.write_bytes(damaged)
    root = ["--root", str(tmp_path / "root")] if verb == "install" else []
    result = run(verb, bundle, *root)
    assert result.returncode == 8
    assert result.stderr.startswith(f"error: {bundle}: ")
    assert not (tmp_path / "root").exists()


def test_inspect_of_a_file_that_is_neither(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("x")
    assert run("inspect", path).returncode == 8


def test_status_has_a_schema() -> None:
    facts = json.loads(run("status", "--json").stdout)
    assert facts["schema"] == 1
    assert facts["release"] == os.uname().release


def test_doctor_answers_for_a_purpose() -> None:
    facts = json.loads(run("doctor", "--json").stdout)
    for purpose in ("apply", "build", "test", "kexec"):
        expected = 0 if facts["can"][purpose]["ok"] else 1
        assert run("doctor", "--for", purpose).returncode == expected


@pytest.mark.parametrize("verb", ["apply", "undo"])
def test_the_command_and_the_api_have_the_same_defaults(verb: str) -> None:
    command = importlib.import_module(f"rebootless.cli.verbs.{verb}").command
    given = command.make_context(verb, ["NAME"]).params
    wanted = inspect.signature(getattr(pipeline, verb)).parameters
    shared = given.keys() & wanted.keys() - {"bundle", "name"}
    assert {"wait", "signal_after", "on_timeout"} <= shared
    assert {n: given[n] for n in shared} == {n: wanted[n].default for n in shared}


def test_every_engine_can_be_asked_for() -> None:
    assert set(options.ENGINES) == {AUTO, *choose.NAMES}


@pytest.mark.parametrize(
    ("compared", "code", "told"),
    [
        (Comparison(True, seconds=3.44), 0, "as shipped (3.4 s)"),
        (
            Comparison(False, ("f+0x5",), 3.5),
            7,
            "1 difference from the shipped image (3.5 s): f+0x5",
        ),
        (Comparison(None, why="no image"), 0, "not compared with the shipped image: no image"),
    ],
)
def test_undo_tells_how_all_code_is_now(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    compared: Comparison,
    code: int,
    told: str,
) -> None:
    undone = Undone("rl_x", None, compared=compared)
    monkeypatch.setattr(pipeline, "undo", lambda name, **options: undone)
    assert main(["undo", "rl_x"]) == code
    assert f"all code:  {told}\n" in capsys.readouterr().out
