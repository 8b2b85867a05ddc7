"""Differences of source tarballs, and which pairs of versions are looked at."""

from __future__ import annotations

import random
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebootless.base.errors import CommandError
from rebootless.provider.packages import DebVersion, read_list
from rebootless.provider.sourcediff import changed_files, members, read_tar, unified
from rebootless.provider.updates import diff_between, find_small_update, version_pairs

from .conftest import Archive, make_provider, make_tarball

LONG = "drivers/" + "x" * 90 + "/" + "y" * 90 + ".c"
OLD = {
    "Makefile": b"VERSION = 9\nPATCHLEVEL = 9\nSUBLEVEL = 1\nNAME = A\n\nall: x\n",
    "fs/a.c": b"int a;\nint b;\n",
    "fs/gone.c": b"int gone;\n",
    "fs/same.c": b"int same;\n",
    LONG: b"long\n",
    "debian/changelog": b"one\n",
    "logo.gif": b"\0\1",
}
NEW = {
    **{k: v for k, v in OLD.items() if k != "fs/gone.c"},
    "Makefile": OLD["Makefile"].replace(b"SUBLEVEL = 1", b"SUBLEVEL = 2"),
    "fs/a.c": b"int a;\nint c;\n",
    "fs/added.c": b"int added;",
    "debian/changelog": b"two\n",
    "logo.gif": b"\0\2",
}


def diff_of(tmp_path: Path, old: dict[str, bytes], new: dict[str, bytes], **limits: int) -> object:
    left = make_tarball(tmp_path / "old.tar.xz", old)
    right = make_tarball(tmp_path / "new.tar.xz", new, top="linux-source-9.9-other")
    changed = changed_files(left, right, **limits)
    return unified(changed) if changed is not None else None


def test_members_of_every_name_format(tmp_path: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT):
        buffer = BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
            for name, data in OLD.items():
                info = tarfile.TarInfo(f"top/{name}")
                info.size = len(data)
                tar.addfile(info, BytesIO(data))
        buffer.seek(0)
        assert dict(read_tar(buffer)) == OLD


def test_truncated_tarball(tmp_path: Path) -> None:
    data = {f"f{i}": random.Random(i).randbytes(20_000) for i in range(20)}
    path = make_tarball(tmp_path / "x.tar.xz", data)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(CommandError, match=r"x\.tar\.xz is (truncated|damaged)"):
        list(members(path))


def test_difference_applies_and_leaves_noise_out(tmp_path: Path) -> None:
    found = diff_of(tmp_path, OLD, NEW)
    assert found.files == ("fs/a.c", "fs/added.c", "fs/gone.c")  # type: ignore[attr-defined]
    assert found.binary == ("logo.gif",)  # type: ignore[attr-defined]
    assert found.lines == 4  # type: ignore[attr-defined]
    tree = tmp_path / "tree"
    for name, data in OLD.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    diff = found.diff  # type: ignore[attr-defined]
    subprocess.run(["patch", "-s", "-p1", "-F0", "-d", tree], input=diff, check=True)
    assert (tree / "fs/a.c").read_bytes() == NEW["fs/a.c"]
    assert (tree / "fs/added.c").read_bytes() == b"int added;"
    assert not (tree / "fs/gone.c").exists()


def test_difference_is_the_same_each_time(tmp_path: Path) -> None:
    assert diff_of(tmp_path, OLD, NEW) == diff_of(tmp_path, OLD, NEW)


def test_makefile_counts_when_more_than_the_version_changed(tmp_path: Path) -> None:
    new = {**OLD, "Makefile": NEW["Makefile"].replace(b"all: x", b"all: y")}
    found = diff_of(tmp_path, OLD, new)
    assert found.files == ("Makefile",)  # type: ignore[attr-defined]
    assert b"SUBLEVEL = 2" not in found.diff  # type: ignore[attr-defined]


def test_too_many_files_are_given_up(tmp_path: Path) -> None:
    assert diff_of(tmp_path, OLD, NEW, max_files=3) is None
    assert diff_of(tmp_path, OLD, NEW, max_files=4) is not None


_FILES = st.dictionaries(
    st.text("abc/", min_size=1, max_size=5).map(lambda s: "d/" + s.replace("/", "_") + ".c"),
    st.sampled_from([b"", b"1\n", b"2\n", b"3"]),
    max_size=8,
)


@settings(max_examples=30)
@given(_FILES, _FILES, st.randoms())
def test_order_of_members_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory,
    old: dict[str, bytes],
    new: dict[str, bytes],
    order: random.Random,
) -> None:
    directory = tmp_path_factory.mktemp("t")
    shuffled = list(new.items())
    order.shuffle(shuffled)
    left = make_tarball(directory / "a.tar.xz", {"Makefile": b"", **old})
    right = make_tarball(directory / "b.tar.xz", {"Makefile": b"", **dict(shuffled)})
    changed = changed_files(left, right)
    assert changed is not None
    expected = sorted(n for n in old.keys() | new.keys() if old.get(n) != new.get(n))
    assert [c.path for c in changed] == expected


def test_pairs_of_one_upstream_version_come_first() -> None:
    versions = ["6.1.187-1", "6.1.192-1", "6.1.192-2", "6.1.190-1", "6.1.192-1~deb11u1"]
    series = dict.fromkeys(versions, "6.1")
    assert list(version_pairs(versions, series)) == [
        ("6.1.192-1", "6.1.192-2"),
        ("6.1.190-1", "6.1.192-1"),
        ("6.1.187-1", "6.1.190-1"),
    ]


def test_versions_are_ordered_as_debian_does() -> None:
    texts = ["6.1.9-1", "6.1.10-1", "6.1.10-1~deb11u1", "6.1.10-2", "6.1.10~rc1-1"]
    ordered = [str(v) for v in sorted(map(DebVersion, texts))]
    assert ordered == ["6.1.9-1", "6.1.10~rc1-1", "6.1.10-1~deb11u1", "6.1.10-1", "6.1.10-2"]
    assert DebVersion("6.1.192-2").upstream == "6.1.192"
    assert DebVersion("1:6.1.192-2").upstream == "6.1.192"


def test_small_update_is_found_and_cached(archive: Archive, tmp_path: Path) -> None:
    big = {**OLD, **{f"fs/{i}.c": b"x\n" for i in range(30)}}
    archive.add_kernel("stable", "9.9.0-2-cloud-amd64", "9.9.2-1", OLD)
    archive.add_kernel("stable", "9.9.0-3-cloud-amd64", "9.9.2-2", NEW)
    archive.add_kernel("stable", "9.9.0-4-cloud-amd64", "9.9.3-1", big)
    archive.publish()
    provider = make_provider(archive, tmp_path)
    found = find_small_update(provider)
    assert found is not None
    assert (found.old_version, found.new_version) == ("9.9.2-1", "9.9.2-2")
    assert found.release == "9.9.0-2-cloud-amd64"
    (archive.root / "pool").rename(tmp_path / "gone")
    assert find_small_update(provider) == found
    assert find_small_update(provider, max_files=2, max_pairs=1) is None
    assert find_small_update(provider, flavour="rt-amd64") is None
    assert find_small_update(provider, series="6.1") is None
    assert diff_between(provider, "9.9.2-1", "9.9.2-2", max_lines=1) is None


def test_list_of_packages_is_read() -> None:
    text = (
        b"Package: bash\nVersion: 5\n\n"
        b"Package: linux-image-6.1.0-55-cloud-amd64\nSource: linux-signed-amd64 (6.1.192+1)\n"
        b"Version: 6.1.192-1\nArchitecture: amd64\nFilename: pool/x.deb\nSize: 7\nSHA256: ab\n"
        b"Description: text\n Version: not this\n\n"
        b"Package: linux-image-6.1.0-55-cloud-amd64-dbg\nVersion: 6.1.192-1\nFilename: y\n\n"
        b"Package: linux-headers-6.1.0-55-common\nVersion: 6.1.192-1\nFilename: y\n"
    )
    (package,) = read_list(text, "http://x/debian/", "bookworm")
    assert package.uri == "http://x/debian/pool/x.deb"
    assert (package.version, package.size, package.sha256) == ("6.1.192-1", 7, "ab")
