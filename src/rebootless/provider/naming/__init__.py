"""The namings that are known; another distribution is one more file and one more entry here."""

from __future__ import annotations

from collections.abc import Iterable

from .base import Facts, Naming, Usual, first_made, is_kernel
from .debian import Debian
from .fedora import Fedora
from .suse import Suse
from .ubuntu import Ubuntu

# The narrow ones first: Debian's takes every deb.
DEBIAN = Debian.title
NAMINGS: tuple[Naming, ...] = (Ubuntu(), Suse(), Fedora(), Debian())

__all__ = ["DEBIAN", "NAMINGS", "Facts", "Naming", "Usual", "is_kernel", "naming_of"]


def naming_of(facts: Iterable[Facts], compiler_text: str = "") -> Naming:
    """Whose naming packages follow; for plain directories the compiler tells. Else Debian's."""
    built = (n for n in NAMINGS if compiler_text and n.built(compiler_text))
    return first_made(NAMINGS, facts) or next(built, NAMINGS[-1])
