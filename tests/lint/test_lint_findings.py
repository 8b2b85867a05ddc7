"""Every code of a finding is in docs/findings.md, and every code there is one of the program's."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from rebootless.safety.accept import ACCEPTABLE

PROJECT = Path(__file__).parents[2]
MAKERS = ("Finding", "Refusal", "Rule", "find", "finding")  # how names of what makes findings end
CODE = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)+")
ROW = re.compile(r"^\| `([a-z0-9-]+)` \| ([a-z, ]+) \| (.+) \| (.+) \|$", re.M)
KINDS = ("refused", "warning", "refused, warning", "refused, acceptable")


def table() -> list[tuple[str, str, str, str]]:
    return ROW.findall((PROJECT / "docs/findings.md").read_text())


def codes_in(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(MAKERS):
            literal = [a.value for a in node.args[:2] if isinstance(a, ast.Constant)]
            yield from (a for a in literal if isinstance(a, str) and CODE.fullmatch(a))


def strings_in(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


SOURCES = sorted((PROJECT / "src").rglob("*.py"))


def test_every_code_is_documented() -> None:
    documented = {code for code, *_ in table()}
    missing = {
        f"{path.name}: {code}"
        for path in SOURCES
        for code in codes_in(path)
        if code not in documented
    }
    assert not missing, "docs/findings.md lacks: " + ", ".join(sorted(missing))


def test_the_table_has_no_ghosts_and_is_sorted() -> None:
    codes = [code for code, *_ in table()]
    assert codes == sorted(set(codes))
    known = set().union(*map(strings_in, SOURCES))
    assert not set(codes) - known
    assert {kind for _, kind, *_ in table()} <= set(KINDS)
    acceptable = {code for code, kind, *_ in table() if "acceptable" in kind}
    assert acceptable == ACCEPTABLE
    rows = [r for r in (PROJECT / "docs/findings.md").read_text().splitlines() if r[:3] == "| `"]
    assert len(rows) == len(codes), "a row does not have the form of the others"
