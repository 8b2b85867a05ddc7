"""Layer 6: what is unsafe about a patch though it can be built. Pure; each check is one file.

layout      types whose size, offsets or values change
preflight   what the shipped kernel says of the functions to be patched
quiescence  functions that never leave the stack
semantics   locks, references and error values that no longer pair up
"""

from .verdict import Verdict

__all__ = ["Verdict"]
