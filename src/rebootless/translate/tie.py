"""Which entry of the changelog a candidate is."""

from __future__ import annotations

from collections.abc import Sequence

from .model import Candidate, Dropped, Entry


def tied(
    candidates: tuple[Candidate, ...], dropped: tuple[Dropped, ...], entries: Sequence[Entry]
) -> tuple[tuple[Candidate, ...], tuple[Dropped, ...]]:
    """Candidates and dropped changes with the entries that they are taken to be."""
    return candidates, dropped
