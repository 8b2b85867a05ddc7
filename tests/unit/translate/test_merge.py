"""A part that does not compile alone takes in the neighbour that defines what it lacks."""

from __future__ import annotations

from dataclasses import replace

from rebootless.translate import blocks
from rebootless.translate.merge import merged
from rebootless.translate.model import Block, Candidate, key_of

TEXTS = {"a.c": "int f(void)\n{\n\treturn 1;\n}\n", "b.h": "int a;\n", "c.h": "int c;\n"}
EDITS = {
    "a.c": Block(3, ("\treturn 1;\n",), ("\treturn limit();\n",)),
    "b.h": Block(2, (), ("#define limit() 4\n",)),
    "c.h": Block(2, (), ("/* limit() is of b.h */\n", "int d;\n")),
}


def candidate(path: str) -> Candidate:
    diff = blocks.write_diff({path: [EDITS[path]]}, TEXTS, {})
    units = ("a.c",) if path == "a.c" else ("a.c", "z.c")
    readers = () if path == "a.c" else units
    return Candidate(key_of(diff, "b"), path, (path,), units, diff, readers=readers)


def test_it_takes_in_who_defines_what_is_missing() -> None:
    every = [candidate(path) for path in EDITS]
    found = merged(every, every[0], ["limit"], TEXTS.__getitem__, "b")
    assert found is not None
    assert found.paths == ("a.c", "b.h")
    assert found.units == ("a.c", "z.c")
    assert found.readers == ("z.c",)
    assert found.key == key_of(found.diff, "b") != every[0].key
    assert blocks.blocks_of(found.diff) == {"a.c": (EDITS["a.c"],), "b.h": (EDITS["b.h"],)}
    assert found.reasons[0] == "'limit' was missing when a.c was compiled alone"


def test_nobody_defines_it_or_too_many_do() -> None:
    every = [candidate(path) for path in EDITS]
    assert merged(every, every[0], ["unknown"], TEXTS.__getitem__, "b") is None
    many = [every[1]] * 5
    assert merged([every[0], *many], every[0], ["limit"], TEXTS.__getitem__, "b") is None


def test_of_too_many_those_that_change_what_the_message_names() -> None:
    every = [candidate(path) for path in EDITS]
    named = replace(every[1], symbols=("options",))
    many = [every[0], named, *[replace(every[1], key=str(n)) for n in range(5)]]
    found = merged(many, every[0], ["limit", "options"], TEXTS.__getitem__, "b")
    assert found is not None
    assert found.paths == ("a.c", "b.h")
