"""Who cannot be in one module, who is to blame, and how long the rest takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rebootless.translate.bisect import culprits
from rebootless.translate.estimate import ENOUGH, HEADERS, Estimate, weight
from rebootless.translate.parts import conflicts, halves


def test_conflicts_are_transitive_and_in_order() -> None:
    redirects = {"a": {1, 2}, "b": {3}, "c": {4}, "d": {2, 4}, "e": {5}, "f": {5}}
    assert conflicts(redirects) == (("a", "c", "d"), ("e", "f"))
    assert conflicts({"a": {1}, "b": set()}) == ()


@given(st.dictionaries(st.integers(0, 20), st.sets(st.integers(0, 30), max_size=4), max_size=12))
def test_groups_share_nothing_with_others(numbers: dict[int, set[int]]) -> None:
    redirects = {str(key): functions for key, functions in numbers.items()}
    groups = conflicts(redirects)
    owner = {key: n for n, group in enumerate(groups) for key in group}
    for one, other in combinations(redirects, 2):
        if redirects[one] & redirects[other]:
            assert owner[one] == owner[other]
    assert all(len(group) > 1 for group in groups)


@pytest.mark.parametrize("bad", [(), ("c",), ("a", "h"), ("a", "b", "c"), tuple("abcdefgh")])
def test_culprits_are_found(bad: tuple[str, ...]) -> None:
    asked: list[Sequence[str]] = []

    def works(keys: Sequence[str]) -> bool:
        asked.append(keys)
        return not set(keys) & set(bad)

    assert culprits("abcdefgh", works) == bad
    if len(bad) == 1:
        assert len(asked) <= 7
    assert len(asked) == 1 or bad


def test_what_fails_only_in_company_is_found() -> None:
    def works(keys: Sequence[str]) -> bool:
        return not {"b", "g"} <= set(keys)

    assert culprits("abcdefgh", works) == ("g",)


def test_halves() -> None:
    assert halves("abc") == (("a", "b"), ("c",))
    assert halves("ab") == (("a",), ("b",))


def test_an_estimate_follows_what_was_done() -> None:
    estimate = Estimate(10 * weight([20_000]))
    for _ in range(ENOUGH - 1):
        estimate.finished(weight([20_000]))
        assert estimate.remaining(5.0) is None
    estimate.finished(weight([20_000]))
    assert estimate.remaining(30.0) == pytest.approx(70.0)
    for _ in range(7):
        estimate.finished(weight([20_000]))
    assert estimate.remaining(100.0) == 0


def test_small_units_weigh_their_headers() -> None:
    assert weight([]) == HEADERS
    assert weight([1, 1]) == 2 * HEADERS + 2
