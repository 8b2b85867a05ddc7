"""What the kernel's taint number means, bit by bit (kernel: Documentation/admin-guide/
tainted-kernels.rst). A live patch always sets K; O and E come with any module that was not built
and signed by the distribution; the rest is what a bug report asks about.
"""

from __future__ import annotations

from dataclasses import dataclass

# bit -> (letter, meaning); the kernel has given out 0 to 19
FLAGS: tuple[tuple[str, str], ...] = (
    ("P", "a proprietary module was loaded"),
    ("F", "a module was force-loaded"),
    ("S", "the CPU or the system is used outside its specification"),
    ("R", "a module was force-unloaded"),
    ("M", "a machine check happened"),
    ("B", "a bad page was met"),
    ("U", "user space asked for the taint"),
    ("D", "the kernel has oopsed or hit a BUG"),
    ("A", "an ACPI table was overridden"),
    ("W", "the kernel has printed a warning with a stack trace"),
    ("C", "a staging driver was loaded"),
    ("I", "a firmware bug was worked around"),
    ("O", "a module from outside the kernel tree was loaded"),
    ("E", "a module without a valid signature was loaded"),
    ("L", "a soft lockup happened"),
    ("K", "the kernel was live-patched"),
    ("X", "the distribution's own flag"),
    ("T", "built with randomised structure layouts"),
    ("N", "an in-kernel test was run"),
    ("J", "user space wrote through fwctl into a device"),
)
ALARMING = "RMBDWL"


@dataclass(frozen=True)
class TaintFlag:
    """One bit that is set."""

    bit: int
    letter: str
    meaning: str


@dataclass(frozen=True)
class Taint:
    """The decoded taint of a kernel; `letters` as a panic message prints them."""

    value: int
    letters: str
    flags: tuple[TaintFlag, ...]

    @property
    def alarming(self) -> tuple[TaintFlag, ...]:
        """The flags that tell of damage that has happened, as opposed to unusual modules."""
        return tuple(flag for flag in self.flags if flag.letter in ALARMING)


def decode(value: int) -> Taint:
    """Decodes /proc/sys/kernel/tainted. Bits that this table does not know get the letter '?'."""
    flags = []
    for bit in range(max(value, 0).bit_length()):
        if value >> bit & 1:
            letter, meaning = FLAGS[bit] if bit < len(FLAGS) else ("?", f"unknown bit {bit}")
            flags.append(TaintFlag(bit, letter, meaning))
    return Taint(value, "".join(flag.letter for flag in flags), tuple(flags))
