"""Layer 8: a distribution's update -> live patches, what needs none, and what needs a reboot.

Pure: nothing here compiles, downloads or writes.

model     what the two halves of `translate` tell each other: plans, candidates, results, totals
"""
