"""What kbuild makes of a unit: make is asked, not imitated.

A directory's Makefile (or Kbuild) assigns objects to lists: `obj-y` (into vmlinux), `obj-m`
(modules), `lib-y` (lib.a), and `obj-` for what the configuration leaves out. A small makefile
includes it under the kernel's configuration and prints the lists, together with the parts of
composite objects (`ext4-y := balloc.o ...`). To find the option that would turn a unit on, the
same is asked again with one more option set.

How a unit was really compiled is in the `.NAME.o.cmd` file that kbuild leaves.
"""

from __future__ import annotations

import enum
import functools
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from ..base import proc
from ..base.errors import CompileError
from ..base.fs import read_text
from ..provider.toolchain import NATIVE, Toolchain

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
VERSION = re.compile(r"^(?:#SYMVER |__crc_)(\w+) (?:= )?(0x[0-9a-fA-F]+)", re.MULTILINE)
TOP_LEVEL_NOT_BUILT = ("tools", "scripts", "samples", "Documentation", "usr/include")
SHELL_CHARACTERS = "();<>|&"


class Fate(enum.StrEnum):
    """What the configuration makes of a unit."""

    BUILTIN = "builtin"
    MODULE = "module"
    LIBRARY = "lib.a"
    OFF = "off"


@dataclass(frozen=True)
class Membership:
    """Where a unit goes. `makefile` is the file that says so ("" when none names the unit).

    `target` is the object as kbuild names it, relative to the tree, which differs from the
    source's name when another directory builds it
    ("arch/x86/kvm/../../../virt/kvm/kvm_main.o"). `modules` are the paths, without suffix, of the
    modules that it is linked into ("fs/ext4/ext4"; more than one is rare). `options` are the
    configuration options that would turn an `OFF` unit on, "CONFIG_" included; empty when no
    single one does.
    """

    source: str
    fate: Fate
    makefile: str
    target: str
    modules: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Command:
    """How kbuild compiles a unit, from its .cmd file.

    `line` is the shell command; `steps` are its programs when it is a plain sequence, else empty.
    `dependencies` are the files that the compiler read, relative to the tree; `versions` the CRCs
    of the symbols that the unit exports, with modversions.
    """

    line: str
    steps: tuple[tuple[str, ...], ...]
    dependencies: tuple[str, ...]
    versions: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Lists:
    """The lists of one directory's Makefile; objects are relative to the directory.

    `modular` gives for each object the modules (without suffix) that it is linked into.
    """

    makefile: str
    builtin: frozenset[str]
    modular: Mapping[str, tuple[str, ...]]
    library: frozenset[str]
    directories: frozenset[str]

    @functools.cached_property
    def names(self) -> dict[str, str]:
        """Every object as it is written, by its path in the tree."""
        folder = posixpath.dirname(self.makefile)
        written = [*self.library, *self.modular, *self.builtin]  # the last one wins
        return {posixpath.normpath(f"{folder}/{name}"): name for name in written}


class Kbuild:
    """Asks make about the directories of one prepared tree; remembers what it said."""

    def __init__(self, tree: Path, toolchain: Toolchain = NATIVE) -> None:
        self.tree = tree
        self.toolchain = toolchain
        self._lists = functools.cache(self._ask)
        self._reaching_out = functools.cache(self._find_reaching_out)

    def membership(self, source: str) -> Membership:
        """What the configuration makes of the unit `source` ("fs/ext4/mballoc.c").

        Asks make once per directory on the way (about 20 ms each).
        """
        found = self._fate(source, ()) or self._foreign(source)
        if found is not None and found.fate is not Fate.OFF:
            return found
        makefile = found.makefile if found else self._nearest(source)
        closed, closed_by = self._closed_directory(source)
        if closed_by:
            options = self._options_for_directory(closed)
            return Membership(source, Fate.OFF, closed_by, "", options=options)
        return Membership(source, Fate.OFF, makefile, "", options=self._options_for(source))

    def membership_if_built(self, source: str) -> Membership | None:
        """The same, without the search for options: None when the unit is off."""
        found = self._fate(source, ()) or self._foreign(source)
        return found if found is not None and found.fate is not Fate.OFF else None

    def _fate(self, source: str, extra: tuple[str, ...]) -> Membership | None:
        """The fate of a unit with `extra` options set; None when no list has it."""
        for folder in PurePosixPath(source).parents:
            found = self._in_folder(source, str(folder), extra)
            if found is not None:
                return found
        return None

    def _in_folder(
        self, source: str, folder: str, extra: tuple[str, ...] = ()
    ) -> Membership | None:
        """The fate of a unit as far as the Makefile of `folder` decides it."""
        lists = self._lists(folder, extra)
        if lists is None:
            return None
        name = lists.names.get(posixpath.splitext(source)[0] + ".o")
        if name is None:
            return None
        fate, modules = Fate.LIBRARY, lists.modular.get(name, ())
        if name in lists.builtin:
            fate = Fate.BUILTIN
        elif modules:
            fate = Fate.MODULE
        if self._closed_directory(f"{folder}/x.c", extra)[1]:
            fate = Fate.OFF
        paths = tuple(f"{folder}/{module}" for module in modules)
        return Membership(source, fate, lists.makefile, f"{folder}/{name}", paths)

    def _foreign(self, source: str) -> Membership | None:
        """A unit that a Makefile elsewhere builds by a `../` path."""
        for folder in self._reaching_out():
            found = self._in_folder(source, folder)
            if found is not None and found.fate is not Fate.OFF:
                return found
        return None

    def _find_reaching_out(self) -> tuple[str, ...]:
        """The directories whose Makefiles mention `../` or include another (70 of 2,000)."""
        argv = ["grep", "-rlE", r"\.\./|^-?include ", "--include=Makefile", "--include=Kbuild"]
        tops = ("arch/x86", "drivers", "fs", "net", "kernel", "sound", "lib", "security", "crypto")
        present = [top for top in tops if (self.tree / top).is_dir()]
        found = proc.run([*argv, *present], cwd=self.tree, check=False).stdout.split()
        return tuple(sorted({str(PurePosixPath(name).parent) for name in found}))

    def _nearest(self, source: str) -> str:
        """The Makefile that would be the one to name a unit."""
        for folder in PurePosixPath(source).parents:
            makefile = self._makefile(str(folder))
            if makefile is not None:
                return str(makefile.relative_to(self.tree))
        return "Makefile"

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
            if (found := self._fate(source, (option,))) and found.fate is not Fate.OFF
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
        result = proc.run(self.toolchain.inside(argv), cwd=self.tree, input=PROBE, check=False)
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
    builtin = {
        part for name in lists["y"] for part in composite.get(name, {name}) if part.endswith(".o")
    }
    modular: dict[str, list[str]] = {}
    for name in sorted(lists["m"] - lists["y"]):
        for part in composite.get(name, {name}):
            if part.endswith(".o") and part not in builtin:
                modular.setdefault(part, []).append(name.removesuffix(".o"))
    return Lists(
        makefile=makefile,
        builtin=frozenset(builtin),
        modular={part: tuple(modules) for part, modules in modular.items()},
        library=frozenset(lists["lib"]) - builtin,
        directories=frozenset(directories),
    )


def command_file(tree: Path, source: str) -> Path:
    """Where kbuild leaves the command of a unit."""
    path = PurePosixPath(source)
    return tree / path.parent / f".{path.stem}.o.cmd"


def parse_command(text: str, source: str) -> Command:
    """Reads a .cmd file. Raises CompileError when it is not one."""
    match = COMMAND.search(text)
    if match is None:
        raise CompileError(f"kbuild left no command for {source}")
    line = match.group(1).replace("$(pound)", "#").replace("$$", "$").strip()
    dependencies = DEPENDENCIES.search(text)
    return Command(
        line=line,
        steps=split_steps(line),
        dependencies=parse_dependencies(dependencies.group(1)) if dependencies else (),
        versions=parse_versions(text),
    )


def parse_versions(text: str) -> dict[str, int]:
    """The lines of genksyms, by symbol: `#SYMVER name 0xCRC`, or older, `__crc_name = 0xCRC;`."""
    return {name: int(crc, 16) for name, crc in VERSION.findall(text)}


def split_steps(line: str) -> tuple[tuple[str, ...], ...]:
    """Splits a shell line at its `;` into programs; empty when it needs a real shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=SHELL_CHARACTERS)
    lexer.whitespace_split = True
    lexer.commenters = ""
    steps: list[list[str]] = [[]]
    try:
        words = list(lexer)
    except ValueError:  # a quotation that does not end
        return ()
    for word in words:
        if set(word) == {";"}:
            steps.append([])
        elif set(word) <= set(SHELL_CHARACTERS) or "`" in word or "$(" in word:
            return ()
        else:
            steps[-1].append(word)
    return tuple(tuple(step) for step in steps if step)


def parse_dependencies(text: str) -> tuple[str, ...]:
    """The files of a make dependency list (of a .cmd or a .d file)."""
    text = re.sub(r"\$\(wildcard [^)]*\)", "", text)
    words = text.replace("\\\n", " ").split()
    return tuple(word for word in words if word != "\\" and not word.endswith(":"))
