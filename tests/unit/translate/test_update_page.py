"""The page on an update: whole, and safe whatever its texts are."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

from rebootless.translate import page
from rebootless.translate.model import (
    Candidate,
    Cause,
    Confidence,
    Dropped,
    Entry,
    Function,
    Outcome,
    Result,
    Tied,
    Told,
    TranslationPlan,
    Update,
)

EVIL = "<script>alert(1)</script>\"'&"
VOID = {"meta", "input", "rect", "br"}


class Document(HTMLParser):
    """Tags that must close in order, their ids, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.scripts = 0
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids += [found["id"] or ""] if "id" in found else []
        self.links += [found["href"] or ""] if "href" in found else []
        self.scripts += tag == "script"
        assert not {"src", "style", "onclick"} & found.keys()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag == "rect"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def report() -> page.Report:
    tie = Tied(EVIL, ("CVE-2026-1",), Confidence.CERTAIN, EVIL)
    diff = f"--- a/a.c\n+++ b/a.c\n@@ -1 +1 @@\n-{EVIL}\n+ \udce9\n"
    one = Candidate("k1", EVIL, ("a.c",), ("a.c",), diff, ("f",), (EVIL,), (tie,))
    long = Candidate("k2", "long", ("b.c",), ("b.c",), diff + " x\n" * page.EMBEDDED)
    off = Dropped(EVIL, Outcome.NO_EFFECT, Cause.CONFIG_OFF, EVIL, 2)
    entries = (Entry(EVIL, ("CVE-2026-1",)), Entry("other", ("CVE-2026-2",)))
    plan = TranslationPlan(Update(EVIL, "ab", "1", "2"), 3, 7, (one, long), (off,), entries)
    told = Told("layout-changed", EVIL, f"a\n{EVIL}", is_refusal=True)
    results = (
        Result("k1", Outcome.REBOOT, Cause.LAYOUT, EVIL, EVIL, findings=(told,)),
        Result("k2", Outcome.LIVE_PATCH, Cause.NONE, functions=(Function("vmlinux", "b.c", "g"),)),
    )
    return page.Report(plan, results, "u.rlp", True, {"k1": EVIL}, "0.1")


def test_the_page_is_whole_and_obeys_nobody() -> None:
    document = Document(page.render(report()))
    assert document.scripts == 1
    assert len(set(document.ids)) == len(document.ids)
    inner = {link[1:] for link in document.links if link.startswith("#")}
    assert inner <= set(document.ids)
    files = {link for link in document.links if not link.startswith("#")}
    assert files == set(page.diffs(report().plan)) == {"diffs/k1.diff", "diffs/k2.diff"}
    assert document.text.count(EVIL) >= 8
    assert "CVE-2026-2" in document.text
    assert "\ufffd" in document.text  # a byte of a diff that is no UTF-8
    document.text.encode()


def test_every_cause_and_outcome_has_its_words() -> None:
    assert set(page.CAUSES) == set(Cause) - {Cause.NONE}
    assert set(page.WORDS) == set(page.STYLES) == set(page.ORDER) == set(Outcome)


def test_an_update_without_changelog_or_bundle_has_a_page() -> None:
    bare = replace(report().plan, entries=(), candidates=(), dropped=())
    document = Document(page.render(page.Report(bare, (), "", False, {})))
    assert "no bundle" in document.text
    assert "cves" not in document.ids


def test_bytes_that_are_no_text_stay_in_the_diff() -> None:
    assert b"+ \xe9\n" in page.diffs(report().plan)["diffs/k1.diff"]
