"""Layer 8: a distribution's update -> live patches, what needs none, and what needs a reboot.

model             plans, candidates, results, totals; with their JSON form
blocks            a diff as single changes, and diffs made of some of them
csource, facts    what is at file scope in C source; what each change defines and mentions
split, merge      what belongs together; what was missing when a part was compiled alone
sift, readers     what a kernel compiles of it; who uses what changes in a header
planning          the plan, out of all these
changelog, tie    what the package says of itself, and of which part it says it
outcome, totals   what a build's end means; how much of the update is covered
page              the report
parts, store      what a built part leaves to be linked, kept by content
"""
