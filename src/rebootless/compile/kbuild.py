"""What kbuild makes of a unit: make is asked, not imitated.

A directory's Makefile (or Kbuild) assigns objects to lists: `obj-y` (into vmlinux), `obj-m`
(modules), `lib-y` (lib.a), and `obj-` for what the configuration leaves out. A small makefile
includes it under the kernel's configuration and prints the lists, together with the parts of
composite objects (`ext4-y := balloc.o ...`). To find the option that would turn a unit on, the
same is asked again with one more option set.

What a unit really compiled to is in the `.NAME.o.cmd` file that kbuild leaves: the command lines
and the module it belongs to.
"""

from __future__ import annotations

import enum
import functools
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..base import proc
from ..base.errors import CompileError
from ..base.fs import read_text

PROBE = """
obj := $(REBOOTLESS_DIR)
src := $(obj)
srctree := .
objtree := .
SRCARCH := x86
include include/config/auto.conf
include $(firstword $(wildcard $(obj)/Kbuild $(obj)/Makefile))
parts = $($(1:.o=-objs)) $($(1:.o=-y)) $(if $(2),$($(1:.o=-m)))
$(info list y $(obj-y))
$(info list m $(obj-m))
$(info list lib $(lib-y) $(lib-m))
$(info list dirs $(subdir-y) $(subdir-m))
$(info list off $(obj-) $(lib-))
$(foreach o,$(sort $(filter %.o,$(obj-y))),$(info parts y $o $(call parts,$o,)))
$(foreach o,$(sort $(filter %.o,$(obj-m))),$(info parts m $o $(call parts,$o,m)))
.PHONY: rebootless
rebootless: ; @:
.DEFAULT_GOAL := rebootless
"""
OPTION = re.compile(r"CONFIG_(\w+)")
# kbuild writes `$` as `$$` and `#` as `$(pound)` into .cmd files.
COMMAND = re.compile(r"^(?:saved)?cmd_\S+ := (.*)$", re.MULTILINE)
DEPENDENCIES = re.compile(r"^deps_\S+ := \\\n(.*?)\n\n", re.MULTILINE | re.DOTALL)
MODULE_FILE = re.compile(r"""-DKBUILD_MODFILE='?"?([^'"]*)""")
TOP_LEVEL_NOT_BUILT = ("tools", "scripts", "samples", "Documentation", "usr/include")
SHELL_WORDS = frozenset({"&&", "||", "|", "(", ")", "{", "}", "<", ">", ">>", "&"})


class Fate(enum.StrEnum):
    """What the configuration makes of a unit."""

    BUILTIN = "builtin"
    MODULE = "module"
    LIBRARY = "lib.a"
    OFF = "off"


@dataclass(frozen=True)
class Membership:
    """Where a unit goes. `makefile` is the file that says so ("" when none names the unit).

    `options` are the configuration options that would turn an `OFF` unit on, "CONFIG_" included;
    empty when no single one does.
    """

    source: str
    fate: Fate
    makefile: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """How kbuild compiles a unit, from its .cmd file.

    `line` is the shell command; `steps` are its programs when it is a plain sequence, else empty.
    `module` is the module's name ("vmlinux" when built in), `module_path` its path without suffix
    ("fs/ext4/ext4"; "" when built in). `dependencies` are files read, relative to the tree.
    """

    line: str
    steps: tuple[tuple[str, ...], ...]
    module: str
    module_path: str
    dependencies: tuple[str, ...]


@dataclass(frozen=True)
class Lists:
    """The lists of one directory's Makefile; objects are relative to the directory."""

    makefile: str
    builtin: frozenset[str]
    modular: frozenset[str]
    library: frozenset[str]
    directories: frozenset[str]
    named: frozenset[str]


class Kbuild:
    """Asks make about the directories of one prepared tree; remembers what it said."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self._lists = functools.cache(self._ask)

    def membership(self, source: str) -> Membership:
        """What the configuration makes of the unit `source` ("fs/ext4/mballoc.c").

        Asks make once per directory on the way (about 20 ms each).
        """
        fate, makefile = self._fate(source, ())
        if fate is not Fate.OFF:
            return Membership(source, fate, makefile)
        closed, closed_by = self._closed_directory(source)
        if closed_by:
            return Membership(source, fate, closed_by, self._options_for_directory(closed))
        return Membership(source, fate, makefile, self._options_for(source))

    def is_named(self, source: str) -> bool:
        """Whether some Makefile compiles the file itself, under any configuration."""
        if self._fate(source, ())[0] is not Fate.OFF:
            return True
        return bool(self._options_for(source))

    def _fate(self, source: str, extra: tuple[str, ...]) -> tuple[Fate, str]:
        """The fate of a unit with `extra` options set, and the Makefile that decides."""
        path = PurePosixPath(source).with_suffix(".o")
        nearest = ""
        for folder in path.parents:
            lists = self._lists(str(folder), extra)
            if lists is None:
                continue
            nearest = nearest or lists.makefile
            name = str(path.relative_to(folder))
            for fate, objects in (
                (Fate.BUILTIN, lists.builtin),
                (Fate.MODULE, lists.modular),
                (Fate.LIBRARY, lists.library),
            ):
                if name in objects:
                    reached = self._closed_directory(f"{folder}/x.c", extra)[1] == ""
                    return (fate if reached else Fate.OFF), lists.makefile
        return Fate.OFF, nearest

    def _closed_directory(self, source: str, extra: tuple[str, ...] = ()) -> tuple[str, str]:
        """The outermost directory above `source` that is not descended into, and who says so."""
        folders = [str(p) for p in PurePosixPath(source).parents if str(p) != "."][::-1]
        if folders and folders[0] in TOP_LEVEL_NOT_BUILT:
            return folders[0], "Makefile"
        # The top level, and arch/x86 below it, are put together by the top Makefiles.
        start = 2 if folders[:1] == ["arch"] else 1
        if start == 2 and self._lists("arch/x86", extra) is not None and len(folders) > 2:
            first = folders[2].removeprefix("arch/x86/")
            if first in ("pci", "power", "video", "lib", "math-emu"):
                start = 3  # arch/x86/Makefile
        for folder in folders[start:]:
            decided = self._entered(folder, folders, extra)
            if decided and decided != "yes":
                return folder, decided
        return "", ""

    def _entered(self, folder: str, folders: Sequence[str], extra: tuple[str, ...]) -> str:
        """ "yes", the Makefile that leaves `folder` out, or "" when it has no Makefile."""
        if self._makefile(folder) is None:
            return ""
        nearest = ""
        for parent in [f for f in folders if folder.startswith(f + "/")][::-1]:
            lists = self._lists(parent, extra)
            if lists is None:
                continue
            nearest = nearest or lists.makefile
            if folder.removeprefix(parent + "/") in lists.directories:
                return "yes"
        return nearest

    def _options_for(self, source: str) -> tuple[str, ...]:
        """Single options that turn a unit of an entered directory on."""
        folder = str(PurePosixPath(source).parent)
        return tuple(
            f"CONFIG_{option}"
            for option in self._candidates(folder)
            if self._fate(source, (option,))[0] is not Fate.OFF
        )

    def _options_for_directory(self, folder: str) -> tuple[str, ...]:
        """Single options that make kbuild descend into a directory."""
        return tuple(
            f"CONFIG_{option}"
            for option in self._candidates(str(PurePosixPath(folder).parent), folder)
            if self._closed_directory(f"{folder}/x.c", (option,))[1] == ""
        )

    def _candidates(self, folder: str, about: str = "") -> list[str]:
        """The options that a directory's Makefile mentions (in lines about `about`, if any are)."""
        makefile = self._makefile(folder)
        if makefile is None:
            return []
        text = read_text(makefile)
        name = PurePosixPath(about).name
        near = [line for line in text.splitlines() if about and f"{name}/" in line]
        return list(dict.fromkeys(OPTION.findall("\n".join(near)) or OPTION.findall(text)))

    def _makefile(self, folder: str) -> Path | None:
        for name in ("Kbuild", "Makefile"):
            path = self.tree / folder / name
            if path.is_file():
                return path
        return None

    def _ask(self, folder: str, extra: tuple[str, ...]) -> Lists | None:
        """Runs the probe in one directory."""
        makefile = self._makefile(folder)
        if makefile is None or folder == ".":
            return None
        argv = ["make", "-s", "--no-print-directory", "-r", "-f", "-", f"REBOOTLESS_DIR={folder}"]
        argv += [f"CONFIG_{option}=y" for option in extra] + ["rebootless"]
        result = proc.run(argv, cwd=self.tree, input=PROBE, check=False)
        return parse_lists(result.stdout, str(makefile.relative_to(self.tree)))


def parse_lists(output: str, makefile: str) -> Lists:
    """Reads the probe's output; a composite object is replaced by its parts."""
    lists: dict[str, set[str]] = {k: set() for k in ("y", "m", "lib", "dirs", "off")}
    composite: dict[str, set[str]] = {}
    for line in output.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] == "list" and words[1] in lists:
            lists[words[1]] |= set(words[2:])
        elif words[0] == "parts" and len(words) > 3:
            composite.setdefault(words[2], set()).update(words[3:])
    directories = {w.strip("/") for w in lists["y"] | lists["m"] if w.endswith("/")}
    directories |= {w.strip("/") for w in lists["dirs"]}

    def real(names: set[str]) -> frozenset[str]:
        found: set[str] = set()
        for name in names:
            found |= composite.get(name, {name})
        return frozenset(name for name in found if name.endswith(".o"))

    builtin = real(lists["y"])
    return Lists(
        makefile=makefile,
        builtin=builtin,
        modular=real(lists["m"]) - builtin,
        library=frozenset(lists["lib"]) - builtin,
        directories=frozenset(directories),
        named=frozenset().union(*lists.values()),
    )


def command_file(tree: Path, source: str) -> Path:
    """Where kbuild leaves the command of a unit."""
    path = PurePosixPath(source)
    return tree / path.parent / f".{path.stem}.o.cmd"


def parse_command(text: str, source: str) -> Command:
    """Reads a .cmd file. Raises CompileError when it is not one, or names several modules."""
    match = COMMAND.search(text)
    if match is None:
        raise CompileError(f"kbuild left no command for {source}")
    line = match.group(1).replace("$(pound)", "#").replace("$$", "$").strip()
    module_file = MODULE_FILE.search(line)
    path = module_file.group(1).strip() if module_file else ""
    if " " in path or ":" in path:
        raise CompileError(
            f"{source} is part of several modules at once ({path})",
            hint="patch the functions in a file that belongs to one module",
        )
    modular = " -DMODULE " in f" {line} "
    dependencies = DEPENDENCIES.search(text)
    return Command(
        line=line,
        steps=split_steps(line),
        module=path.rsplit("/", 1)[-1].replace("-", "_") if modular else "vmlinux",
        module_path=path if modular else "",
        dependencies=parse_dependencies(dependencies.group(1)) if dependencies else (),
    )


def split_steps(line: str) -> tuple[tuple[str, ...], ...]:
    """Splits a shell line at its `;` into programs; empty when it needs a real shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";")
    lexer.whitespace_split = True
    lexer.commenters = ""
    steps: list[list[str]] = [[]]
    for word in lexer:
        if set(word) == {";"}:
            steps.append([])
        elif word in SHELL_WORDS or "`" in word or "$(" in word:
            return ()
        else:
            steps[-1].append(word)
    return tuple(tuple(step) for step in steps if step)


def parse_dependencies(text: str) -> tuple[str, ...]:
    """The files of a make dependency list (of a .cmd or a .d file)."""
    text = re.sub(r"\$\(wildcard [^)]*\)", "", text)
    words = text.replace("\\\n", " ").split()
    return tuple(word for word in words if word != "\\" and not word.endswith(":"))
