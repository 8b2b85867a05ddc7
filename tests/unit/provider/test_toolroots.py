"""Which compiler is taken for a kernel, and the view that programs of a root get."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rebootless.base.events import Event, NullMonitor, Warned
from rebootless.provider import toolroots
from rebootless.provider.compilers import Offer, nearest, offers
from rebootless.provider.packages import Package
from rebootless.provider.toolchain import parse_text, same_package, same_version

TRIXIE = "x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0"
WANTED = parse_text(TRIXIE)
assert WANTED is not None


def package(name: str, version: str, suite: str = "trixie") -> Package:
    return Package(name, version, "amd64", f"http://x/{name}.deb", 1, 1, "", suite)


def test_the_very_package_comes_first() -> None:
    found = offers(
        [
            package("gcc-14", "14.2.0-20"),
            package("gcc-14", "14.2.0-19", "stable"),
            package("gcc-14", "14.3.0-1"),
            package("gcc-12", "14.2.0-19"),
        ],
        WANTED,
    )
    assert [(o.version, o.exact) for o in found] == [("14.2.0-20", False), ("14.2.0-19", True)]
    assert nearest(found, WANTED) == Offer("gcc-14", "14.2.0-19", "stable", True)


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["14.2.0-8", "14.2.0-30", "14.2.0-20"], "14.2.0-20"),
        (["14.2.0-8", "14.2.0-12"], "14.2.0-12"),
        (["14.2.0-19+deb13u1"], "14.2.0-19+deb13u1"),
    ],
)
def test_else_the_next_revision(there: list[str], taken: str) -> None:
    best = nearest(offers([package("gcc-14", v) for v in there], WANTED), WANTED)
    assert best is not None and best.version == taken and not best.exact


def test_nothing_of_another_version() -> None:
    assert nearest(offers([package("gcc-14", "14.3.0-19")], WANTED), WANTED) is None


def test_one_package_under_two_names_of_its_program() -> None:
    assert same_package("gcc-14 (Debian 14.2.0-19) 14.2.0", TRIXIE)
    assert not same_package("gcc-14 (Debian 14.2.0-20) 14.2.0", TRIXIE)
    assert same_version("gcc-14 (Debian 14.2.0-20) 14.2.0", TRIXIE)
    assert toolroots.program_of(TRIXIE) == "gcc-14"


def test_the_way_in(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "bin").mkdir()  # not merged into usr
    (tmp_path / "home").mkdir()
    entries = toolroots.system_entries(tmp_path)
    assert entries == {"usr": None, "bin": None, "lib": "usr/lib"}
    text = toolroots.script(entries)
    assert '--ro-bind "$here/root/bin" /bin' in text and "--symlink usr/lib /lib" in text
    assert "/home" not in text  # this machine's, looked up when it runs


def test_roots_are_found_by_what_they_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REBOOTLESS_CACHE", str(tmp_path))
    older = "gcc-14 (Debian 14.2.0-8) 14.2.0"
    for name, text in (("a", older), ("b", TRIXIE)):
        home = tmp_path / "toolchains" / name
        home.mkdir(parents=True)
        made = toolroots.Root(name, home, "gcc-14", text, "trixie", "2026-01-01", 1, {name: "1"})
        (home / toolroots.RECORD).write_text(toolroots.record(made))
    torn = tmp_path / "toolchains/c"
    torn.mkdir()
    (torn / toolroots.RECORD).write_text(json.dumps({"name": "c"}))

    assert [r.name for r in toolroots.roots()] == ["a", "b"]
    found = toolroots.find_root(TRIXIE, NullMonitor(), exact=True)
    assert found is not None and found.exact and found.enter[0].endswith("/b/enter")
    assert found.inside(["make", "x"]) == [found.enter[0], "make", "x"]

    heard: list[Event] = []

    class Recorder:
        def emit(self, event: Event) -> None:
            heard.append(event)

    toolroots.remove("b")
    assert toolroots.find_root(TRIXIE, Recorder(), exact=True) is None and heard == []
    near = toolroots.find_root(TRIXIE, Recorder(), exact=False)
    assert near is not None and not near.exact
    (warning,) = heard
    assert isinstance(warning, Warned) and "14.2.0-8" in warning.text
