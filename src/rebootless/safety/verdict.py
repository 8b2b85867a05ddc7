"""What a safety check answers."""

from __future__ import annotations

from dataclasses import dataclass

from ..diff.delta import Finding


@dataclass(frozen=True)
class Verdict:
    """Refusals stop the build; warnings are told, and kept in the manifest."""

    refused: tuple[Finding, ...] = ()
    warnings: tuple[Finding, ...] = ()

    def __add__(self, other: Verdict) -> Verdict:
        """Both verdicts, each finding once."""
        return Verdict(
            tuple(dict.fromkeys(self.refused + other.refused)),
            tuple(dict.fromkeys(self.warnings + other.warnings)),
        )
