"""apt's source entries, in both formats and with what is found on real machines."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rebootless.provider.apt_errors import problem_of
from rebootless.provider.sources import (
    Source,
    for_architecture,
    list_names,
    merge,
    other_suite,
    parse_deb822,
    parse_list,
    read_sources,
    render,
)

LIST = """\
# deb http://deb.example.org/debian buster main
deb http://deb.example.org/debian bookworm main contrib  # the base
deb-src http://deb.example.org/debian bookworm main
deb [arch=amd64,arm64 signed-by=/usr/share/keyrings/x.gpg lang=e] https://x.example.org/a any main
deb [ trusted=yes ] file:/srv/flat ./
deb cdrom:[Debian 12]/ bookworm main
nonsense
"""

DEB822 = """\
# The base
Types: deb deb-src
URIs: http://deb.example.org/debian
# http://snapshot.example.org/
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Enabled: no
Types: deb
URIs: http://off.example.org/
Suites: stable
Components: main

Types: deb
URIs: http://a.example.org/debian http://b.example.org/debian
Suites: sid
Components: main
Check-Valid-Until: no
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb-src
URIs: http://deb.example.org/debian
Suites: trixie
Components: main
"""


def test_one_line_entries() -> None:
    base, third, flat = parse_list(LIST, "x.list")
    assert base.key == ("http://deb.example.org/debian", "bookworm")
    assert base.components == ("main", "contrib")
    assert base.where == "x.list:2"
    assert third.architectures == ("amd64", "arm64")
    assert third.options == (("Signed-By", "/usr/share/keyrings/x.gpg"),)
    assert (flat.suite, flat.components, flat.options) == ("./", (), (("Trusted", "yes"),))


def test_deb822_entries() -> None:
    found = parse_deb822(DEB822)
    assert [str(s) for s in found] == [
        "http://deb.example.org/debian bookworm",
        "http://deb.example.org/debian bookworm-updates",
        "http://a.example.org/debian sid",
        "http://b.example.org/debian sid",
    ]
    assert dict(found[0].options) == {"Signed-By": "/usr/share/keyrings/debian.gpg"}
    assert "BEGIN PGP" in dict(found[2].options)["Signed-By"]


def test_rendered_entries_read_back() -> None:
    found = parse_deb822(DEB822)
    assert parse_deb822(render(found)) == found


def test_a_machine_mixes_both(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text(LIST)
    (parts / "debian.sources").write_text(DEB822)
    (parts / "old.list.save").write_text("deb http://saved.example.org/ x main")
    found = read_sources(tmp_path / "sources.list", parts)
    keys = [s.key for s in found]
    assert len(keys) == len(set(keys))
    assert ("http://a.example.org/debian", "sid") in keys
    assert not any("saved" in uri for uri, _ in keys)


def test_duplicates_are_joined() -> None:
    one = Source("http://x/debian", "sid", ("main",))
    two = Source("http://x/debian/", "sid", ("main", "contrib"))
    assert [s.components for s in merge([one, two])] == [("main", "contrib")]


def test_foreign_architectures_are_left_out() -> None:
    arm = Source("http://x/d", "sid", ("main",), ("arm64",))
    both = Source("http://y/d", "sid", ("main",), ("arm64", "amd64"))
    (found,) = for_architecture([arm, both], "amd64")
    assert (found.uri, found.architectures) == ("http://y/d", ("amd64",))


def test_other_suite_brings_its_security_suite() -> None:
    signed = (("Signed-By", "/k.gpg"),)
    base = Source("http://x/debian", "bookworm", ("main",), (), signed)
    security = Source("http://x/debian-security", "bookworm-security", ("main",), (), signed)
    guesses = other_suite([base, security], "trixie")
    assert {g.key for g in guesses} == {
        ("http://x/debian", "trixie"),
        ("http://x/debian-security", "trixie"),
        ("http://x/debian-security", "trixie-security"),
    }
    assert all(g.options == signed for g in guesses)


@pytest.mark.parametrize(
    ("uri", "suite", "expected"),
    [
        ("http://deb.example.org/debian/", "sid", "deb.example.org_debian_dists_sid_main"),
        (
            "https://me:pw@h.example.org:8080/a_b~c",
            "s",
            "h.example.org:8080_a%5fb%7ec_dists_s_main",
        ),
        ("file:/srv/x", "s", "_srv_x_dists_s_main"),
    ],
)
def test_names_of_lists(uri: str, suite: str, expected: str) -> None:
    source = Source(uri, suite, ("main",))
    assert list_names(source, "amd64")[0] == f"{expected}_binary-amd64"


def test_names_of_lists_are_apts_own(tmp_path: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not installed")
    sources = [
        Source("http://h.example.org:81/a_b~c+d", "sid-x", ("main", "a-b"), ("amd64",)),
        Source("https://h.example.org/d", "sid/updates", ("main",), ("amd64",)),
    ]
    (tmp_path / "x.sources").write_text(render(sources))
    argv = ["apt-get", "indextargets", "--no-release-info", "--format", "$(FILENAME)"]
    options = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": str(tmp_path),
        "Dir::State::lists": str(tmp_path),
    }
    argv += [x for n, v in options.items() for x in ("-o", f"{n}={v}")] + ["Created-By: Packages"]
    output = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    theirs = {Path(line).name.partition("_Packages")[0] for line in output.split()}
    ours = {name for s in sources for name in list_names(s, "amd64")}
    assert ours == theirs


def test_problem_is_told_per_source() -> None:
    output = (
        "W: Failed to fetch http://x/debian/dists/sid/InRelease  Could not connect to 1.2.3.4:80\n"
        "E: The repository 'http://x/debian nosuch Release' does not have a Release file.\n"
    )
    assert problem_of(Source("http://x/debian", "sid", ()), output) == (
        "Could not connect to 1.2.3.4:80"
    )
    assert "does not have a Release" in problem_of(Source("http://x/debian/", "nosuch", ()), output)
    assert problem_of(Source("http://x/debian", "trixie", ()), output) == ""
