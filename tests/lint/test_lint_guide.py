"""The guide for patch authors shows the examples that are built and run, and every macro."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
GUIDE = (PROJECT / "docs/patch-author-guide.md").read_text()
EXAMPLES = PROJECT / "src/rebootless/examples"
HEADER = (PROJECT / "src/rebootless/kmod/rebootless.h").read_text()
BLOCK = re.compile(
    r"^\[`([\w.]+)`\]\(\.\./src/rebootless/examples/\1\):\n\n```diff\n(.*?)```$", re.M | re.S
)
SHOWN = dict(BLOCK.findall(GUIDE))
OF_THE_DEMO = {"proc_version.patch"}
SHORTER = {"pipe_state_1.patch": "pipe_state_2.patch"}  # told by what differs


@pytest.mark.parametrize("name", sorted(p.name for p in EXAMPLES.glob("*.patch")))
def test_example_is_shown_as_it_is(name: str) -> None:
    if name in OF_THE_DEMO:
        return
    text = (EXAMPLES / name).read_text()
    if name in SHORTER:
        assert name in GUIDE
        other = (EXAMPLES / SHORTER[name]).read_text()
        assert code(text).replace("8192", "4096").replace("STATE, 1)", "STATE, 2)") == code(other)
        return
    assert SHOWN[name] == text


def code(patch: str) -> str:
    return patch[patch.index("--- a/") :]


def test_no_code_but_the_examples() -> None:
    assert GUIDE.count("```") == 2 * len(SHOWN) > 0
    assert {f"{name}" for name in SHOWN} <= {p.name for p in EXAMPLES.iterdir()}


def test_every_macro_is_explained() -> None:
    macros = set(re.findall(r"^#define (REBOOTLESS_\w+)", HEADER, re.M))
    assert macros and not {m for m in macros if f"`{m}" not in GUIDE}


def test_links_lead_somewhere() -> None:
    anchors = {
        re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-")
        for h in re.findall(r"^#+ (.*)$", GUIDE, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", GUIDE):
        path, _, anchor = target.partition("#")
        assert not path or (PROJECT / "docs" / path).exists(), target
        assert not anchor or path or anchor in anchors, target
