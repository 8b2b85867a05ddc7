"""The architecture as a test: a folder imports only from lower layers, and nothing goes round.

Imports inside functions count as well (they run), those for type checkers only do not make a cycle
but must respect the layers.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import rebootless

ROOT = Path(rebootless.__file__).parent
LAYERS = {
    "base": 0,
    "elf": 1,
    "kernel": 2,
    "types": 2,
    "provider": 3,
    "patch": 3,
    "compile": 4,
    "diff": 5,
    "match": 5,
    "extract": 5,
    "module": 6,
    "bundle": 6,
    "safety": 6,
    "engine": 7,
    "integrity": 8,
    "lab": 8,
    "report": 8,
    "translate": 8,
    "pipeline": 9,
    "cli": 10,
    "__main__": 11,
}
PUBLIC_DOOR = "rebootless"  # __init__.py: re-exports from the pipeline, imported by no layer
LIGHT = ("engine", "bundle", "base", "kernel.config", "__main__", "cli.root")


@dataclass(frozen=True)
class Import:
    """One import statement's target: a module of ours."""

    source: str
    target: str
    line: int
    for_types: bool


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


@cache
def imports() -> tuple[Import, ...]:
    return tuple(found for name, path in modules().items() for found in imports_of(name, path))


def imports_of(name: str, path: Path) -> Iterator[Import]:
    tree = ast.parse(path.read_text(), str(path))
    typed = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base]) if base else ".".join(above)
            # `from .x import y`: y may be a module of its own, and then it is what is meant
            targets = [
                f"{base}.{a.name}" if f"{base}.{a.name}" in modules() else base for a in node.names
            ]
        else:
            continue
        for target in targets:
            if target.split(".")[0] == "rebootless":
                yield Import(name, target, node.lineno, id(node) in typed)


def folder(module: str) -> str:
    return module.split(".")[1] if "." in module else PUBLIC_DOOR


def test_every_folder_has_a_layer() -> None:
    assert {folder(name) for name in modules()} <= {*LAYERS, PUBLIC_DOOR}


def test_imports_go_down_only() -> None:
    wrong = [
        f"{found.source}:{found.line} imports {found.target}"
        for found in imports()
        if (source := folder(found.source)) != (target := folder(found.target))
        and source != PUBLIC_DOOR
        and (target == PUBLIC_DOOR or LAYERS[target] >= LAYERS[source])
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_goes_round() -> None:
    graph: dict[str, set[str]] = {}
    for found in imports():
        if not found.for_types and found.target != found.source:
            graph.setdefault(found.source, set()).add(found.target)
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in sorted(graph.get(name, ())):
                visit(target, (*path, name))
            done.add(name)

    for name in list(graph):
        visit(name, ())


@pytest.mark.parametrize("part", LIGHT)
def test_what_runs_on_production_machines_needs_little(part: str) -> None:
    """Engine, bundles and the way to them must work where no numpy is installed."""
    ours = [
        n for n in modules() if n == f"rebootless.{part}" or n.startswith(f"rebootless.{part}.")
    ]
    code = "import sys\n" + "".join(f"import {name}\n" for name in ours) + "print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "unidiff", "debian", "iced_x86", "zstandard", "rich"}
    assert not heavy & set(done.stdout.split())


def test_only_the_gateway_starts_programs() -> None:
    allowed = {"rebootless.base.proc"}
    calls = {"run", "Popen", "call", "check_call", "check_output", "system", "popen"}
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                is_program = isinstance(owner, ast.Name) and owner.id in ("subprocess", "os")
                started = is_program and node.func.attr in calls
                assert not started or name in allowed, f"{name}:{node.lineno}"
                shell = [k for k in node.keywords if k.arg == "shell"]
                assert not shell, f"{name}:{node.lineno} uses a shell"


def test_only_main_ends_the_program() -> None:
    for name, path in modules().items():
        if name == "rebootless.__main__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.Call | ast.Raise) else ""
            ends = text.startswith(("sys.exit", "os._exit", "exit(", "raise SystemExit"))
            assert not ends, f"{name}:{getattr(node, 'lineno', 0)}"
