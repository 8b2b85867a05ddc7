"""What verifying a running kernel found, as JSON values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from .compare import Verdict
from .examine import Skipped

KERNEL = "vmlinux"


@dataclass(frozen=True)
class Report:
    """The verdict on each object, and the loaded modules that were not compared."""

    release: str
    build_id: str
    verdicts: tuple[Verdict, ...]
    skipped: tuple[Skipped, ...]
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether nothing differs that is not accounted for."""
        return not any(verdict.differences for verdict in self.verdicts)

    @property
    def places(self) -> tuple[str, ...]:
        """Where code differs: function and offset, with the module's name."""
        return tuple(
            f"{d.function or '?'}+{d.offset:#x}" + (f" ({d.object})" if d.object != KERNEL else "")
            for v in self.verdicts
            for d in v.differences
        )

    def as_json(self) -> dict[str, Any]:
        """The report as JSON-able values; code is hex."""
        return {
            "release": self.release,
            "build_id": self.build_id,
            "clean": self.clean,
            "objects": [
                {"name": v.object, "size": v.size, "sites": [asdict(k) for k in v.kinds]}
                for v in self.verdicts
            ],
            "differences": [
                {**asdict(d), "expected": d.expected.hex(), "found": d.found.hex()}
                for v in self.verdicts
                for d in v.differences
            ],
            "redirected": [asdict(r) for v in self.verdicts for r in v.redirected],
            "undecided": [asdict(u) for v in self.verdicts for u in v.undecided],
            "not_compared": [asdict(s) for s in self.skipped],
            "seconds": round(self.seconds, 3),
        }
