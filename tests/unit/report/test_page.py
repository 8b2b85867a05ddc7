"""The page: whole, self-contained, and safe whatever the names and texts of a patch are."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from rebootless.base.errors import BundleError
from rebootless.report import page

sys.path.insert(0, str(Path(__file__).parent))  # for sample.py

from sample import EVIL, LONG, facts, hostile

VOID = {"meta", "br", "img", "link", "input", "hr"}
LOADING = {"src", "srcset", "action", "data", "poster", "formaction", "background", "style"}
CHANGED_LINE = r'<tr id="(p1-\d+)" class="added"><td class="number"></td><td class="number">10</td>'


class Document(HTMLParser):
    """The page as tags; complains about what is not closed or closes what is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data


def objects() -> dict[str, Any]:
    given = facts()
    kept = ("schema", "units", "warnings", "refused", "title")
    return {"kind": "objects", **{key: given[key] for key in kept}}


@pytest.mark.parametrize("given", [facts(), hostile(), objects()], ids=["plain", "evil", "objects"])
def test_the_page_is_whole_and_needs_nothing_else(given: dict[str, Any]) -> None:
    text = page.render(given)
    document = Document(text)
    assert not document.open
    assert len(set(document.ids)) == len(document.ids)
    assert document.links and all(link.startswith("#") for link in document.links)
    assert {link[1:] for link in document.links} <= set(document.ids)
    assert not document.attributes & LOADING
    assert not {n for n in document.attributes if n.startswith("on")}
    assert document.tags.count("script") == document.tags.count("style") == 1
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(document.tags)
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)[0]
    assert "url(" not in style and "@import" not in style


def test_texts_are_shown_not_obeyed() -> None:
    text = page.render(hostile())
    assert "<img" not in text and "<script>alert" not in text
    assert EVIL in Document(text).text


def test_the_policy_lets_only_our_script_run() -> None:
    text = page.render(hostile())
    policy = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[0]
    policy = policy.replace("&#39;", "'")
    for kind in ("style", "script"):
        content = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy


def test_everything_of_the_facts_is_told() -> None:
    text = Document(page.render(facts())).text
    for expected in (
        "net: check the length",
        "CVE-2026-0002",
        "6.1.0-99-amd64",
        "The length was not checked.",
        "test passed",
        "layout-changed",
        "accepted",
        "5 times",
        "function_4",
        "cmp $0xa, %eax",
        "R_X86_64_PLT32",
        "4000 equal instructions are left out",
        "weak symbol that another unit overrides",
        "might_resched (static call)",
        "all tasks moved",
        "table_added",
        "ffffffff81000000",
        "and 5 more",
        LONG,
    ):
        assert expected in text, expected


def test_instructions_point_at_the_lines_of_the_patch() -> None:
    text = page.render(facts())
    (anchor,) = re.findall(CHANGED_LINE, text)
    row = re.search(r'<tr class="changed">.*?</tr>', text, re.DOTALL)
    assert row and f'href="#{anchor}"' in row.group()
    assert "thing.c:10 check()" in row.group()


def test_the_page_is_the_same_every_time() -> None:
    assert page.render(facts()) == page.render(facts())


def test_headings_follow_each_other_and_the_language_is_named() -> None:
    text = page.render(facts())
    assert '<html lang="en">' in text
    levels = [int(n) for n in re.findall(r"<h([1-6])", text)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= set(Document(text).tags)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda f: f["units"][0].pop("functions"),
        lambda f: f["units"][0]["functions"][0]["listings"][0]["rows"].append(["~", 1]),
        lambda f: f["units"][0]["functions"][0].update(chains=[]),
        lambda f: f["units"][0]["functions"][0].update(kind="other"),
        lambda f: f.update(match=[{"functions": 3}]),
        lambda f: f.update(units={"a": 1}),
    ],
)
def test_facts_of_another_form_are_an_error_with_a_name(spoil: Any) -> None:
    given = facts()
    spoil(given)
    with pytest.raises(BundleError, match="not of the form"):
        page.render(given)
