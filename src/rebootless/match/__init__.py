"""Layer 5: run-pre matching: proof that what was built is what the kernel ships."""

from .shipped import Shipped, ShippedModule, ShippedVmlinux
from .unit import DataMatch, FunctionMatch, Proven, Status, UnitMatch, match_unit

__all__ = [
    "DataMatch",
    "FunctionMatch",
    "Proven",
    "Shipped",
    "ShippedModule",
    "ShippedVmlinux",
    "Status",
    "UnitMatch",
    "match_unit",
]
