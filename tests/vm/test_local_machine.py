"""The engine's own system calls: Python runs inside the guest and patches the kernel under it."""

from __future__ import annotations

import json

import guest_python
import pytest

pytestmark = pytest.mark.vm

SCRIPT = """
import json, sys
from pathlib import Path
sys.path.insert(0, SOURCES)
from rebootless.base.errors import RebootlessError
from rebootless.engine import patching, status, text
from rebootless.engine.checks import Wanted
from rebootless.engine.local import LocalMachine
from rebootless.engine.status import PatchedFunction
from rebootless.engine.transition import Policy

machine = LocalMachine()
cmdline = PatchedFunction("vmlinux", "cmdline_proc_show")

def caught(action):
    try:
        return repr(action())
    except RebootlessError as error:
        return f"{type(error).__name__}: {error.message}"

def tell(**values):
    print(json.dumps(values), flush=True)

def code():
    return [b.hex() for b in text.entries(machine, text.locate(machine, [cmdline])).values()]

before = code()
id = status.status(machine).build_id
patch = Path("/lab/patches/rl_cmdline.ko")
applied = patching.apply(machine, patch, wanted=Wanted(build_id=id))
tell(cmdline=Path("/proc/cmdline").read_text(), seconds=applied.transition.seconds,
     ms=applied.transition.kernel_ms, same=code() == before, known=len(before),
     hooked=sorted(text.hooked(machine)), status=status.status(machine).as_json())
tell(again=caught(lambda: patching.apply(machine, patch)),
     raw=caught(lambda: machine.load_module(patch.read_bytes(), name="rl_cmdline")),
     missing=caught(lambda: patching.apply(machine, Path("/lab/patches/rl_missing.ko"))),
     wrong=caught(lambda: patching.apply(machine, patch, wanted=Wanted(build_id="00"))))
undone = patching.undo(machine, "rl_cmdline")
tell(cmdline=Path("/proc/cmdline").read_text(), same=code() == before, remains=undone.remains,
     again=caught(lambda: patching.undo(machine, "rl_cmdline")))
sleeper = __import__("subprocess").Popen(["/bin/sleep", "1000"])
machine.sleep(0.5)
tell(pid=sleeper.pid, stalled=caught(lambda: patching.apply(
    machine, Path("/lab/patches/rl_sleep.ko"), policy=Policy(wait=3))))
sleeper.kill()
machine.write("/proc/sys/kernel/modules_disabled", "1")
tell(disabled=caught(lambda: patching.apply(machine, patch)))
"""


def test_python_in_the_guest_applies_and_undoes(boot):
    modules = "rebootless.engine.patching, rebootless.engine.local, rebootless.engine.text"
    python, files = guest_python.python_files(f"{modules}, subprocess, json")
    script = f"SOURCES = {guest_python.in_guest()!r}\n{SCRIPT}"
    with boot(files={**files, "/lab/test.py": (script.encode(), 0o644)}, memory_mib=768) as lab:
        assert lab.vm.boot_seconds < 60
        status, output = lab.guest.run(f"{python} -I -S -B /lab/test.py", timeout=180)
    assert status == 0, output
    first, second, third, fourth, fifth = map(json.loads, output.splitlines())
    assert first["cmdline"] == "rebootless was here\n"
    assert (first["known"], first["same"], first["hooked"]) == (1, False, ["cmdline_proc_show"])
    assert first["ms"] is not None
    assert first["status"]["livepatches"][0]["state"] == "applied"
    assert second["again"].startswith("StateError: rl_cmdline is already applied")
    assert "[EEXIST]" in second["raw"]
    assert "'rl_no_such_function' not found" in second["missing"]
    assert second["wrong"].startswith("WrongKernelError")
    assert "console=ttyS0" in third["cmdline"]
    assert (third["same"], third["remains"]) == (True, [])
    assert third["again"].startswith("StateError")
    assert f"{fourth['pid']} sleep in hrtimer_nanosleep" in fourth["stalled"]
    assert fourth["stalled"].startswith("StalledError")
    assert "modules_disabled=1" in fifth["disabled"]
