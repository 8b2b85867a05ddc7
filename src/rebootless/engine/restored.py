"""Right after an undo: does any function of the patch still lead to it?

Needs no image: the beginning of each function is looked at while the patch is in force, and again
afterwards. Where the image is at hand, all code is compared with it as well (`Comparison`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..base.words import counted
from . import text
from .machine import Machine
from .status import LivePatch, PatchedFunction

SHOWN = 5  # differences
BRANCHES = (0xE8, 0xE9)  # call, jmp
PLACES = (0, 4, 5, 9)  # where a redirection may be: at the entry, behind endbr64, behind the fentry


@dataclass(frozen=True)
class Entries:
    """The functions of a patch while it is in force: where they are, and how they begin."""

    places: tuple[text.Place, ...]
    codes: Mapping[PatchedFunction, bytes]


@dataclass(frozen=True)
class Comparison:
    """What became of comparing all code of a kernel with the shipped image.

    `clean` is None when it could not be compared; `why` tells the reason then. `differences` are
    functions with offsets; `seconds` is how long it took.
    """

    clean: bool | None
    differences: tuple[str, ...] = ()
    seconds: float = 0.0
    why: str = ""

    @property
    def text(self) -> str:
        """One line for people."""
        if self.clean is None:
            return f"not compared with the shipped image: {self.why}"
        if self.clean:
            return f"as shipped ({self.seconds:.1f} s)"
        shown = ", ".join(self.differences[:SHOWN]) + (", ..." if self.differences[SHOWN:] else "")
        told = counted(len(self.differences), "difference")
        return f"{told} from the shipped image ({self.seconds:.1f} s): {shown}"


def look(machine: Machine, patch: LivePatch) -> Entries:
    """Looks at the functions of a patch; at none where the kernel's memory may not be read.

    A patch that is not in force redirects none.
    """
    if not patch.enabled:
        return Entries((), {})
    places = text.locate(machine, patch.functions)
    return Entries(places, text.entries(machine, places))


def still_redirected(
    machine: Machine, before: Entries, others: Sequence[LivePatch]
) -> tuple[PatchedFunction, ...]:
    """The functions that still lead elsewhere; `others` are the patches that are there now.

    Those that another patch or a tracer holds are left out: what is there is theirs.
    """
    after = text.entries(machine, before.places)
    suspects = [f for f, code in before.codes.items() if f in after and remains(code, after[f])]
    if not suspects:
        return ()
    held = {f.key for patch in others if patch.enabled for f in patch.functions}
    traced = text.traced(machine) or frozenset()
    return tuple(f for f in suspects if f.key not in held and f.name not in traced)


def remains(before: bytes, after: bytes) -> bool:
    """Whether the branch with which a function began while it was redirected is still there; pure.

    Taking it away changes the beginning, whatever stands behind it.
    """
    return before == after and any(before[at] in BRANCHES for at in PLACES if at < len(before))
