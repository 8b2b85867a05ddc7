"""Layer 5: run-pre matching: proof that what was built is what the kernel ships."""

from .beginning import Beginning, beginning
from .result import DataMatch, FunctionMatch, Proven, Status, UnitMatch
from .shipped import Shipped, ShippedVmlinux
from .shipped_module import ShippedModule
from .unit import match_unit

__all__ = [
    "Beginning",
    "DataMatch",
    "FunctionMatch",
    "Proven",
    "Shipped",
    "ShippedModule",
    "ShippedVmlinux",
    "Status",
    "UnitMatch",
    "beginning",
    "match_unit",
]
