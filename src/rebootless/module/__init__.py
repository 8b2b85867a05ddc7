"""Layer 6: Deltas with proven addresses -> one patch module.

resolve   a reference into the kernel -> export, livepatch symbol, or another unit
emit      one unit's pieces -> a relocatable object
link      all objects and the C glue -> .ko, with the kernel's own kbuild
relocs    .ko -> .ko with livepatch relocations
"""
