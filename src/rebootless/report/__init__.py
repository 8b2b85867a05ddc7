"""Layer 8: facts about a patch -> pages that people read.

facts         what there is to tell of each function (frozen, with a JSON form)
explain       two objects and their Delta -> these facts
disassembly   instructions, with symbols for what is relocated
alignment     two instruction sequences side by side
lines         the source line of an instruction, and the inlining that brought it there
references    what a function refers to, and what refers to it
patchview     the source patch, so that an instruction can point at its line
graph, page   SVG and HTML
"""
