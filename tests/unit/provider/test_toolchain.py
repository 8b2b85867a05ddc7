"""The compiler check, with the compilers that this machine has."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rebootless.base import events
from rebootless.base.errors import CompileError
from rebootless.provider.toolchain import find_compiler, parse_text


@pytest.fixture
def gcc() -> str:
    for program in ("gcc-12", "gcc-14", "gcc-13", "gcc"):
        try:
            result = subprocess.run([program, "--version"], capture_output=True, text=True)
        except OSError:
            continue
        return result.stdout.splitlines()[0]
    pytest.skip("no gcc is installed: the compiler check is not tested")


class Recorder:
    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def emit(self, event: events.Event) -> None:
        self.events.append(event)


def test_text_is_taken_apart() -> None:
    text = parse_text("x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0")
    assert text is not None
    assert (text.program, text.package, text.version) == (
        "x86_64-linux-gnu-gcc-14",
        "Debian 14.2.0-19",
        "14.2.0",
    )
    assert parse_text("Debian clang version 14.0.6") is None


def test_the_very_compiler(gcc: str) -> None:
    recorder = Recorder()
    found = find_compiler(gcc, recorder)
    assert found.exact and found.text == gcc and found.path.is_absolute()
    assert recorder.events == []


def test_another_package_revision_is_a_warning(gcc: str) -> None:
    text = parse_text(gcc)
    assert text is not None
    recorder = Recorder()
    found = find_compiler(f"{text.program} ({text.package}+older1) {text.version}", recorder)
    assert not found.exact
    (warning,) = recorder.events
    assert isinstance(warning, events.Warned) and text.package in warning.text


def test_another_version_is_refused(gcc: str) -> None:
    text = parse_text(gcc)
    assert text is not None
    with pytest.raises(CompileError) as caught:
        find_compiler(f"{text.program} (Debian 1.2.3-4) 1.2.3")
    assert gcc in caught.value.message and "1.2.3" in caught.value.message
    assert "1.2.3-4" in (caught.value.hint or "")


def test_missing_compiler_names_its_package() -> None:
    with pytest.raises(CompileError, match="there is no x86_64-linux-gnu-gcc-99") as caught:
        find_compiler("x86_64-linux-gnu-gcc-99 (Debian 99.1.0-1) 99.1.0")
    assert "apt install gcc-99" in (caught.value.hint or "")


def test_program_that_is_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "gcc-77"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(CompileError, match="gcc-77"):
        find_compiler("gcc-77 (Debian 77.0-1) 77.0")
