"""How kbuild would compile units, asked for many at once and without compiling any (`make -n`).

For a unit make prints, beside what it would run, the very text that it would record in the unit's
.cmd file: it is an argument of fixdep (linux, cmd_and_fixdep in scripts/Kbuild.include). To ask
costs seconds, however many units are asked about, and a compilation by the command costs nothing
but the compiler. What kbuild would generate on the way (a table from a script) is not there then:
the unit does not compile, and kbuild has to be asked to.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ..base import proc
from ..base.fs import atomic_write, read_text
from . import kbuild
from .kbuild import Command, Membership
from .originals import object_path
from .tree import Tree

FIXDEP = re.compile(r"scripts/basic/fixdep \S+ (\S+) '((?:[^']|'\\'')*)' > \S+\.cmd")
# Before 5.19 the CRCs of exports are linked into the object by a command that is not recorded.
RECORDS_VERSIONS = "cmd_gen_symversions_c"


def path_of(tree: Tree, source: str) -> Path:
    """Where what make said of a unit is kept."""
    return tree.objects / "asked-g" / PurePosixPath(source).with_suffix(".cmd")


def asked(tree: Tree, source: str) -> Command | None:
    """How kbuild would compile a unit; None when it was not asked, or did not say."""
    path = path_of(tree, source)
    return kbuild.parse_command(read_text(path), source) if path.exists() else None


def ask(tree: Tree, units: Sequence[Membership]) -> None:
    """Asks kbuild about units and keeps what it says. Writes nothing into the source.

    Says nothing of units that kbuild has no plain command for; does nothing for kernels whose
    objects are not made by the recorded command alone.
    """
    if not units or not _is_recorded(tree):
        return
    wanted = {object_path(unit.source): unit.source for unit in units}
    targets = [unit.target for unit in units]
    said = proc.run(tree.make_units("-n", "-k", *targets, jobs=1), check=False).stdout
    for name, command in parse(said):
        if (source := wanted.get(name)) is not None:
            atomic_write(path_of(tree, source), f"cmd_{name} := {command}\n")


def parse(output: str) -> Iterable[tuple[str, str]]:
    """The objects in what `make -n` printed, each with the text of its command in a .cmd file."""
    for found in FIXDEP.finditer(output):
        yield posixpath.normpath(found[1]), found[2].replace("'\\''", "'").strip()


def record(command: Command, text: str, dependencies: Sequence[str], name: str) -> str:
    """A .cmd file as kbuild writes it: `text` has the command, the rest is known by compiling."""
    lines = "".join(f"  {path} \\\n" for path in dependencies)
    crcs = "".join(f"#SYMVER {symbol} {crc:#010x}\n" for symbol, crc in command.versions.items())
    return f"{text.strip()}\n\ndeps_{name} := \\\n{lines}\n{crcs}"


def _is_recorded(tree: Tree) -> bool:
    config = read_text(tree.orig / "include/config/auto.conf")
    if "CONFIG_MODVERSIONS=y" not in config:
        return True
    return RECORDS_VERSIONS in read_text(tree.orig / "scripts/Makefile.build")
