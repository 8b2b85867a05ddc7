"""What the running kernel tells: probes, modules, where it is; and why it does not tell."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from rebootless.base.errors import ResourceError
from rebootless.engine import restored, text
from rebootless.engine.status import LivePatch, PatchedFunction, PatchedObject
from rebootless.integrity import live

BASE = 0xFFFFFFFF81000000


@dataclass
class Recorded:
    """A machine of recorded files; /proc/kcore is `memory` at BASE."""

    files: dict[str, str] = field(default_factory=dict)
    memory: bytes = b""
    name: str = "the machine"

    def read_bytes(self, path: str) -> bytes | None:
        return self.files[path].encode() if path in self.files else None

    def exists(self, path: str) -> bool:
        return path in self.files or path == text.KCORE

    def matching_lines(self, path: str, words: list[str]) -> list[str]:
        lines = self.files.get(path, "").splitlines()
        return [line for line in lines if set(words) & set(line.split())]

    def read_at(self, path: str, spans: list[tuple[int, int]]) -> list[bytes | None]:
        if not self.memory:
            return [None] * len(spans)
        header = bytearray(64)
        struct.pack_into("<Q", header, 32, 64)
        struct.pack_into("<H", header, 56, 1)
        table = struct.pack("<IIQQQQQQ", 1, 5, 4096, BASE, 0, len(self.memory), 0, 0)
        blob = (bytes(header) + table).ljust(4096, b"\0") + self.memory
        parts = [blob[offset : offset + size] for offset, size in spans]
        return [p if len(p) == size else None for p, (_, size) in zip(parts, spans, strict=True)]


def test_words_are_read_wherever_they_are() -> None:
    content = b"".join(struct.pack("<Q", number) for number in range(1024))
    memory = live.memory_of(Recorded(memory=content))
    found = live.words(memory, [BASE, BASE + 8 * 700, BASE + 8, BASE + (1 << 30)])
    assert found == {BASE: 0, BASE + 8: 1, BASE + 8 * 700: 700}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({live.LOCKDOWN: "none integrity [confidentiality]\n"}, "locked down"),
        ({live.LOCKDOWN: "[none] integrity confidentiality\n"}, "as root"),
        ({}, "as root"),
    ],
)
def test_memory_that_may_not_be_read_is_told_with_the_reason(
    files: dict[str, str], reason: str
) -> None:
    with pytest.raises(ResourceError) as caught:
        live.memory_of(Recorded(files))
    assert reason in f"{caught.value.message} {caught.value.hint}"


def test_the_shift_is_that_of_stext() -> None:
    lines = f"{BASE + 0x4000000:x} T _stext\n{BASE:x} T other\n"
    assert live.shift_of(Recorded({text.KALLSYMS: lines}), BASE) == 0x4000000


@pytest.mark.parametrize(("restrict", "hint"), [("2", "kptr_restrict=1"), ("1", "as root")])
def test_hidden_addresses_are_told(restrict: str, hint: str) -> None:
    files = {text.KALLSYMS: f"{0:016x} T _stext\n", "/proc/sys/kernel/kptr_restrict": restrict}
    with pytest.raises(ResourceError) as caught:
        live.shift_of(Recorded(files), BASE)
    assert hint in (caught.value.hint or "")


def test_the_list_of_kprobes() -> None:
    found = live.parse_probes(
        "ffffffff81234567  k  do_exit+0x12    [OPTIMIZED]\n"
        "ffffffff81234600  k  vfs_read+0x0    [FTRACE]\n"
        "ffffffff81234700  r  vfs_open+0x5    [DISABLED]\n"
        "ffffffffc0001000  k  gone+0x0 dummy [GONE]\n"
    )
    flags = {hex(a): (p.optimized, p.by_ftrace, p.disabled) for a, p in found.items()}
    assert flags == {
        "0xffffffff81234567": (True, False, False),
        "0xffffffff81234600": (False, True, False),
        "0xffffffff81234700": (False, False, True),
    }


def test_the_list_of_modules() -> None:
    lines = (
        "dummy 16384 0 - Live 0xffffffffc0200000\nvirtio 4096 1 b, Live 0xffffffffc0100000 (E)\n"
    )
    assert live.parse_modules(lines) == (
        (0xFFFFFFFFC0100000, 0xFFFFFFFFC0101000, "virtio"),
        (0xFFFFFFFFC0200000, 0xFFFFFFFFC0204000, "dummy"),
    )


FUNCTION = PatchedFunction("vmlinux", "victim", 1)
PATCH = LivePatch("fix", True, False, objects=(PatchedObject("vmlinux", True, (FUNCTION,)),))
NOP, CALL, BODY = (
    bytes.fromhex("0f1f440000"),
    bytes.fromhex("e800100000"),
    b"\x55\xe8" + b"\x90" * 9,
)


def entry(*, redirected: bool) -> bytes:
    return (CALL if redirected else NOP) + BODY


@pytest.mark.parametrize(
    ("redirected", "files", "others", "told"),
    [
        (False, {}, (), ()),
        (True, {}, (), (FUNCTION,)),
        (True, {f"{text.TRACING[0]}/enabled_functions": "victim (1) R I\n"}, (), ()),
        (True, {}, (PATCH,), ()),
    ],
)
def test_an_undo_that_leaves_a_redirection_is_told(
    redirected: bool, files: dict[str, str], others: tuple[LivePatch, ...], told: tuple
) -> None:
    """Unless a tracer or another patch holds the function."""
    symbols = {text.KALLSYMS: f"{BASE:x} t victim\n"}
    before = restored.look(Recorded(symbols, entry(redirected=True)), PATCH)
    after = Recorded({**symbols, **files}, entry(redirected=redirected))
    assert restored.still_redirected(after, before, others) == told
