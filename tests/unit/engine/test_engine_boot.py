"""Bundles that are applied at boot: files, unit, and systemd's own opinion of the unit."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from rebootless.base.errors import NotFoundError, PatchInputError, StateError
from rebootless.base.proc import run
from rebootless.engine import boot

RELEASE = "6.1.0-55-cloud-amd64"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "some.rlp"
    path.write_bytes(b"bundle")
    return path


def add(bundle: Path, root: Path, name: str, release: str = RELEASE) -> boot.Installed:
    return boot.install(
        bundle, name=name, release=release, root=root, program="/usr/bin/rebootless"
    )


def test_install_and_uninstall(bundle: Path, tmp_path: Path):
    root = tmp_path / "root"
    add(bundle, root, "one")
    add(bundle, root, "one")  # again: the same
    add(bundle, root, "two", "6.12.0-1-amd64")
    assert [(i.release, i.name) for i in boot.installed(root=root)] == [
        (RELEASE, "one"),
        ("6.12.0-1-amd64", "two"),
    ]
    assert [i.name for i in boot.installed(release=RELEASE, root=root)] == ["one"]
    link = root / "etc/systemd/system/sysinit.target.wants/rebootless.service"
    assert link.is_symlink()
    assert 'rebootless" boot' in link.read_text()
    removed = boot.uninstall("one", release=RELEASE, root=root)
    assert len(removed) == 1
    assert link.is_symlink()
    assert len(boot.uninstall("two", release="6.12.0-1-amd64", root=root)) == 3
    assert not link.is_symlink()
    assert [p for p in root.rglob("*") if p.is_file()] == []


def test_uninstall_of_what_is_not_there(bundle: Path, tmp_path: Path):
    add(bundle, tmp_path, "one")
    with pytest.raises(StateError, match=r"one for 6\.1\.0-55"):
        boot.uninstall("other", release=RELEASE, root=tmp_path)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden"])
def test_names_stay_in_the_store(bundle: Path, tmp_path: Path, name: str):
    with pytest.raises(PatchInputError):
        add(bundle, tmp_path, name)
    with pytest.raises(PatchInputError):
        add(bundle, tmp_path, "one", release=name)


def test_a_missing_bundle_installs_nothing(tmp_path: Path):
    with pytest.raises(NotFoundError):
        add(tmp_path / "none.rlp", tmp_path / "root", "one")
    assert not (tmp_path / "root").exists()


def test_the_unit_quotes_the_program():
    assert 'ExecStart="/opt/a b/50%%/x" boot' in boot.unit_text("/opt/a b/50%/x")
    with pytest.raises(PatchInputError):
        boot.unit_text("rebootless")


def test_systemd_accepts_the_unit(bundle: Path, tmp_path: Path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed, so the unit is NOT verified")
    program = tmp_path / "bin dir" / "rebootless"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    unit = tmp_path / "rebootless.service"
    unit.write_text(boot.unit_text(os.fspath(program)))
    result = run(["systemd-analyze", "verify", "--man=no", unit], check=False, timeout=60)
    said = [li for li in (result.stdout + result.stderr).splitlines() if "rebootless" in li]
    assert said == []
    assert result.returncode == 0, result.stderr
