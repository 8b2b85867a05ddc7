"""What a kernel is spared: foreign bundles, and a transition that Ctrl-C interrupts.

The command itself runs inside a guest. That applying twice, a cut bundle and undoing twice are
refused is in test_engine_verbs.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
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
VERBS = ("apply", "undo")
# A shell has its background jobs ignore Ctrl-C, which Python would leave so.
COMMAND = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path[:0] = {[guest_python.in_guest(n) for n in range(len(SEARCH))]!r}
from rebootless.__main__ import main
sys.exit(main())
"""
LAZY = "encodings.cp437, importlib.resources.readers, importlib.readers"
PLACE = "\t/* Null read succeeds. */\n"
EDITS = {
    "fs/pipe.c": (
        PLACE,
        f'\tif (unlikely(total_len == 424242))\n\t\tpr_info_once("rl_held\\n");\n{PLACE}',
    )
}
IN_TRANSITION = '[ "$(cat /sys/kernel/livepatch/rl_held/transition 2>/dev/null)" = 1 ]'


class Terminal:
    """Runs the command in a guest."""

    def __init__(self, guest: Guest, python: str) -> None:
        self.guest = guest
        self.start = f"{python} -I -S -B /lab/rebootless.py"

    def run(self, arguments: str) -> dict[str, Any]:
        answer = self.guest.run(f"{self.start} {arguments} --json 2>/tmp/stderr", timeout=120)
        return {"exit": answer.status, **json.loads(answer.output)}

    def interrupted(self, arguments: str) -> tuple[int, str]:
        """Sends SIGINT when the transition is under way; the exit code and what was said."""
        script = (
            f"{self.start} {arguments} --wait 300 >/tmp/out 2>/tmp/err & pid=$!\n"
            f"until {IN_TRANSITION}; do [ -d /proc/$pid ] || break; sleep 0.1; done\n"
            "sleep 2; kill -INT $pid; wait $pid"
        )
        status = self.guest.run(script, timeout=120).status
        return status, self.guest.check("cat /tmp/err")

    def state(self) -> str:
        """What the kernel says of the patch: enabled, in transition; "" when it has none."""
        return self.guest.run(
            "cd /sys/kernel/livepatch/rl_held 2>/dev/null && echo $(cat enabled transition)"
        ).output.strip()

    def reader(self) -> int:
        """A process that sleeps in the patched function."""
        pid = self.guest.background("exec cat /tmp/fifo")
        self.guest.check(f"until grep -q pipe_read /proc/{pid}/stack; do sleep 0.1; done")
        return pid


@pytest.fixture(scope="module")
def terminal(
    stock_tree: Tree,
    stock_kernel: KernelFiles,
    edit_patch: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Terminal]:
    folder = tmp_path_factory.mktemp("held")
    patch = edit_patch(stock_tree.orig, EDITS, folder / "held.patch")
    path = folder / "rl_held.rlp"
    pipeline.build([patch], kernel=stock_kernel.release, name="rl_held", output=path)
    bundle = archive.read(path)
    other = replace(bundle.manifest.kernel, build_id="42" * 20)
    foreign = archive.create(replace(bundle.manifest, kernel=other), bundle.members)
    archive.write(foreign, folder / "foreign.rlp")

    verbs = ", ".join(f"rebootless.cli.verbs.{verb}" for verb in VERBS)
    modules = f"{LAZY}, rebootless.__main__, rebootless.pipeline.running, {verbs}"
    python, files = guest_python.python_files(modules, search=SEARCH)
    files |= {
        "/lab/rebootless.py": (COMMAND.encode(), 0o755),
        "/lab/rl_held.rlp": (path.read_bytes(), 0o644),
        "/lab/foreign.rlp": ((folder / "foreign.rlp").read_bytes(), 0o644),
    }
    config = VmConfig(stock_kernel.image, memory_mib=768, cpus=2)
    image = GuestImage(stock_kernel.modules, files=files)
    with Vm(config, image, folder / "console.log") as vm:
        found = Terminal(Guest(vm), python)
        found.guest.check("mkfifo /tmp/fifo")
        found.guest.background("exec sleep 10000 >/tmp/fifo")  # a writer, so that readers wait
        yield found


def test_a_bundle_for_another_build_of_the_kernel(terminal: Terminal) -> None:
    refused = terminal.run("apply /lab/foreign.rlp")
    assert (refused["exit"], refused["error"]["code"]) == (9, "wrong-kernel")
    assert "42" * 20 in refused["error"]["message"] and refused["error"]["hint"]
    assert terminal.guest.run("ls -d /sys/module/rl_held").status != 0


def test_interrupts_are_taken_back(terminal: Terminal) -> None:
    held = terminal.reader()
    status, said = terminal.interrupted("apply /lab/rl_held.rlp")
    assert status == 130, said
    assert "Interrupted: taking applying rl_held back" in said
    assert said.rstrip().endswith("interrupted, nothing was left half-done")
    assert terminal.state() == ""
    assert terminal.guest.run("ls -d /sys/module/rl_held").status != 0, "the module is gone, too"
    terminal.guest.check(f"kill {held}")

    assert terminal.run("apply /lab/rl_held.rlp")["exit"] == 0
    held = terminal.reader()  # sleeps in the new code
    status, said = terminal.interrupted("undo rl_held")
    assert status == 130, said
    assert terminal.state() == "1 0", "as before the undo"
    assert terminal.guest.run(f"kill {held}").status == 0, "the reader never noticed"
