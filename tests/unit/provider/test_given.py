"""What packages are called, and which parts make up a kernel: decisions, without any package."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebootless.base.errors import NotFoundError, PatchInputError, RefusedError
from rebootless.compile.untar import without_paths
from rebootless.provider import featuresets
from rebootless.provider.given import compilers, package
from rebootless.provider.given.choose import release_of, source_of
from rebootless.provider.given.parts import Found, Image, Root, Source
from rebootless.provider.given.source import ordered
from rebootless.provider.naming import NAMINGS, Facts, is_kernel, naming_of
from rebootless.provider.toolchain import package_version

HERE = Path("/packages")


def facts(
    name: str, version: str = "1-1", kind: str = "rpm", vendor: str = "", source: str = ""
) -> Facts:
    return Facts(f"{name}.{kind}", kind, name, version, "x86_64", source, vendor)


@pytest.mark.parametrize(
    ("of", "title"),
    [
        (facts("linux-image-6.8.0-45-generic", kind="deb", vendor="Ubuntu Kernel Team"), "Ubuntu"),
        (facts("linux-image-unsigned-6.8.0-45-generic", kind="deb"), "Ubuntu"),
        (facts("linux-image-6.1.0-50-amd64", kind="deb", vendor="Debian Kernel Team"), "Debian"),
        (facts("kernel-core", "6.11.4-301.fc41", vendor="Fedora Project"), "Fedora"),
        (facts("kernel-core", "5.14.0-427.el9", vendor="Rocky Enterprise"), "Fedora"),
        (facts("kernel-default", "6.4.0-150600.23.7.3", vendor="SUSE LLC"), "openSUSE"),
        (facts("kernel-default", "6.11.0-1.1"), "openSUSE"),
    ],
)
def test_naming_follows_vendor_and_name(of: Facts, title: str) -> None:
    assert naming_of([of]).title.startswith(title)


@pytest.mark.parametrize(
    ("text", "title", "version", "hint"),
    [
        ("gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)", "Fedora", "14.2.1-3", "dnf"),
        ("gcc (SUSE Linux) 13.3.0", "openSUSE", "13.3.0", "zypper"),
        (
            "x86_64-linux-gnu-gcc-13 (Ubuntu 13.2.0-23ubuntu4) 13.2.0",
            "Ubuntu",
            "13.2.0-23ubuntu4",
            "apt",
        ),
        ("gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", "Debian", "12.2.0-14+deb12u1", "apt"),
    ],
)
def test_compiler_text_tells_distribution_and_package(
    text: str, title: str, version: str, hint: str
) -> None:
    naming = naming_of((), text)
    assert naming.title.startswith(title) and package_version(text) == version
    advice = naming.compiler_hint(text.split()[0], version)
    assert hint in advice and (version in advice or hint == "zypper")


def test_every_naming_names_each_part() -> None:
    for naming in NAMINGS:
        usual = naming.usual("6.8.0-45-generic")
        assert all((usual.image, usual.modules, usual.headers, usual.source)), naming.title


def test_compilers_other_than_gcc_are_refused() -> None:
    for text in ("clang version 18.1.8 (Fedora 18.1.8-1.fc41)", "Ubuntu clang version 18.1.3 (1)"):
        with pytest.raises(RefusedError, match="gcc"):
            compilers.program_for(text)


def test_a_compiler_that_is_not_here_keeps_its_name() -> None:
    assert compilers.program_for("gcc (GCC) 99.1.0 20990101 (Red Hat 99.1.0-1)") == "gcc"


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("linux-image-unsigned-6.8.0-45-generic", True),
        ("kernel-modules-core", True),
        ("kernel-core", True),
        ("linux-libc-dev", False),
        ("kernel-debuginfo", False),
        ("linux-image-6.1.0-50-amd64-dbg", False),
        ("linux-tools-6.8.0", False),
        ("coreutils", False),
    ],
)
def test_only_packages_of_kernels_are_unpacked(name: str, kernel: bool) -> None:
    assert is_kernel(facts(name)) is kernel


@pytest.mark.parametrize(
    ("kind", "path", "kept"),
    [
        ("deb", "boot/vmlinuz-6.8.0-45-generic", True),
        ("deb", "boot/System.map-6.8.0-45-generic", False),
        ("deb", "lib/modules/6.8.0-45-generic/kernel/fs/fuse/fuse.ko.zst", True),
        ("deb", "usr/src/linux-headers-6.8.0-45/include/linux/fs.h", False),
        ("deb", "usr/src/linux-headers-6.8.0-45-generic/Module.symvers", True),
        ("deb", "usr/src/linux-source-6.8.0/linux-source-6.8.0.tar.bz2", True),
        ("rpm", "lib/modules/6.11.4-301.fc41.x86_64/symvers.xz", True),
        ("rpm", "lib/modules/6.11.4-301.fc41.x86_64/vdso/vdso64.so", False),
        ("rpm", "usr/src/kernels/6.11.4-301.fc41.x86_64/include/linux/fs.h", False),
        ("rpm", "usr/src/linux-6.4.0-150600.23.7/kernel/fork.c", True),
        ("rpm", "usr/src/linux-6.4.0-150600.23.7-obj/x86_64/default/.config", True),
        ("rpm", "usr/src/linux-6.4.0-150600.23.7-obj/x86_64/default/x/y.h", False),
        ("srpm", "linux-6.11.4.tar.xz", True),
    ],
)
def test_what_is_unpacked(kind: str, path: str, kept: bool) -> None:
    assert package.wanted(kind)(path) is kept


def test_patches_of_a_source_rpm_come_in_the_order_of_their_numbers() -> None:
    spec = (
        "Patch999999: linux-kernel-test.patch\n"
        "Patch10: second-%{release}.patch\n"
        "Patch2: patch-%{patchversion}-redhat.patch\n"
    )
    names = ["linux-kernel-test.patch", "second-301.patch", "patch-6.11-redhat.patch"]
    assert ordered(names, spec) == names[::-1]
    with pytest.raises(PatchInputError, match=r"stray\.patch"):
        ordered(["stray.patch"], spec)


GIT = (
    b"From: someone\n\n"
    b"diff --git a/arch/arm/a.c b/arch/arm/a.c\n"
    b"--- a/arch/arm/a.c\n+++ b/arch/arm/a.c\n@@ -1 +1 @@\n"
    b"-a\n+b\n"
    b"diff --git a/fs/a.c b/fs/a.c\n--- a/fs/a.c\n+++ b/fs/a.c\n@@ -1,2 +1 @@\n--- x\n a\n"
)
PLAIN = (
    b"about it\n--- a/fs/gone.c\t2026\n+++ /dev/null\n@@ -1 +0,0 @@\n-a\n"
    b"--- /dev/null\n+++ b/arch/arm/new.c\n@@ -0,0 +1 @@\n+a\n"
)


def test_a_patch_is_narrowed_to_the_paths_that_are_there() -> None:
    left_out = ("arch/arm",)
    assert without_paths(GIT, left_out) == GIT[GIT.index(b"diff --git a/fs") :]
    kept = without_paths(PLAIN, left_out)
    assert kept == PLAIN[PLAIN.index(b"--- a/fs") : PLAIN.index(b"--- /dev/null\n+++ b/arch")]
    assert without_paths(GIT, ()) == GIT[GIT.index(b"diff") :]


def test_feature_sets_are_told_by_the_release(tmp_path: Path) -> None:
    assert featuresets.of("6.1.0-55-rt-amd64") == "rt" == featuresets.of("6.12.9+deb13-rt-amd64")
    assert featuresets.of("6.1.0-55-cloud-amd64") == "" == featuresets.of("6.1.0-55-amd64")
    assert featuresets.has(tmp_path, "6.1-1", "") and not featuresets.has(tmp_path, "6.1-1", "rt")
    folder = tmp_path / "featuresets/6.1-1/debian/patches-rt"
    folder.mkdir(parents=True)
    (folder / "series").write_text("# order\nb.patch\n\na.patch -p1\n")
    assert featuresets.has(tmp_path, "6.1-1", "rt")
    assert not featuresets.patches(tmp_path, "6.1-1", "")
    assert not featuresets.patches(tmp_path, "6.12-1", "rt")
    assert [p.name for p in featuresets.patches(tmp_path, "6.1-1", "rt")] == ["b.patch", "a.patch"]


# --- which source, which kernel -----------------------------------------------------------


def image(of: Facts | None, release: str = "6.11.4-301.fc41.x86_64") -> Image:
    return Image(HERE / "vmlinuz", release, Root(HERE, "image", of), f"{release} #1")


def source(of: Facts | None, path: str = "a", kind: str = "tarball") -> Source:
    return Source(HERE / path, "", Root(HERE / path, of.file if of else path, of), kind)


def test_a_source_rpm_is_that_of_the_build_that_the_image_names() -> None:
    fedora = naming_of([facts("kernel-core", "6.11.4-301.fc41")])
    core = facts("kernel-core", "6.11.4-301.fc41", source="kernel-6.11.4-301.fc41.src.rpm")
    right, wrong = facts("kernel", "6.11.4-301.fc41"), facts("kernel", "6.11.4-300.fc41")
    both = [source(wrong, "w"), source(right, "r")]
    assert source_of(both, image(core), fedora).paths == (HERE / "r",)
    with pytest.raises(NotFoundError, match="another build") as caught:
        source_of(both[:1], image(core), fedora)
    assert "kernel-6.11.4-301.fc41.src.rpm" in (caught.value.hint or "")


def test_rebuilds_of_opensuse_count_on_their_own() -> None:
    suse = naming_of([facts("kernel-default")])
    default = facts("kernel-default", "6.4.0-150600.23.7.3")
    same, other = (facts("kernel-source", f"6.4.0-150600.23.{n}") for n in ("7.2", "8.1"))
    assert suse.same_source(default, same) and not suse.same_source(default, other)


def test_two_sources_of_no_package_are_ambiguous() -> None:
    debian = NAMINGS[-1]
    two = [source(None, "a"), source(None, "b")]
    with pytest.raises(PatchInputError, match="several sources"):
        source_of(two, image(None), debian)
    assert source_of(two[:1], image(None), debian).paths == (HERE / "a",)
    with pytest.raises(NotFoundError, match="no source"):
        source_of([], image(None), debian)


def test_the_running_kernel_is_meant_among_several() -> None:
    found = Found((image(None, "6.8.0-1-a"), image(None, "6.8.0-2-a")), (), (), (), ())
    assert release_of(found, None, "6.8.0-2-a", HERE) == "6.8.0-2-a"
    assert release_of(found, "6.8.0-1-a", "6.8.0-2-a", HERE) == "6.8.0-1-a"
    with pytest.raises(PatchInputError, match="several kernels"):
        release_of(found, None, "6.1.0-1-b", HERE)
    with pytest.raises(NotFoundError, match=r"6\.9"):
        release_of(found, "6.9.0", "6.1.0-1-b", HERE)
