"""The core module from the packages that DKMS uses: a kernel's installed headers, no source.

Their makefiles name each other by absolute paths, so the packages are laid over /usr, for the
command alone.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import rebootless
from rebootless.base.events import NullMonitor
from rebootless.compile import core as cores
from rebootless.compile.tree import Tree
from rebootless.elf.reader import ElfFile, parse

pytestmark = pytest.mark.archive

OVERLAID = 'mount -t overlay -o "lowerdir=$1:/usr" none /usr && shift && exec "$@"'
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def with_headers(stock_release: str, tmp_path: Path) -> Run:
    """Runs a program that sees the headers of the stock kernel as installed."""
    common = re.sub(r"(\d)-[a-z].*", r"\1-common", stock_release)
    series = ".".join(stock_release.split(".")[:2])
    names = [f"linux-headers-{stock_release}", f"linux-headers-{common}", f"linux-kbuild-{series}"]
    got = subprocess.run(
        ["apt-get", "-q", "download", *names],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if got.returncode != 0:
        pytest.skip(f"no headers of {stock_release} in apt, so they are NOT tested: {got.stderr}")
    for package in tmp_path.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, tmp_path / "root"], check=True)
    usr = tmp_path / "root/usr"
    (tmp_path / "root/lib/modules").rename(usr / "lib/modules")

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", OVERLAID, "sh", usr, *words],
            capture_output=True, text=True, check=False,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(rebootless.__file__).parents[1]),
                "REBOOTLESS_CACHE": str(tmp_path / "cache"),
            },
        )  # fmt: skip

    if run("true").returncode != 0:
        pytest.skip("nothing can be laid over /usr here: installed headers are NOT tested")
    return run


def interface(module: Path) -> tuple[bytes, list[str], list[str]]:
    """What a kernel looks at when it loads a module: symbol versions, vermagic, what it needs."""
    elf: ElfFile = parse(module.read_bytes(), name=module.name)
    info = bytes(elf.section_by_name[".modinfo"].data).decode().split("\0")
    needed = sorted(s.name for s in elf.symbols if not s.shndx and s.name)
    return (
        bytes(elf.section_by_name["__versions"].data),
        [line for line in info if line.startswith(("vermagic=", "depends=", "retpoline="))],
        needed,
    )


def test_the_core_comes_from_installed_headers(
    with_headers: Run, stock_release: str, stock_tree: Tree, tmp_path: Path
) -> None:
    command = (sys.executable, "-m", "rebootless", "engine")
    kept = ("--root", tmp_path / "kept", "--json")
    done = with_headers(*command, "build", stock_release, "--install", *kept)
    assert done.returncode == 0, done.stdout + done.stderr
    module = Path(json.loads(done.stdout)["path"])
    assert not (tmp_path / "cache/trees").exists(), "no source was prepared"
    by_tree = cores.build_core(cores.Headers.of_tree(stock_tree), NullMonitor())
    assert interface(module) == interface(by_tree.path)
    done = with_headers(*command, "remove", stock_release, *kept)
    assert json.loads(done.stdout)["removed"] == str(module) and not module.exists()
    assert not module.parent.exists()
    assert with_headers(*command, "remove", stock_release, *kept).returncode == 10
