"""Bundles: equal content gives equal files, and no damage goes unnoticed."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import resource
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rebootless.base.errors import BundleError, NotFoundError, PatchInputError, ResourceError
from rebootless.bundle import archive, manifest, naming
from rebootless.bundle.archive import Bundle, create, decode, encode, read, with_test_log, write
from rebootless.bundle.manifest import (
    CallbackEntry,
    Features,
    KnownWarning,
    Manifest,
    PatchedFunction,
    PatchedObject,
    StateEntry,
    TargetKernel,
)


def sample_manifest() -> Manifest:
    function = PatchedFunction("ext4_mb_load_buddy_gfp", 0, 1139, 1160, 0xFFFFFFFF813A0000)
    static = PatchedFunction("ext4_mb_init_cache", 2, 900, 910)
    return Manifest(
        name="fix_mballoc",
        version="1",
        kernel=TargetKernel(
            "6.1.0-55-cloud-amd64", "ab" * 20, "x86_64", "6.1.0-55-cloud-amd64 SMP", "6.1.192-1"
        ),
        objects=(PatchedObject("ext4", (function, static), "cd" * 20),),
        replace=False,
        toolchain="gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0",
        tool_version="0.1.0",
        cves=("CVE-2026-0001",),
    )


def sample() -> Bundle:
    return create(
        sample_manifest(),
        {
            "source.patch": b"--- a\n+++ b\n",
            "modules/fix_mballoc.ko": bytes(range(256)) * 40,
            "report.json": b'{"seconds": 1}',
            "match.json": b'{"functions": []}',
        },
    )


def test_callbacks_and_states_are_read_back() -> None:
    features = Features(
        (CallbackEntry("ext4", "pre_patch", "before"),), (StateEntry(0xFFFF_FFFF_FFFF, 2),)
    )
    full = replace(sample_manifest(), features=features)
    assert manifest.parse(full.canonical(), where="x") == full


def test_a_manifest_without_features_is_as_before_there_were_any() -> None:
    assert "features" not in sample_manifest().to_json()
    assert manifest.parse(sample_manifest().canonical(), where="x").features == Features()


@pytest.mark.parametrize(
    "features",
    [
        [],
        {"states": []},
        {"callbacks": [{"object": "ext4"}], "states": []},
        {"callbacks": [], "states": [{"id": "1", "version": 1}]},
    ],
)
def test_malformed_features(features: object) -> None:
    facts = sample_manifest().to_json() | {"features": features}
    with pytest.raises(BundleError, match="x: "):
        manifest.parse(json.dumps(facts).encode(), where="x")


def repacked(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target:
        for name, blob in files.items():
            target.writestr(name, blob)
    return out.getvalue()


def unpacked(blob: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(blob)) as source:
        return {name: source.read(name) for name in source.namelist()}


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    bundle = sample()
    write(bundle, tmp_path / "x.rlp")
    again = read(tmp_path / "x.rlp")
    assert again == bundle
    assert again.id == bundle.id
    assert again.modules == {"fix_mballoc": bytes(range(256)) * 40}
    assert again.report == {"seconds": 1}
    assert again.match == {"functions": []}
    assert again.source_patch == b"--- a\n+++ b\n"
    assert [(o, f.name) for o, f in again.manifest.functions] == [
        ("ext4", "ext4_mb_load_buddy_gfp"),
        ("ext4", "ext4_mb_init_cache"),
    ]


def test_an_ordinary_unzip_reads_it() -> None:
    files = unpacked(encode(sample()))
    assert sorted(files) == list(files)
    assert json.loads(files["manifest.json"])["kernel"]["release"] == "6.1.0-55-cloud-amd64"


def test_equal_content_gives_equal_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:3]\n"
        "from test_bundle import sample, encode\n"
        "sys.stdout.buffer.write(encode(sample()))"
    )
    here = Path(__file__).parent
    package = Path(archive.__file__).parents[2]
    elsewhere = subprocess.run(
        [sys.executable, "-c", code, str(here), str(package)],
        cwd=tmp_path,
        env={"TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
    )
    assert elsewhere.stdout == encode(sample())


def test_order_of_members_does_not_matter() -> None:
    bundle = sample()
    backwards = create(sample_manifest(), dict(sorted(bundle.members.items(), reverse=True)))
    assert encode(backwards) == encode(bundle)


def test_a_test_log_keeps_the_id_and_comes_back() -> None:
    bundle = sample()
    tested = with_test_log(bundle, "before: fail\nafter: pass\n")
    again = decode(encode(tested), where="x.rlp")
    assert again.id == bundle.id
    assert again.test_log == "before: fail\nafter: pass\n"
    assert decode(encode(with_test_log(again, "later")), where="x").test_log == "later"


def test_a_test_log_of_another_bundle_is_refused() -> None:
    files = unpacked(encode(sample()))
    files["test.log"] = b"0" * 64 + b"\nall passed\n"
    with pytest.raises(BundleError, match=r"test\.log is of another bundle"):
        decode(repacked(files), where="x.rlp")


@pytest.mark.parametrize("keep", [1, 3, 30, 500, -1, -21, -22, -300])
def test_truncated(keep: int) -> None:
    with pytest.raises(BundleError):
        decode(encode(sample())[:keep], where="x.rlp")


def test_truncated_says_so() -> None:
    with pytest.raises(BundleError, match="truncated") as info:
        decode(encode(sample())[:-100], where="x.rlp")
    assert info.value.hint


@pytest.mark.parametrize("blob", [b"", b"\x7fELF" + bytes(100), b"--- a/fs/ext4\n"])
def test_not_a_bundle(blob: bytes) -> None:
    with pytest.raises(BundleError, match=r"not a bundle|empty"):
        decode(blob, where="x.rlp")


def test_changed_member() -> None:
    files = unpacked(encode(sample()))
    files["modules/fix_mballoc.ko"] += b"\0"
    with pytest.raises(BundleError, match=r"fix_mballoc\.ko has the wrong checksum"):
        decode(repacked(files), where="x.rlp")


def test_missing_and_extra_members() -> None:
    files = unpacked(encode(sample()))
    del files["source.patch"]
    with pytest.raises(BundleError, match=r"source\.patch is missing"):
        decode(repacked(files), where="x.rlp")
    files = {**unpacked(encode(sample())), "modules/evil.ko": b"x"}
    with pytest.raises(BundleError, match=r"modules/evil\.ko that its manifest does not list"):
        decode(repacked(files), where="x.rlp")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name() -> None:
    out = io.BytesIO(encode(sample()))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as target:
        target.writestr("source.patch", b"other")
    with pytest.raises(BundleError, match="two members"):
        decode(out.getvalue(), where="x.rlp")


def test_zip_without_manifest() -> None:
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        decode(repacked({"a": b"b"}), where="x.rlp")


@pytest.mark.parametrize("schema", [None, 0, 2, "1", True])
def test_unknown_schema_is_named(schema: object) -> None:
    raw = {**sample().manifest.to_json(), "schema": schema}
    with pytest.raises(BundleError, match="schema") as info:
        manifest.parse(json.dumps(raw).encode(), where="x.rlp")
    assert info.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3},
        {"kernel": {}},
        {"kernel": None},
        {"objects": [1]},
        {"objects": [{"name": "vmlinux", "build_id": "", "functions": [{"name": "f"}]}]},
        {"cves": "CVE-1"},
        {"members": {"a": 1}},
        {"replace": 1},
        {"warnings": [{"code": "x", "symbol": "f", "message": "m"}]},
    ],
)
def test_manifests_of_wrong_types_are_refused(change: dict[str, object]) -> None:
    raw = {**sample().manifest.to_json(), **change}
    with pytest.raises(BundleError, match="manifest"):
        manifest.parse(json.dumps(raw).encode(), where="x.rlp")


def test_warnings_are_kept_and_older_manifests_keep_their_id() -> None:
    plain = sample_manifest()
    noted = replace(plain, warnings=(KnownWarning("a-b", "f", "look", True),))
    assert manifest.parse(json.dumps(noted.to_json()).encode(), where="x.rlp") == noted
    assert noted.id != plain.id
    older = plain.to_json()
    del older["warnings"]
    read_back = manifest.parse(json.dumps(older).encode(), where="x.rlp")
    assert read_back == plain
    text = json.dumps(older, sort_keys=True, separators=(",", ":")).encode()
    assert read_back.id == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("blob", [b"", b"[]", b"\xff", b"[" * 100_000])
def test_manifests_that_are_no_json_object(blob: bytes) -> None:
    with pytest.raises(BundleError):
        manifest.parse(blob, where="x.rlp")


GOOD = encode(with_test_log(sample(), "log"))


@settings(max_examples=400)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_noticed_or_harmless(at: int, flip: int) -> None:
    """A flip in a date or a permission changes nothing that is used; any other is refused."""
    damaged = bytearray(GOOD)
    damaged[at] ^= flip
    try:
        bundle = decode(bytes(damaged), where="x.rlp")
    except BundleError:
        return
    assert bundle == decode(GOOD, where="x.rlp")


def test_a_lost_test_log_is_noticed() -> None:
    """One flipped length makes the table entry before it swallow the test log's."""
    entry = GOOD.rindex(b"PK\x01\x02")
    before = GOOD.rindex(b"PK\x01\x02", 0, entry)
    damaged = bytearray(GOOD)
    comment_length = before + 32
    damaged[comment_length] = len(GOOD) - entry - 22  # the last entry, up to the end record
    with pytest.raises(BundleError, match=r"do not agree|damaged"):
        decode(bytes(damaged), where="x.rlp")


@settings(max_examples=200)
@given(st.binary(max_size=400), st.integers(0, len(GOOD)))
def test_garbage_raises_nothing_but_bundle_errors(junk: bytes, at: int) -> None:
    with pytest.raises(BundleError):
        decode(GOOD[:at] + junk + b"!", where="x.rlp")


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a//b", "a/./b", "manifest.json", "test.log"])
def test_members_that_would_escape_or_shadow_are_refused(path: str) -> None:
    with pytest.raises(BundleError):
        create(sample_manifest(), {"modules/a.ko": b"", path: b""})


def test_a_bundle_needs_a_module() -> None:
    with pytest.raises(BundleError, match="needs a kernel module"):
        create(sample_manifest(), {"source.patch": b""})


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        read(tmp_path / "none.rlp")


def test_a_full_disk_leaves_the_old_bundle(tmp_path: Path) -> None:
    path = tmp_path / "x.rlp"
    write(sample(), path)
    before = path.read_bytes()
    big = create(sample_manifest(), {"modules/a.ko": bytes(i * i % 251 for i in range(200_000))})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, hard))
    try:
        with pytest.raises(ResourceError) as info:
            write(big, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)
    assert isinstance(info.value.__cause__, OSError)
    assert info.value.__cause__.errno == errno.EFBIG
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.rlp"]


@pytest.mark.parametrize("name", ["a", "fix_1", "A" * 55])
def test_good_names(name: str) -> None:
    assert naming.check_name(name) == name


@pytest.mark.parametrize(
    ("name", "says"),
    [("", "empty"), ("a-b", "'-'"), ("ä", "'ä'"), ("a\n", "character"), ("A" * 56, "has 56")],
)
def test_bad_names(name: str, says: str) -> None:
    with pytest.raises(PatchInputError, match=says) as info:
        naming.check_name(name)
    assert info.value.hint


@given(st.text(max_size=80))
def test_a_derived_name_is_always_legal(text: str) -> None:
    naming.check_name(naming.name_from(text))


def test_derived_names() -> None:
    assert naming.name_from("0001-ext4-fix.patch") == "0001_ext4_fix"
    assert naming.name_from("...") == "patch"


@pytest.mark.parametrize(
    ("file", "name", "short"),
    [
        ("fix.patch", "rebootless_fix", "fix"),
        ("ext4.diff", "rebootless_ext4", "ext4"),
        ("x" * 80 + ".patch", "rebootless_" + "x" * 44, "x" * 44),
        ("rebootless.patch", "rebootless_rebootless", "rebootless"),
    ],
)
def test_default_names(file: str, name: str, short: str) -> None:
    assert naming.default_name(file) == naming.check_name(name)
    assert naming.short_name(name) == short
    assert naming.full_name(short, [name]) == name


def test_a_name_means_itself_first() -> None:
    assert naming.full_name("fix", ["fix", "rebootless_fix"]) == "fix"
    assert naming.full_name("fix", ["other"]) == "fix"
