"""The page in a real browser: nothing overflows, nothing is complained about, all is readable."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebootless.report import page

sys.path.insert(0, str(Path(__file__).parent))  # for browser.py and sample.py

from browser import Browser, browser, is_installed
from sample import facts, hostile

pytestmark = pytest.mark.skipif(
    not is_installed(), reason="chromium is not installed: NOTHING is tested of how the page looks"
)
MEASURES = (Path(__file__).parent / "measures.js").read_text()
MIN_CONTRAST = 4.5  # WCAG 2.1, level AA


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, given in (("plain", facts()), ("evil", hostile())):
        found[name] = folder / f"{name}.html"
        found[name].write_text(page.render(given))
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["plain", "evil"])
def test_the_page_fits_and_can_be_read(
    tab: Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    tab.complaints.clear()
    tab.requests.clear()
    tab.emulate(width, scheme)
    tab.open(pages[name])
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(f"{{{MEASURES}; overflow()}}") == []
    ratio, where = tab.evaluate(f"{{{MEASURES}; contrast()}}")
    assert ratio >= MIN_CONTRAST, where
    dark = tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    assert dark == (scheme == "dark")
    assert tab.complaints == []
    assert tab.requests == [pages[name].as_uri()]


def test_folded_rows_open_and_links_lead_into_closed_parts(
    tab: Browser, pages: dict[str, Path]
) -> None:
    tab.complaints.clear()
    tab.emulate(1280, "light")
    tab.open(pages["plain"])
    hidden = "document.querySelectorAll('tbody[hidden]').length"
    before = tab.evaluate(hidden)
    assert before > 0
    tab.evaluate("document.querySelector('.bar button').click()")
    assert tab.evaluate(hidden) == before - 1
    tab.evaluate("document.querySelector('details.file').open = false")
    tab.evaluate("document.querySelector('td.place a').click()")
    opened = "document.querySelector('details.file').open"
    assert any(tab.evaluate(opened) for _ in range(500))
    assert tab.complaints == []
