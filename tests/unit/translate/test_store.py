"""The store of results: what is put in comes out, and what is damaged counts as absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebootless.diff.delta import SystemState
from rebootless.module.keys import Mirror
from rebootless.translate.model import Cause, Function, Outcome, Result, Told
from rebootless.translate.parts import NO_ADDRESS, Called, Part, PartUnit, Redirected
from rebootless.translate.store import Store, is_kept, pack, rules, unpacked

KEY = "00ff" * 8
RESULT = Result(
    KEY,
    Outcome.LIVE_PATCH,
    Cause.NONE,
    functions=(Function("ext4", "fs/ext4/a.c", "f"),),
    findings=(Told("errno-changed", "f", "says \N{GREEK SMALL LETTER ALPHA}"),),
    seconds_compile=1.5,
)
UNIT = PartUnit(
    "fs/ext4/a.c",
    "ext4",
    (Redirected("__rebootless_entry_7_0", "f", 0, 10, 12, NO_ADDRESS),),
    (Called("pre_patch", "__rebootless_entry_7_callback_0", "pre"),),
    ("NS",),
    (Mirror("key", "real", True),),
    (SystemState(1, 2),),
    "{}",
    "{}",
)
PART = Part(KEY, (UNIT,), (b"\x7fELF\0\xff",))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_what_is_put_comes_out(store: Store) -> None:
    assert store.result(KEY) is None and store.part(KEY) is None and not store.has(KEY)
    store.put(RESULT)
    assert not store.has(KEY)  # a live patch, and nothing to link it from
    store.put(RESULT, PART)
    assert store.has(KEY)
    assert store.result(KEY) == RESULT
    assert store.part(KEY) == PART
    assert unpacked(pack(RESULT, PART)) == RESULT


def test_a_result_without_anything_to_link(store: Store) -> None:
    store.put(RESULT)
    assert store.result(KEY) == RESULT
    assert store.part(KEY) is None


@pytest.mark.parametrize("damage", range(0, 100, 7))
def test_damaged_files_count_as_absent(store: Store, damage: int) -> None:
    """Cut at any place, or with any byte changed, a file gives the very result, or none."""
    store.put(RESULT, PART)
    blob = store.path(KEY).read_bytes()
    place = len(blob) * damage // 100
    for spoiled in (blob[:place], blob[:place] + bytes([blob[place] ^ 0x55]) + blob[place + 1 :]):
        store.path(KEY).write_bytes(spoiled)
        assert store.result(KEY) in (None, RESULT)
        assert store.part(KEY) in (None, PART)
    store.put(RESULT, PART)
    assert store.result(KEY) == RESULT


def test_a_result_of_another_candidate_is_none(store: Store) -> None:
    other = "ee" * 16
    store.put_packed(other, pack(RESULT, PART))
    assert store.result(other) is None


def test_the_limit_of_a_run_is_not_kept() -> None:
    assert is_kept(RESULT)
    too_far = Result(KEY, Outcome.REBOOT, Cause.TOO_FAR,
                     findings=(Told("too-many-units", "h", "reaches 90 units", True),))  # fmt: skip
    assert not is_kept(too_far)


def test_rules_cover_what_decides() -> None:
    """Each entry names something: a file that was renamed would no longer count."""
    from importlib import resources

    from rebootless.translate import store as module

    root = resources.files("rebootless")
    assert [p for p in module.DECIDING if not list(module._texts(root.joinpath(p), p))] == []
    assert len(rules()) == 16
