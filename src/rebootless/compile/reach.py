"""How far a change of a header reaches: who is compiled anew, and who keeps the old code."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..base.fs import atomic_write

RECORD = "headers.json"


@dataclass(frozen=True)
class HeaderReach:
    """The touched headers; how many units that read them were rebuilt; files that were not.

    `kept` are files that may include a header and cannot be patched: assembly, early boot code,
    members of a lib.a, units of several modules.
    """

    headers: tuple[str, ...] = ()
    rebuilt: int = 0
    kept: tuple[str, ...] = ()


def write(folder: Path, reach: HeaderReach) -> None:
    """Keeps the facts in a stage's folder. Raises ResourceError."""
    atomic_write(folder / RECORD, json.dumps(asdict(reach), indent=1))


def read(folder: Path) -> HeaderReach:
    """The facts of a stage; those of a patch without headers when there is no record."""
    try:
        raw = json.loads((folder / RECORD).read_text())
        return HeaderReach(tuple(raw["headers"]), int(raw["rebuilt"]), tuple(raw["kept"]))
    except (OSError, ValueError, KeyError, TypeError):
        return HeaderReach()
