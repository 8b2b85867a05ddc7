"""Sites of each kind: what belongs there is accounted for, anything else is a difference."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from integrity_code import BASE, TABLES, branch, distance, judged

from rebootless.engine.status import PatchedFunction
from rebootless.integrity.compare import Verdict
from rebootless.integrity.live import Live, Probe, Redirected

NOP5 = bytes.fromhex("0f1f440000")
THUNK, FUNCTION, KEY, TRAMPOLINE = BASE + 0x400, BASE + 0x500, TABLES + 0x9000, 0xFFFFFFFFC0200000


def only(verdict: Verdict) -> str:
    """The reason of the one difference."""
    (difference,) = verdict.differences
    return difference.reason


def test_equal_code_has_no_difference() -> None:
    assert judged(b"\x55\xc3", b"\x55\xc3").differences == ()


def test_a_changed_byte_is_told_with_its_function_and_instruction() -> None:
    shipped, found = b"\x55\x89\xf8\x5d\xc3", b"\x55\x89\xf9\x5d\xc3"
    (told,) = judged(shipped, found, names={"victim": BASE + 1}).differences
    assert (told.function, told.offset, told.size) == ("victim", 0, 2)
    assert (told.expected, told.found) == (b"\x89\xf8", b"\x89\xf9")
    assert (told.expected_code, told.found_code) == (("mov %edi,%eax",), ("mov %edi,%ecx",))


RETURNS = {".return_sites": (TABLES, distance(TABLES, BASE))}


@pytest.mark.parametrize("found", [b"\xc3\xcc\xcc\xcc\xcc", branch(0xE9, BASE, THUNK + 64)])
def test_returns_may_be_naked_or_through_a_thunk(found: bytes) -> None:
    live = Live(return_thunks=frozenset({THUNK, THUNK + 64}))
    shipped = branch(0xE9, BASE, THUNK)
    assert judged(shipped, found, RETURNS, live).differences == ()
    other = branch(0xE9, BASE, FUNCTION)
    assert "return thunk" in only(judged(shipped, other, RETURNS, live))
    assert len(judged(shipped, found, {}, live).differences) == 1  # where no table names it


def labels(branch_flag: int) -> dict[str, tuple[int, bytes]]:
    key = (KEY - (TABLES + 8)) | branch_flag
    entry = distance(TABLES, BASE) + distance(TABLES + 4, FUNCTION) + struct.pack("<q", key)
    return {"__jump_table": (TABLES, entry)}


@pytest.mark.parametrize("flag", [0, 1])
@pytest.mark.parametrize("enabled", [0, 1, None])
def test_a_static_branch_does_what_its_key_says(flag: int, enabled: int | None) -> None:
    live = Live(words={} if enabled is None else {KEY: enabled})
    jump = branch(0xE9, BASE, FUNCTION)
    for shipped in (jump, NOP5):
        for found in (jump, NOP5):
            verdict = judged(shipped, found, labels(flag), live)
            wanted = None if enabled is None else (jump if enabled ^ flag else NOP5)
            assert (verdict.differences == ()) == (wanted in (None, found))
        wrong = judged(shipped, branch(0xE9, BASE, FUNCTION + 1), labels(flag), live)
        assert "static branch" in only(wrong)


def test_a_static_call_leads_to_what_its_key_holds() -> None:
    for tail, opcode in ((0, 0xE8), (1, 0xE9)):
        entry = distance(TABLES, BASE) + distance(TABLES + 4, KEY | tail)
        sections = {".static_call_sites": (TABLES, entry)}
        shipped = branch(opcode, BASE, THUNK)
        right = branch(opcode, BASE, FUNCTION)
        held = Live(words={KEY: FUNCTION})
        assert judged(shipped, right, sections, held).differences == ()
        assert "key" in only(judged(shipped, branch(opcode, BASE, THUNK + 1), sections, held))
        empty = Live(words={KEY: 0})
        nothing = b"\xc3\xcc\xcc\xcc\xcc" if tail else NOP5
        assert judged(shipped, nothing, sections, empty).differences == ()
        assert "key" in only(judged(shipped, nothing, sections, held))


def test_a_static_call_of_some_functions_is_written_otherwise() -> None:
    entry = distance(TABLES, BASE) + distance(TABLES + 4, KEY)
    sections = {".static_call_sites": (TABLES, entry)}
    shipped, trap = branch(0xE8, BASE, THUNK), bytes.fromhex("67480fb93a")
    live = Live(words={KEY: FUNCTION}, instead={FUNCTION: trap})
    assert judged(shipped, trap, sections, live).differences == ()
    assert "key" in only(judged(shipped, trap, sections, replace(live, words={KEY: THUNK})))


def test_lock_prefixes_change_all_or_not_at_all() -> None:
    places = (
        distance(TABLES, BASE) + distance(TABLES + 4, BASE + 4) + distance(TABLES + 8, BASE + 8)
    )
    sections = {".smp_locks": (TABLES, places)}
    locked, plain = b"\xf0\xff\x07\x90" * 3, b"\x3e\xff\x07\x90" * 3
    assert judged(locked, plain, sections).differences == ()
    mixed = judged(locked, locked[:4] + plain[:4] + locked[:4], sections)
    assert "other lock prefixes" in only(mixed)


FENTRY = {"__mcount_loc": (TABLES, struct.pack("<Q", BASE))}


def test_a_fentry_calls_ftrace_only_for_functions_that_it_lists() -> None:
    call, live = branch(0xE8, BASE, TRAMPOLINE), Live(ftrace=frozenset({TRAMPOLINE}))
    assert judged(NOP5, call, FENTRY, live).differences == ()  # it does not tell what it lists
    listed = replace(live, hooked=frozenset({"start"}))
    assert judged(NOP5, call, FENTRY, listed).differences == ()
    unlisted = replace(live, hooked=frozenset({"other"}))
    assert "does not list" in only(judged(NOP5, call, FENTRY, unlisted))
    elsewhere = branch(0xE8, BASE, FUNCTION)
    assert "ftrace" in only(judged(NOP5, elsewhere, FENTRY, listed))


CODE = b"\x55\x48\x89\xe5\x53\x31\xc0\x5b\x5d\xc3"
SLOT = 0xFFFFFFFFC0300000


@pytest.mark.parametrize("optimized", [False, True])
def test_kprobes_account_for_their_bytes_where_they_are_listed(optimized: bool) -> None:
    at = BASE + 1
    bytes_ = branch(0xE9, at, SLOT + 8) if optimized else b"\xcc"
    found = CODE[:1] + bytes_ + CODE[1 + len(bytes_) :]
    live = Live(probe_pages=(SLOT,), probes={at: Probe(at, optimized, False, False)})
    assert judged(CODE, found, live=live).differences == ()
    assert len(judged(CODE, found, live=replace(live, probes={})).differences) == 1
    untold = judged(CODE, found, live=replace(live, probes=None))
    assert (len(untold.undecided), untold.differences) == (1, ())


def redirected(**facts: object) -> Live:
    patched = Redirected(PatchedFunction("vmlinux", "start", 1), BASE, ("fix",))
    modules = ((SLOT, SLOT + 4096, "fix"), (SLOT + 4096, SLOT + 8192, "other"))
    return Live(redirected=(patched,), modules=modules, **facts)


def test_a_live_patch_redirects_by_ftrace() -> None:
    call, live = branch(0xE8, BASE, TRAMPOLINE), redirected(ftrace=frozenset({TRAMPOLINE}))
    verdict = judged(NOP5 + CODE, call + CODE, FENTRY, live)
    assert verdict.differences == ()
    assert [(r.function, r.leads_to, r.patches) for r in verdict.redirected] == [
        ("start", TRAMPOLINE, ("fix",))
    ]
    lost = judged(NOP5 + CODE, NOP5 + CODE, FENTRY, live)
    assert "fix redirects start" in lost.differences[0].reason


@pytest.mark.parametrize("before", [b"", b"\xf3\x0f\x1e\xfa", NOP5, b"\xf3\x0f\x1e\xfa" + NOP5])
def test_a_live_patch_redirects_by_a_jump(before: bytes) -> None:
    at = BASE + len(before)
    shipped, jump = before + CODE, before + branch(0xE9, at, SLOT + 16) + CODE[5:]
    verdict = judged(shipped, jump, live=redirected())
    assert verdict.differences == ()
    assert [r.leads_to for r in verdict.redirected] == [SLOT + 16]
    assert len(judged(shipped, jump).differences) == 1  # nobody claims it
    for elsewhere in (FUNCTION, SLOT + 4096):  # the kernel, another module
        jump = before + branch(0xE9, at, elsewhere) + CODE[5:]
        assert judged(shipped, jump, live=redirected()).differences != ()
