"""Lets the tests of this folder import its helper `integrity_code`, and that of the kernel's."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "kernel"))
