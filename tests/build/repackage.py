"""A stock Debian kernel, packed again as other distributions pack theirs.

Only what a build of a file in fs/proc reads is packed: image, configuration, Module.symvers, some
modules in each distribution's compression, and the source without most of the drivers' code.
"""

from __future__ import annotations

import difflib
import gzip
import lzma
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import zstandard
from command_line import ALTERED, reduced_source

from rebootless.base import proc
from rebootless.base.fs import remove_tree
from rebootless.compile.tree import Tree
from rebootless.elf.constants import MAGIC
from rebootless.provider.base import KernelFiles, SourceTarball
from rebootless.provider.local import tree_version

# Code that nothing here compiles; Kconfig files and makefiles stay.
NO_CODE = ("fs/[a-oq-z]*", "mm", "crypto", "block", "ipc", "lib/crypto", "virt")
MADE = ("include/generated", "include/config", "arch/x86/include/generated", "Module.symvers")
MODULES = ("kernel/fs/fuse", "kernel/fs/nls", "kernel/net/sched")
MORE_MODULES = ("kernel/fs/isofs", "kernel/drivers/block")
Compress = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Packer:
    """What is packed, and a folder to work in. `source` is a directory named linux-VERSION."""

    kernel: KernelFiles
    work: Path
    source: Path

    @property
    def release(self) -> str:
        return self.kernel.release

    def place(self, source: Path, root: Path, target: str) -> Path:
        """Copies a file to a path under a package's root, by a hard link where that is possible."""
        path = root / target
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, path)
        return path

    def modules(
        self, root: Path, folders: tuple[str, ...], suffix: str, compress: Compress
    ) -> None:
        """Some folders of modules, each file compressed as the distribution does."""
        assert self.kernel.modules is not None
        for folder in folders:
            for path in sorted((self.kernel.modules / folder).rglob("*.ko")):
                inside = path.relative_to(self.kernel.modules)
                target = root / "lib/modules" / self.release / f"{inside}{suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(compress(path.read_bytes()))

    def headers(self, root: Path, folder: str) -> None:
        """What a headers package has, as far as it tells about the kernel."""
        self.place(self.kernel.symvers, root, f"{folder}/Module.symvers")
        self.place(self.kernel.config, root, f"{folder}/.config")
        header = root / folder / "include/generated/utsrelease.h"
        header.parent.mkdir(parents=True)
        header.write_text(f'#define UTS_RELEASE "{self.release}"\n')


def small_source(tree: Tree, target: Path) -> Path:
    """The source of a prepared tree as linux-VERSION, without code that nothing here compiles."""
    source = target / f"linux-{tree_version((tree.orig / 'Makefile').read_text())}"
    reduced_source(tree.orig, source)
    for path in (p for folder in NO_CODE for p in source.glob(f"{folder}/**/*.[chS]")):
        path.unlink()
    for name in MADE:
        remove_tree(source / name)
    for path in (
        p for folder in ("scripts", "tools", "arch/x86") for p in source.glob(f"{folder}/**/*")
    ):
        if path.is_file() and not path.suffix and path.open("rb").read(4) == MAGIC:
            path.unlink()  # a program of the prepared tree
    return source


def ubuntu(packer: Packer, out: Path) -> Path:
    """Five debs; the source is the tarball as it is."""
    release, files = packer.release, packer.kernel
    assert isinstance(files.source, SourceTarball)
    parts = ("image", "modules", "extra", "headers", "common", "source")
    roots = {name: packer.work / "ubuntu" / name for name in parts}
    packer.place(files.image, roots["image"], f"boot/vmlinuz-{release}")
    packer.place(files.config, roots["modules"], f"boot/config-{release}")
    packer.modules(roots["modules"], MODULES, ".zst", zstandard.ZstdCompressor(1).compress)
    packer.modules(roots["extra"], MORE_MODULES, ".zst", zstandard.ZstdCompressor(1).compress)
    packer.headers(roots["headers"], f"usr/src/linux-headers-{release}")
    build = roots["headers"] / "lib/modules" / release / "build"
    build.parent.mkdir(parents=True)
    build.symlink_to(f"/usr/src/linux-headers-{release}")
    base = release.removesuffix("-cloud-amd64")
    for name in ("Makefile", "scripts/Kconfig.include"):
        packer.place(packer.source / name, roots["common"], f"usr/src/linux-headers-{base}/{name}")
    folder, tarball = "usr/src/linux-source-6.1.0", files.source.path.name
    packer.place(files.source.path, roots["source"], f"{folder}/{tarball}")
    (roots["source"] / "usr/src" / tarball).symlink_to(f"linux-source-6.1.0/{tarball}")
    out.mkdir(parents=True)
    for key, name in {
        "image": f"linux-image-unsigned-{release}",
        "modules": f"linux-modules-{release}",
        "extra": f"linux-modules-extra-{release}",
        "headers": f"linux-headers-{release}",
        "common": f"linux-headers-{base}",
        "source": "linux-source-6.1.0",
    }.items():
        make_deb(roots[key], name, files.version, out)
    return out


def make_deb(root: Path, name: str, version: str, out: Path, architecture: str = "amd64") -> Path:
    """A deb of what is under `root`."""
    control = root / "DEBIAN/control"
    control.parent.mkdir(parents=True, exist_ok=True)
    control.write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nSource: linux\n"
        "Maintainer: Ubuntu Kernel Team <kernel-team@lists.ubuntu.com>\nDescription: repacked\n"
    )
    path = out / f"{name}_{version}_{architecture}.deb"
    proc.run(["dpkg-deb", "-Znone", "--root-owner-group", "-b", root, path])
    return path


def fedora(packer: Packer, out: Path) -> Path:
    """Binary rpms, and a source rpm whose patch makes the tarball what was built."""
    release, files, top = packer.release, packer.kernel, packer.work / "fedora"
    modules = f"lib/modules/{release}"
    roots = {name: top / name for name in ("core", "modules", "modules-core", "devel")}
    packer.place(files.image, roots["core"], f"{modules}/vmlinuz")
    packer.place(files.config, roots["core"], f"{modules}/config")
    (roots["core"] / modules / "symvers.gz").write_bytes(
        gzip.compress(files.symvers.read_bytes(), 1)
    )
    quick = [{"id": lzma.FILTER_LZMA2, "preset": 0}]

    def xz(data: bytes) -> bytes:
        return lzma.compress(data, check=lzma.CHECK_CRC32, filters=quick)

    packer.modules(roots["modules-core"], MODULES, ".xz", xz)
    packer.modules(roots["modules"], MORE_MODULES, ".xz", xz)
    packer.headers(roots["devel"], f"usr/src/kernels/{release}")
    sources = top / "SOURCES"
    sources.mkdir(parents=True)
    tarball = f"{packer.source.name}.tar.gz"
    altered = packer.source / ALTERED
    text = altered.read_text()
    before = text.replace("\tseq_printf(", "\tif (!v)\n\t\treturn 1;\n\tseq_printf(", 1)
    diff = difflib.unified_diff(
        before.splitlines(True), text.splitlines(True), f"a/{ALTERED}", f"b/{ALTERED}"
    )
    (sources / "patch-6.1-redhat.patch").write_text("".join(diff))
    altered.unlink()  # it is a link
    altered.write_text(before)
    words = ["tar", "-c", "-I", "gzip -1", "-f", sources / tarball, "-C", packer.source.parent]
    proc.run([*words, packer.source.name])
    altered.write_text(text)
    (sources / "linux-kernel-test.patch").touch()
    tags = [f"Source0: {tarball}", "Patch1: patch-%{series}-redhat.patch",
            "Patch999999: linux-kernel-test.patch"]  # fmt: skip
    _rpm("kernel", files.version, roots, top, out, tags, "Fedora Project", ["%define series 6.1"])
    return out


def suse(packer: Packer, out: Path) -> Path:
    """Binary rpms, and the source as a tree in two packages; the second build counts on its own."""
    release, files, top = packer.release, packer.kernel, packer.work / "suse"
    modules = f"usr/lib/modules/{release}"
    roots = {name: top / name for name in ("", "devel")}
    roots[""] = top / "default"
    packer.place(files.image, roots[""], f"{modules}/vmlinuz")
    packer.place(files.config, roots[""], f"boot/config-{release}")
    packer.modules(roots[""], MODULES, ".gz", lambda data: gzip.compress(data, 1))
    (roots[""] / "lib/modules" / release / "kernel").rename(roots[""] / modules / "kernel")
    shutil.rmtree(roots[""] / "lib")
    (roots[""] / "boot" / f"vmlinuz-{release}").symlink_to(f"../{modules}/vmlinuz")
    tree = f"usr/src/{packer.source.name}"
    packer.headers(roots["devel"], f"{tree}-obj/x86_64/default")
    version = f"{files.version}.1"
    _rpm("kernel-default", version, roots, top, out, [], "openSUSE")
    halves = {"source": top / "source", "devel": top / "makefiles"}
    for half in halves.values():
        (half / tree).parent.mkdir(parents=True)
    proc.run(["cp", "-alT", packer.source, halves["source"] / tree])
    for name in ("include", "scripts", "Makefile", "Kbuild", "Kconfig"):
        target = halves["devel"] / tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (halves["source"] / tree / name).rename(target)
    _rpm("kernel", f"{files.version}.2", halves, top / "sources", out, ["BuildArch: noarch"],
         "openSUSE")  # fmt: skip
    return out


def _rpm(
    name: str,
    version: str,
    roots: dict[str, Path],
    top: Path,
    out: Path,
    tags: list[str],
    vendor: str,
    head: list[str] | None = None,
) -> None:
    """rpms of a name, one for each root: NAME-KEY, or NAME itself for the key ""."""
    upstream, _, build = version.partition("-")
    tree = top / "tree"
    tree.mkdir(parents=True)
    lines = [*(head or []), "%global debug_package %{nil}", f"Name: {name}", f"Version: {upstream}"]
    lines += [f"Release: {build}", "Summary: repacked", "License: GPL-2.0-only", "AutoReqProv: no"]
    lines += [f"Vendor: {vendor}", *tags, "%description", "Repacked."]
    lists = []
    for key, root in roots.items():
        option = key or f"-n {name}"
        if key:
            lines += [f"%package {option}", "Summary: repacked", "AutoReqProv: no"]
            lines += [f"%description {option}", "Repacked."]
        paths = [p for p in sorted(root.rglob("*")) if p.is_symlink() or p.is_file()]
        (top / f"files-{key}").write_text("".join(f'"/{p.relative_to(root)}"\n' for p in paths))
        lists += [f"%files {option if key else ''} -f {top}/files-{key}"]
        proc.run(["cp", "-al", f"{root}/.", tree])
    lines += ["%install", f"cp -al {tree}/. %{{buildroot}}/", *lists]
    spec = top / f"{name}.spec"
    spec.write_text("\n".join(lines) + "\n")
    out.mkdir(parents=True, exist_ok=True)
    defines = {
        "_topdir": str(top), "_binary_payload": "w1.zstdio", "_source_payload": "w0.gzdio",
        "__os_install_post": "%{nil}", "_build_id_links": "none", "_rpmdir": str(out),
        "_srcrpmdir": str(out), "_build_name_fmt": "%%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
        "__check_files": "%{nil}",
    }  # fmt: skip
    argv = ["rpmbuild", "-ba" if tags and "Source0" in tags[0] else "-bb", "--nodeps"]
    if "BuildArch: noarch" not in tags:
        argv += ["--target", "x86_64"]
    proc.run([*argv, *(w for n, v in defines.items() for w in ("--define", f"{n} {v}")), str(spec)])
