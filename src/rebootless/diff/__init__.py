"""Layer 5: two objects of one translation unit -> Delta. Pure: no I/O, nothing is mutated.

normalize   object -> atoms        (section symbols, pools and numbering are gone)
correlate   atoms <-> atoms
compare     which differ, and why
verdict     what must be refused
include     what goes into the patch
"""

from .delta import Delta
from .differ import diff

__all__ = ["Delta", "diff"]
