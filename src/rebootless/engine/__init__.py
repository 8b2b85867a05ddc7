"""Layer 7: takes a built module into a running kernel and out of it again.

Nothing here needs more than Python's standard library, so that the part of rebootless that runs on
a production machine has no dependencies there.
"""
