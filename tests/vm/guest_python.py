"""Packs the Python that runs these tests into a guest, with only the files that it uses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from rebootless.base.proc import run

SOURCES = Path(__file__).parents[2] / "src"
LIST_FILES = """
import json, sys
sys.path.insert(0, sys.argv[1])
import {modules}
files = [m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
print(json.dumps([sys.executable, *files]))
"""


def python_files(modules: str) -> tuple[str, dict[str, tuple[bytes, int]]]:
    """(path of the interpreter, files by guest path) to import `modules` in a guest.

    Everything keeps its path, so that the interpreter finds its library as it does here.
    """
    python = str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]
    script = LIST_FILES.format(modules=modules)
    output = run([python, "-I", "-S", "-B", "-c", script, SOURCES], timeout=60).stdout
    paths = {Path(name) for name in json.loads(output)} | {Path(python)}
    library = Path(run([python, "-I", "-S", "-c", "import os; print(os.__file__)"]).stdout.strip())
    paths.add(library)
    for path in [*paths]:
        if path.suffix == ".so" or path == Path(python):
            paths |= shared_libraries(path)
    files = {str(path): (path.read_bytes(), 0o755) for path in paths}
    files |= {str(p): (p.read_bytes(), 0o644) for p in (SOURCES / "rebootless").glob("py.typed")}
    return python, files


def shared_libraries(program: Path) -> set[Path]:
    """What the dynamic loader loads for a program, the loader included."""
    output = run(["ldd", program], check=False, timeout=20).stdout
    return {Path(found) for found in re.findall(r"(/\S+) \(0x", output)}
