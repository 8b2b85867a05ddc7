"""Style, types and sizes as tests; and that the documents say what the code does."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import rebootless
from rebootless.base import errors
from rebootless.base.errors import RebootlessError

PROJECT = Path(__file__).parents[2]
SOURCES = sorted((PROJECT / "src").rglob("*.py"))
MAX_FILE = 400  # lines
MAX_FUNCTION = 60
PUBLIC = [
    "BuildResult",
    "ExternalModule",
    "RebootlessError",
    "TranslateResult",
    "apply",
    "boot",
    "build",
    "demo",
    "diff_objects",
    "doctor",
    "engine_build",
    "engine_load",
    "engine_remove",
    "engine_status",
    "engine_unload",
    "explain",
    "fetch",
    "inspect",
    "install",
    "kernels",
    "list_patches",
    "match_object",
    "scaffold",
    "status",
    "test",
    "translate",
    "undo",
    "uninstall",
    "verify",
]

FunctionLike = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def tool(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_ruff() -> None:
    tool("ruff", "check", "src", "tests")


def test_ruff_on_the_setup_script(tmp_path: Path) -> None:
    """It has no suffix, so ruff would not find it by itself."""
    copy = tmp_path / "setup.py"
    shutil.copy(PROJECT / "scripts/setup", copy)
    tool("ruff", "check", "--config", "pyproject.toml", str(copy))


def test_types() -> None:
    tool("mypy")


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PROJECT / "src")))
def test_files_stay_short_and_explain_themselves(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION, f"{node.name} has {length} lines"
    for node in tree.body:
        if isinstance(node, FunctionLike) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_the_public_api_is_what_is_documented() -> None:
    """A change here is a change for everyone who imports rebootless: make it on purpose."""
    assert sorted(rebootless.__all__) == PUBLIC
    documented = re.findall(r"^### `(\w+)", (PROJECT / "docs/api.md").read_text(), re.M)
    assert sorted(documented) == PUBLIC
    for name in PUBLIC:
        assert getattr(rebootless, name).__doc__


def every_error() -> list[type[RebootlessError]]:
    found = [RebootlessError]
    for kind in found:
        found.extend(k for k in kind.__subclasses__() if k.__module__ == errors.__name__)
    return found


@pytest.mark.parametrize("kind", every_error())
def test_every_error_is_in_the_table_of_exit_codes(kind: type[RebootlessError]) -> None:
    table = (PROJECT / "docs/exit-codes.md").read_text()
    assert f"| {kind.exit_code} | `{kind.code}` | `{kind.__name__}` |" in table


def test_the_table_of_exit_codes_has_no_ghosts() -> None:
    named = re.findall(r"\| `(\w+Error)` \|", (PROJECT / "docs/exit-codes.md").read_text())
    assert sorted(named) == sorted(kind.__name__ for kind in every_error())


def test_no_error_class_hides_elsewhere() -> None:
    """Errors of other modules would have no exit code of their own."""
    for path in SOURCES:
        if path.name in ("errors.py", "__main__.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base) for base in node.bases}
                assert not {b for b in bases if b.endswith(("Error", "Exception"))}, node.name
