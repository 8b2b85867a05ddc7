"""Command lines of kernels: the running one's, and what a boot loader would pass; pure text.

What the boot loader adds for itself is taken off: the running kernel shows it (BOOT_IMAGE, initrd),
and it would be wrong for another kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Blanks inside of double quotes belong to the word, as in the kernel's next_arg().
_WORD = re.compile(r'(?:[^\s"]|"[^"]*"?)+')
_OF_THE_LOADER = ("BOOT_IMAGE=", "initrd=")
_SPECIAL = ("single", "s", "S", "1", "rescue", "emergency", "-b")
_SPECIAL_BEGINNINGS = ("systemd.unit=", "init=", "rdinit=", "rd.break")
CRASH_KERNEL = "elfcorehdr="
END_OF_KERNEL = "--"  # what comes after it is for init


def words(text: str) -> tuple[str, ...]:
    """The parameters of a command line, quotes kept."""
    return tuple(_WORD.findall(text))


def cleaned(text: str) -> str:
    """A command line without what the boot loader put there."""
    return " ".join(w for w in words(text) if not w.startswith(_OF_THE_LOADER))


def with_more(text: str, more: str) -> str:
    """A command line with more parameters for the kernel at its end."""
    before, end, after = (f" {text} ").partition(f" {END_OF_KERNEL} ")
    kernel = " ".join([*words(before), *words(more)])
    return f"{kernel} {END_OF_KERNEL} {after.strip()}".strip() if end else kernel


def special(text: str) -> tuple[str, ...]:
    """The parameters that make a boot one of a kind: rescue mode, another first process."""
    return tuple(w for w in words(text) if w in _SPECIAL or w.startswith(_SPECIAL_BEGINNINGS))


def from_grub(text: str, release: str) -> str | None:
    """The command line of a release's first entry in grub.cfg; None if it has none.

    Words with GRUB's own variables ($vt_handoff) are left out: only GRUB knows their values.
    """
    entry = re.compile(
        rf"^\s*linux(?:efi|16)?\s+\S*vmlinuz-{re.escape(release)}(?:\s+(.*))?$", re.M
    )
    found = entry.search(text)
    if found is None:
        return None
    return cleaned(" ".join(w for w in words(found[1] or "") if "$" not in w))


def from_entries(entries: Iterable[str], release: str) -> str | None:
    """The command line of a release's boot loader entry (systemd-boot); None if it has none.

    Keys and values as in the Boot Loader Specification, one a line.
    """
    for text in entries:
        pairs = [line.split(None, 1) for line in text.splitlines() if line.strip()]
        values: dict[str, list[str]] = {}
        for pair in pairs:
            values.setdefault(pair[0], []).append(pair[1].strip() if len(pair) == 2 else "")
        if release in values.get("version", []) or any(
            release in path.split("/") or path.endswith(f"-{release}")
            for path in values.get("linux", [])
        ):
            return cleaned(
                " ".join(w for w in words(" ".join(values.get("options", []))) if "$" not in w)
            )
    return None
