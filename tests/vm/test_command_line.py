"""The command itself, inside a guest: what an administrator types, on the kernel it changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import guest_python
import pytest

from rebootless import pipeline
from rebootless.bundle import archive
from rebootless.compile.tree import Tree
from rebootless.lab.guest import Guest
from rebootless.lab.image import GuestImage
from rebootless.lab.vm import Vm, VmConfig
from rebootless.provider.base import KernelFiles

pytestmark = pytest.mark.vm

SEARCH = (guest_python.SOURCES, Path(click.__file__).parents[1])
VERBS = ("apply", "boot", "doctor", "install", "list", "status", "undo", "uninstall")
COMMAND = f"""
import sys
sys.path[:0] = {[guest_python.in_guest(n) for n in range(len(SEARCH))]!r}
sys.argv[0] = "/usr/bin/rebootless"
from rebootless.__main__ import main
sys.exit(main())
"""
# what Python itself imports late
LAZY = "encodings.cp437, importlib.resources.readers, importlib.readers"
END = "\t\tutsname()->version);\n"
EDITS = {"fs/proc/version.c": (END, f'{END}\tseq_puts(m, "by hand\\n");\n')}


class Terminal:
    """Runs the command in a guest."""

    def __init__(self, guest: Guest, python: str) -> None:
        self.guest = guest
        self.start = f"{python} -I -S -B /lab/rebootless.py"

    def run(self, arguments: str) -> tuple[int, str]:
        answer = self.guest.run(f"{self.start} {arguments} 2>/tmp/stderr", timeout=120)
        return answer.status, answer.output

    def json(self, arguments: str) -> dict[str, Any]:
        status, output = self.run(f"{arguments} --json")
        assert output, self.guest.run("cat /tmp/stderr").output
        facts = json.loads(output)
        assert facts["schema"] == 1
        return {"exit": status, **facts}

    def succeeds(self, arguments: str) -> dict[str, Any]:
        facts = self.json(arguments)
        assert facts["exit"] == 0, facts
        return facts


@pytest.fixture(scope="module")
def bundle(
    stock_tree: Tree,
    stock_release: str,
    edit_patch: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    patch = edit_patch(stock_tree.orig, EDITS, folder / "version.patch")
    return pipeline.build(
        [patch], kernel=stock_release, name="rl_cli", output=folder / "rl_cli.rlp"
    ).bundle_path


def test_apply_status_undo_and_boot(
    bundle: Path, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    verbs = ", ".join(f"rebootless.cli.verbs.{verb}" for verb in VERBS)
    modules = f"{LAZY}, rebootless.__main__, rebootless.pipeline.running, {verbs}"
    python, files = guest_python.python_files(modules, search=SEARCH)
    unit = guest_python.SOURCES / "rebootless/engine/units/rebootless.service"
    files |= {
        guest_python.guest_path(unit): (unit.read_bytes(), 0o644),
        "/lab/rebootless.py": (COMMAND.encode(), 0o755),
        "/usr/bin/rebootless": (b"#!/bin/sh\n", 0o755),
        "/lab/rl_cli.rlp": (bundle.read_bytes(), 0o644),
        "/lab/cut.rlp": (bundle.read_bytes()[:-100], 0o644),
    }
    config = VmConfig(stock_kernel.image, memory_mib=768, cpus=2)
    image = GuestImage(stock_kernel.modules, files=files)
    with Vm(config, image, tmp_path / "console.log") as vm:
        terminal = Terminal(Guest(vm), python)
        assert terminal.succeeds("apply /lab/rl_cli.rlp")["name"] == "rl_cli"
        assert terminal.guest.check("cat /proc/version").endswith("by hand\n")
        facts = terminal.succeeds("status --verbose")
        assert facts["build_id"] == archive.read(bundle).manifest.kernel.build_id
        (patch,) = facts["patches"]
        assert patch["state"] == "applied"
        assert [f["name"] for f in patch["functions"]] == ["version_proc_show"]
        assert "rl_cli" in terminal.run("status")[1]
        again = terminal.json("apply /lab/rl_cli.rlp")
        assert (again["exit"], again["error"]["code"]) == (10, "state")
        assert terminal.json("apply /lab/cut.rlp")["exit"] == 8
        terminal.succeeds("doctor --for apply")
        terminal.succeeds("undo rl_cli")
        assert "by hand" not in terminal.guest.check("cat /proc/version")
        assert terminal.json("undo rl_cli")["exit"] == 10
        terminal.succeeds("install /lab/rl_cli.rlp")
        assert [p["installed"] for p in terminal.succeeds("list")["patches"]] == [
            stock_kernel.release
        ]
        assert terminal.succeeds("boot")["patches"] == [{"name": "rl_cli", "state": "applied"}]
        assert terminal.guest.check("cat /proc/version").endswith("by hand\n")
        terminal.succeeds("uninstall rl_cli")
        assert terminal.json("uninstall rl_cli")["exit"] == 10
