"""Packs the Python that runs these tests into a guest, with only the files that it uses."""

from __future__ import annotations

import json
import re
import sys
from importlib._bootstrap_external import _code_to_hash_pyc  # type: ignore[import-not-found]
from importlib.util import cache_from_source
from pathlib import Path

from rebootless.base.proc import run

SOURCES = Path(__file__).parents[2] / "src"
LIST_FILES = """
import json, sys
sys.path[:0] = sys.argv[1:]
import {modules}
files = [m.__file__ for m in list(sys.modules.values()) if getattr(m, "__file__", None)]
print(json.dumps([sys.executable, *files]))
"""


def python_files(
    modules: str, *, search: tuple[Path, ...] = (SOURCES,)
) -> tuple[str, dict[str, tuple[bytes, int]]]:
    """(path of the interpreter, files by guest path) to import `modules` in a guest.

    `search` is put before Python's own path; the n-th of it is at `in_guest(n)` in the guest, whose
    /tmp is its own. Python itself keeps its place, so that it finds its library as it does here.
    """
    python = str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]
    script = LIST_FILES.format(modules=modules)
    output = run([python, "-I", "-S", "-B", "-c", script, *search], timeout=60).stdout
    paths = {Path(name) for name in json.loads(output)} | {Path(python)}
    library = Path(run([python, "-I", "-S", "-c", "import os; print(os.__file__)"]).stdout.strip())
    paths.add(library)
    for path in [*paths]:
        if path.suffix == ".so" or path == Path(python):
            paths |= shared_libraries(path)
    files = {guest_path(path, search): (path.read_bytes(), 0o755) for path in paths}
    return python, files | compiled(files)


def compiled(files: dict[str, tuple[bytes, int]]) -> dict[str, tuple[bytes, int]]:
    """The same sources as byte code: compiling them takes an emulated machine half a minute."""
    found = {}
    for path, (source, _) in files.items():
        if path.endswith(".py"):
            code = _code_to_hash_pyc(compile(source, path, "exec"), b"\0" * 8, False)
            found[cache_from_source(path)] = (bytes(code), 0o644)
    return found


def in_guest(number: int = 0) -> str:
    """Where the guest has the n-th search path."""
    return f"/lab/python{number}"


def guest_path(path: Path, search: tuple[Path, ...] = (SOURCES,)) -> str:
    """Where the guest has a file."""
    for number, root in enumerate(search):
        if path.is_relative_to(root):
            return f"{in_guest(number)}/{path.relative_to(root)}"
    return str(path)


def shared_libraries(program: Path) -> set[Path]:
    """What the dynamic loader loads for a program, the loader included."""
    output = run(["ldd", program], check=False, timeout=20).stdout
    return {Path(found) for found in re.findall(r"(/\S+) \(0x", output)}
