"""Layer 8: whether the code that runs is the code that was shipped.

    code        the shipped code of the kernel or a module, moved to where it runs
    layouts     the structs of the tables that name the places the kernel rewrites
    tables      those tables
    live        what the running kernel says of itself: keys, trampolines, probes, patches
    sites       places with a few legitimate values, all at once (returns, lock prefixes, labels)
    variants    places with alternatives, decided by what the instructions do
    holders     calls of ftrace, kprobes, redirections by live patches
    compare     code and memory -> findings by function

Nothing is masked: a byte that differs from the shipped one needs a reason that the tables or the
running kernel give, and counts as a difference, or as not decided, without one.
"""
