"""The examples of property tests, which have to be the same in each run."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


def examples() -> list[int]:
    seen = []

    @settings(max_examples=300)
    @given(st.integers(0, 2**40))
    def see(number: int) -> None:
        seen.append(number)

    see()
    return seen


@pytest.mark.skipif(not settings().derandomize, reason="other examples were asked for")
def test_modules_that_happen_to_be_imported_change_no_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = examples()
    (tmp_path / "rl_constants.py").write_text(f"NUMBERS = {list(range(10**9, 10**9 + 999))}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("rl_constants")
    try:
        assert examples() == before
    finally:
        del sys.modules["rl_constants"]
