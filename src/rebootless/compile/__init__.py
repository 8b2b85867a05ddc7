"""Layer 4: the touched units, compiled as they are and as the patch makes them."""
