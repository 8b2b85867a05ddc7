"""A kernel's source, configured and prepared, twice: `orig` and its twin `patched`.

    cache/trees/RELEASE-FINGERPRINT/
        orig/       the pristine source, prepared; never changed after that
        patched/    hard links to orig; the patch's files replace links for the time of a build
        objects/    compiled originals and their commands, by unit
        journal     the paths of `patched` that are to be put back (see twin.py)
        lock        held while building

Both trees compile with the same relative paths and command lines, so that nothing but the patch
can make the objects differ. The tree is configured exactly as the shipped kernel; its units compile
with each function in a section of its own and with debug information, which tells their types and
lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..base import proc
from ..base.errors import CommandError, CompileError, NotFoundError, ResourceError
from ..base.events import Monitor, Note, NullMonitor, Warned, stage
from ..base.fs import (
    atomic_write,
    cache_root,
    is_full,
    locked,
    os_failure,
    read_bytes,
    read_text,
    remove_tree,
)
from ..base.workdir import fingerprint
from ..kernel import config as kernel_config
from ..provider.base import KernelFiles, SourceTarball, SourceTree
from ..provider.rootmaking import obtain
from ..provider.toolchain import NATIVE, Toolchain
from . import untar

LAYOUT = "trees-2"
MARKER = ".complete"
SECTION_FLAGS = ("-ffunction-sections", "-fdata-sections")
# Types, lines and inlining. Where each variable lives (var-tracking) is what makes -g slow.
DEBUG_FLAGS = ("-g", "-fno-var-tracking")
MODULE_FLAGS = (*SECTION_FLAGS, "-g0")
PAHOLE = "scripts/pahole-of-the-build"
# What delays objtool in scripts/Makefile.lib.
OBJTOOL_DELAYED = ("X86_KERNEL_IBT", "LTO_CLANG", "KLP_BUILD")
OF_ONE_OBJECT = "is-single-obj-m"  # in scripts/Makefile.build
# What Debian takes out of the configuration that it ships; what tells of programs that sign; and
# whether Rust is there, of which C code sees nothing.
HARMLESS = re.compile(
    r"BUILD_SALT|MODULE_SIG_(ALL|KEY)|SYSTEM_TRUSTED_KEYS|OPENSSL_SUPPORTS_\w+"
    r"|RUST|RUSTC?_\w+|BINDGEN_\w+"
)
MISSING_KCONFIG = re.compile(r"can't open file \"([^\"]+)\"")
SOURCED = re.compile(r'^\s*source\s+"([^"$]+)"', re.MULTILINE)
KCONFIG_FILES = ("Kconfig", "crypto/Kconfig", "drivers/Kconfig", "lib/Kconfig.debug")
PROGRAMS = {
    "make": "make", "gcc": "gcc", "flex": "flex", "bison": "bison", "bc": "bc", "perl": "perl",
    "patch": "patch", "tar": "tar", "xz": "xz-utils",
}  # fmt: skip
HEADERS = {"gelf.h": "libelf-dev", "openssl/opensslv.h": "libssl-dev"}


@dataclass(frozen=True)
class Tree:
    """A prepared source tree and its twin.

    `root` holds both, the lock and the cached objects. `compiler` is the program ("gcc-12"), and
    `toolchain` where it is: all programs that compile run through `inside`.
    `desk` is the folder of a twin and a lock of one's own, where several work at the same tree
    (see desk.py).
    """

    release: str
    root: Path
    compiler: str
    desk: Path | None = None
    toolchain: Toolchain = NATIVE

    @property
    def orig(self) -> Path:
        """The pristine prepared source; external modules are built against it."""
        return self.root / "orig"

    @property
    def patched(self) -> Path:
        """The twin in which patched units compile."""
        return self.bench / "patched"

    @property
    def bench(self) -> Path:
        """The folder of the twin, its journal and its lock."""
        return self.desk or self.root

    @property
    def objects(self) -> Path:
        """Where compiled originals are kept."""
        return self.root / "objects"

    def make(self, *arguments: str, jobs: int = 2) -> list[str]:
        """The command line of make for `M=DIR` module builds."""
        return self.inside(
            make_command(self.orig, self.release, self.compiler, *arguments, jobs=jobs)
        )

    def inside(self, argv: Sequence[str | Path]) -> list[str]:
        """The command line that runs `argv` where the tree's compiler and host programs are."""
        return self.toolchain.inside(argv)

    def make_units(self, *targets: str, jobs: int = 2) -> list[str]:
        """The command line of make for targets in `orig`.

        Always the same variables: kbuild remakes what is prepared when a command line changes.
        """
        flags = unit_flags(self.root)
        argv = make_command(
            self.orig,
            self.release,
            self.compiler,
            *objtool_now(self.orig),
            *targets,
            jobs=jobs,
            flags=flags,
        )
        return self.inside(argv)

    @contextlib.contextmanager
    def locked(self, monitor: Monitor | None = None) -> Iterator[None]:
        """Holds the tree for a build; says so when another one has to end first."""
        shown = monitor or NullMonitor()
        note = Note(f"waiting for another build for {self.release} to end")
        with locked(self.bench / "lock", waiting=lambda: shown.emit(note)):
            yield


def unit_flags(root: Path) -> tuple[str, ...]:
    """What the units of a tree are compiled with, beside the kernel's own flags.

    The directory is not written into the objects: those of the two trees are equal byte for byte
    unless the patch changes them.
    """
    places = (f"-fdebug-prefix-map={root / side}=." for side in ("orig", "patched"))
    return (*SECTION_FLAGS, *DEBUG_FLAGS, *places)


def objtool_now(directory: Path) -> tuple[str, ...]:
    """The variable with which kbuild runs objtool on each unit of a configured source tree.

    With IBT or LTO, or made ready for klp-build, it puts objtool off until all of vmlinux is
    linked, or all of a module. A module of one object is its exception: there objtool sees the unit
    at once, with the flags it has at the link. That is what each unit is taken for.
    """
    shipped = kernel_config.parse(read_text(directory / ".config"))
    delayed = any(shipped.enabled(option) for option in OBJTOOL_DELAYED)
    return (f"{OF_ONE_OBJECT}=y",) if delayed else ()


def make_command(
    directory: Path,
    release: str,
    compiler: str,
    *arguments: str,
    jobs: int = 2,
    flags: Sequence[str] = MODULE_FLAGS,
) -> list[str]:
    """make in `directory` with the variables that every call of it must have.

    `flags` are for the compiler; modules get no debug information, which would make them large.

    CONFIG_DEBUG_INFO_BTF is emptied for make only (not for the code, which sees autoconf.h): a
    unit needs none of BTF's tools, and building them takes 8 seconds.
    """
    pahole = [f"PAHOLE={PAHOLE}"] if (directory / PAHOLE).exists() else []
    return [
        "make",
        "-C",
        str(directory),
        f"-j{jobs}",
        f"CC={compiler}",
        f"KCFLAGS={' '.join(flags)}",
        f"KERNELRELEASE={release}",
        "CONFIG_DEBUG_INFO_BTF=",
        *pahole,
        *arguments,
    ]


def prepare(files: KernelFiles, monitor: Monitor) -> Tree:
    """The prepared tree of a kernel, from the cache or made now (about 20 s).

    Raises CompileError (a build dependency is missing, kbuild fails), NotFoundError, ResourceError
    (disk). An interrupted preparation leaves nothing that a later one would take for finished.
    """
    toolchain = obtain(files.compiler_text, monitor, program=files.compiler)
    key = _fingerprint(files, toolchain)
    root = cache_root() / "trees" / f"{files.release}-{key[:12]}"
    tree = Tree(files.release, root, files.compiler, toolchain=toolchain)
    if (root / MARKER).exists():
        return tree
    if not toolchain.enter:
        check_programs(files.compiler)
    note = Note(f"waiting for another one that prepares the source of {files.release}")
    with locked(root.with_name(f".{root.name}.lock"), waiting=lambda: monitor.emit(note)):
        if not (root / MARKER).exists():
            _make_tree(files, tree, monitor)
    return tree


def _fingerprint(files: KernelFiles, toolchain: Toolchain) -> str:
    return fingerprint(
        LAYOUT,
        " ".join(MODULE_FLAGS),
        files.release,
        files.version,
        files.compiler_text,
        read_bytes(files.config),
        read_bytes(files.symvers),
        _source_identity(files.source),
        *filter(None, [toolchain.identity]),
    )


def _source_identity(source: SourceTarball | SourceTree) -> str:
    """What tells one source from another without reading a gigabyte."""
    try:
        match source:
            case SourceTarball(path, strip, patches):
                status = path.stat()
                with path.open("rb") as file:
                    head = file.read(65536)
                    file.seek(max(0, status.st_size - 65536))
                    tail = file.read()
                texts = map(read_bytes, patches)
                return fingerprint(str(strip), str(status.st_size), head, tail, *texts)
            case SourceTree(path):
                return fingerprint(str(path.resolve()), *_stats(path))
    except OSError as exc:
        raise os_failure("read", source.path, exc) from exc


def _stats(root: Path) -> Iterator[str]:
    """Name, size and time of each source file of a directory, in order."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in (".git", "generated", "config"))
        for name in sorted(names):
            if name.endswith((".c", ".h", ".S")) or name.startswith(("Kconfig", "Make", "Kbuild")):
                status = os.stat(os.path.join(folder, name))  # noqa: PTH116, PTH118 (80,000 files)
                yield f"{folder}/{name} {status.st_size} {status.st_mtime_ns}"


def check_programs(compiler: str) -> None:
    """Raises CompileError with the packages to install when a build dependency is missing."""
    missing = {
        package: program for program, package in PROGRAMS.items() if not shutil.which(program)
    }
    if not shutil.which(compiler):
        missing[compiler] = compiler
    elif shutil.which("gcc"):
        for header, package in HEADERS.items():
            code = f"#include <{header}>\n"
            if proc.run(["gcc", "-E", "-x", "c", "-"], input=code, check=False).returncode:
                missing[package] = f"the header {header}"
    if missing:
        raise CompileError(
            "to prepare a kernel's source, these are missing: " + ", ".join(missing.values()),
            hint="apt install " + " ".join(missing),
        )


def _make_tree(files: KernelFiles, tree: Tree, monitor: Monitor) -> None:
    """Unpacks, configures and prepares; in place, since objtool's build knows its own path."""
    try:
        remove_tree(tree.root)
        tree.orig.mkdir(parents=True)
        config_text = read_text(files.config)
        left_out = [*untar.LEFT_OUT]
        if not kernel_config.parse(config_text).enabled("DRM_AMDGPU"):
            left_out.append(untar.AMDGPU_REGISTERS)
        with stage(monitor, "unpack", "Unpacking the kernel source"):
            untar.unpack(files.source, tree.orig, left_out)
            _stub_kconfig(tree.orig, left_out)
        with stage(monitor, "prepare", f"Preparing the source for {files.release}"):
            atomic_write(tree.orig / ".config", config_text)
            shutil.copyfile(files.symvers, tree.orig / "Module.symvers")
            _stand_in_for_pahole(tree.orig, config_text)
            _configure(tree)
            _compare_config(config_text, read_text(tree.orig / ".config"), monitor)
            _run_make(tree, "modules_prepare")
            _check_release(tree)
        with stage(monitor, "twin", "Linking the twin tree"):
            proc.run(["cp", "-al", tree.orig, tree.patched])
        record = {"release": tree.release, "compiler": tree.compiler, "left_out": left_out}
        atomic_write(tree.root / MARKER, json.dumps(record, indent=1))
    except BaseException as exc:
        # Programs say so in many ways; asked before the room is there again.
        full = isinstance(exc, CommandError | CompileError) and is_full(tree.root)
        shutil.rmtree(tree.root, ignore_errors=True)
        if isinstance(exc, OSError):
            raise os_failure("prepare", tree.root, exc) from exc
        if full:
            raise ResourceError(
                f"no space left for the kernel's source in {tree.root.parent}",
                hint="free some space (1 GB), or set REBOOTLESS_CACHE to another disk",
            ) from exc
        raise


def left_out_of(tree: Tree) -> tuple[str, ...]:
    """The directories of the source that the tree does not have."""
    return tuple(json.loads(read_text(tree.root / MARKER))["left_out"])


def _stub_kconfig(orig: Path, left_out: Sequence[str]) -> None:
    """Puts empty files where the kept Kconfig files source ones that were left out."""
    for name in KCONFIG_FILES:
        path = orig / name
        for wanted in SOURCED.findall(read_text(path)) if path.exists() else ():
            if wanted.startswith(tuple(f"{d}/" for d in left_out)):
                _stub(orig / wanted)


def _stub(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _stand_in_for_pahole(orig: Path, config_text: str) -> None:
    """A program that states the version of pahole that the kernel was built with.

    Kconfig asks for it, and without pahole it turns DEBUG_INFO_BTF_MODULES off, which moves the
    fields of `struct module`. Nothing else here needs pahole.
    """
    version = kernel_config.parse(config_text).get("PAHOLE_VERSION") or "0"
    if version.isdigit() and int(version):
        text = f"#!/bin/sh\necho v{int(version) // 100}.{int(version) % 100}\n"
        atomic_write(orig / PAHOLE, text, mode=0o755)


def _configure(tree: Tree) -> None:
    """make olddefconfig; a Kconfig file of a part left out is replaced by an empty one."""
    for _ in range(10):
        try:
            _run_make(tree, "olddefconfig")
            return
        except CompileError as exc:
            missing = MISSING_KCONFIG.search(exc.message)
            if not missing or (tree.orig / missing.group(1)).exists():
                raise
            _stub(tree.orig / missing.group(1))
    raise CompileError("make olddefconfig keeps asking for Kconfig files that do not exist")


def _run_make(tree: Tree, target: str) -> None:
    try:
        proc.run(tree.make_units(target))
    except CommandError as exc:
        raise CompileError(
            f"the kernel source for {tree.release} could not be prepared: {exc.message}",
            hint="is the configuration that of this source, and the compiler the kernel's own?",
        ) from exc


def _compare_config(shipped: str, made: str, monitor: Monitor) -> None:
    """Warns about options that came out otherwise than shipped."""
    lines = [
        {line for line in text.splitlines() if line.startswith("CONFIG_")}  # no line, or: not set
        for text in (shipped, made)
    ]
    changed = {re.sub(r"^CONFIG_(\w+)=.*", r"\1", line) for line in lines[0] ^ lines[1]}
    if changed := {name for name in changed if not HARMLESS.fullmatch(name)}:
        shown = " ".join(sorted(changed)[:8]) + (" ..." if len(changed) > 8 else "")
        monitor.emit(
            Warned(
                f"{len(changed)} options differ from the shipped configuration ({shown}): "
                "the compiler or its tools are other ones than the kernel was built with"
            )
        )


def _check_release(tree: Tree) -> None:
    path = tree.orig / "include/generated/utsrelease.h"
    if f'"{tree.release}"' not in read_text(path):
        raise CompileError(f"{path} does not say {tree.release}: {read_text(path).strip()}")
    if not (tree.orig / "scripts/mod/modpost").exists():
        raise NotFoundError("the prepared source lacks scripts/mod/modpost")
