"""The small readers of the engine: notes, modinfo, taint, the running code, this machine."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path

import pytest
from engine_fake import FakeMachine, module_blob
from hypothesis import given
from hypothesis import strategies as st

from rebootless.base.errors import ElfError, ResourceError
from rebootless.elf import notes
from rebootless.engine import modinfo, taint, text
from rebootless.engine.local import LocalMachine
from rebootless.engine.machine import Machine, build_id, release
from rebootless.engine.status import PatchedFunction


def note(name: bytes, kind: int, content: bytes) -> bytes:
    head = struct.pack("<III", len(name), len(content), kind)
    return head + name + bytes(-len(name) % 4) + content + bytes(-len(content) % 4)


def test_the_build_id_is_found_behind_other_notes():
    blob = note(b"Xen\0", 6, b"linux") + note(b"Linux\0", 3, b"x") + note(b"GNU\0", 3, b"\xab\xcd")
    assert notes.build_id(blob) == "abcd"
    assert notes.build_id(b"") == ""


@given(st.binary(max_size=200))
def test_broken_notes_and_modules_never_crash(blob: bytes):
    notes.build_id(blob)
    with pytest.raises(ElfError):
        modinfo.parse(b"\x7fELF\x02\x01" + blob, name="noise")


@given(st.integers(0, 300), st.binary(min_size=1, max_size=8))
def test_damaged_modules_are_read_or_refused(position: int, noise: bytes):
    blob = bytearray(module_blob("fix"))
    blob[position : position + len(noise)] = noise
    with contextlib.suppress(ElfError):
        modinfo.parse(bytes(blob), name="noise")


def test_modinfo():
    info = modinfo.parse(module_blob("my-fix"), name="x")
    assert (info.name, info.release, info.is_livepatch) == ("my_fix", "6.1.0-55-cloud-amd64", True)
    assert info.depends == ()


def test_taint():
    assert taint.decode(0).letters == ""
    found = taint.decode(1 << 9 | 1 << 15 | 1 << 25)
    assert found.letters == "WK?"
    assert [flag.letter for flag in found.alarming] == ["W"]
    assert len(taint.FLAGS) == 20


KALLSYMS = [
    "ffffffff81000300 t twice",
    "ffffffff81000100 T twice",
    "ffffffff81000200 T once",
    "ffffffffc0000100 t twice\t[ext4]",
    "0000000000000000 t hidden",
]


def test_functions_are_found_by_object_and_position():
    wanted = [
        PatchedFunction("vmlinux", "twice", 2),
        PatchedFunction("vmlinux", "once"),
        PatchedFunction("ext4", "twice", 1),
        PatchedFunction("vmlinux", "hidden"),
        PatchedFunction("ext4", "once"),
        PatchedFunction("vmlinux", "once", 2),
    ]
    found = text.find_places(KALLSYMS, wanted)
    assert [(str(p.function), p.address & 0xFFFFF) for p in found] == [
        ("twice,2", 0x300),
        ("once", 0x200),
        ("ext4:twice", 0x100),
    ]


def test_code_is_read_through_kcore():
    machine = FakeMachine()
    machine.files["/proc/kallsyms"] = "\n".join(KALLSYMS).encode()
    header = bytearray(64)
    header[32:40] = (64).to_bytes(8, "little")
    header[56:58] = (2).to_bytes(2, "little")
    notes = struct.pack("<IIQQQQQQ", 4, 0, 0, 0, 0, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, 0xFFFFFFFF81000000, 0, 0x1000, 0x1000, 0)
    blob = bytearray(bytes(header) + notes + load).ljust(0x3000, b"\0")
    blob[0x1200 : 0x1200 + text.SIZE] = bytes(range(text.SIZE))
    machine.files["/proc/kcore"] = bytes(blob)
    once = PatchedFunction("vmlinux", "once")
    places = text.locate(machine, [once])
    before = text.entries(machine, places)
    assert before == {once: bytes(range(text.SIZE))}
    blob[0x1200] = 0xE8
    machine.files["/proc/kcore"] = bytes(blob)
    assert text.changed(before, text.entries(machine, places)) == (once,)
    del machine.files["/proc/kcore"]
    assert text.entries(machine, places) == {}


def test_enabled_functions():
    lines = (
        "pipe_read (1)   I  \ttramp: 0xffffffffc03af000 (klp_ftrace_handler+0x0/0x110)\n"
        "ext4_mb_init [ext4] (2) R I \ttramp: x\n"
        "vfs_read (1) R   \ttramp: I\n"
    )
    assert text.parse_enabled(lines) == {"pipe_read", "ext4_mb_init"}


def test_this_machine_is_a_machine():
    machine: Machine = LocalMachine()
    assert release(machine) == os.uname().release
    assert len(build_id(machine)) % 2 == 0
    assert machine.read_bytes("/no/such/file") is None
    assert machine.read_bytes("/proc") is None
    found = machine.read_many(["/proc/self/comm", "/proc/self/nothing"])
    assert list(found) == ["/proc/self/comm"]
    assert machine.glob(["/proc/sys/kernel/os*"])
    assert machine.exists("/proc/version")
    assert machine.read_at("/proc/no", [(0, 4)]) == [None]
    assert isinstance(machine.kernel_log(), str)
    for path in ("/proc/version", "/proc/self/nothing"):
        with pytest.raises(ResourceError):
            machine.write(path, "x")
    assert machine.matching_lines("/proc/meminfo", ["MemTotal:"])[0].startswith("MemTotal:")


@pytest.mark.parametrize("number", [3, 30])
def test_lines_are_found_by_whole_words(tmp_path: Path, number: int) -> None:
    """The same lines for a few words and for many, which are looked for in another way."""
    listed = "1 t word1\n2 t my_word1 word1_more\n3 t a\tword2\n\nword0\n4 t word1 word2\n5 word2"
    (tmp_path / "list").write_text(listed)
    words = [f"word{n}" for n in range(number)]
    found = LocalMachine().matching_lines(str(tmp_path / "list"), words)
    assert found == ["1 t word1", "3 t a\tword2", "word0", "4 t word1 word2", "5 word2"]
    assert LocalMachine().matching_lines(str(tmp_path / "none"), words) == []
