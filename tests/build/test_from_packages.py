"""`--from-packages`: a stock kernel in the packages of other distributions, really built from.

Each distribution's way is made of a real Debian kernel (repackage.py). A bundle that is built from
it has to patch the same functions, proven by the same evidence, as one from Debian's archive.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest
import repackage
from command_line import Command
from repackage import Packer

from rebootless import pipeline
from rebootless.base.events import NullMonitor
from rebootless.base.fs import remove_tree
from rebootless.bundle import archive
from rebootless.compile.tree import Tree, prepare
from rebootless.provider.base import KernelFiles, SourceTree
from rebootless.provider.given import provider
from rebootless.provider.given.provider import PackagesProvider

CHECK = "grep 'Patched live' /proc/version\n"
RPMBUILD = pytest.mark.skipif(
    shutil.which("rpmbuild") is None, reason="rpmbuild is missing: NOTHING is tested with rpms"
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where packages are made and unpacked: they are others each time, so not for the cache."""
    path = tmp_path_factory.mktemp("packages")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(provider, "cache_root", lambda: path)
        yield path


@pytest.fixture(scope="module")
def packer(stock_kernel: KernelFiles, stock_tree: Tree, folder: Path) -> Packer:
    return Packer(stock_kernel, folder / "work", repackage.small_source(stock_tree, folder / "src"))


@pytest.fixture(scope="module")
def ubuntu(packer: Packer, folder: Path) -> Path:
    return repackage.ubuntu(packer, folder / "ubuntu")


@pytest.fixture(scope="module")
def fedora(packer: Packer, folder: Path) -> Path:
    return repackage.fedora(packer, folder / "fedora")


@pytest.fixture(scope="module")
def suse(packer: Packer, folder: Path) -> Path:
    return repackage.suse(packer, folder / "suse")


@pytest.fixture(scope="module")
def patch(folder: Path) -> Path:
    path = folder / "proc_version.patch"
    path.write_bytes((resources.files("rebootless") / "examples" / path.name).read_bytes())
    return path


@pytest.fixture(scope="module")
def from_debian(patch: Path, stock_kernel: KernelFiles, folder: Path) -> archive.Bundle:
    return built(patch, folder / "debian", kernel=stock_kernel.release)


def built(
    patch: Path, out: Path, *, kernel: str | None = None, packages: Path | None = None
) -> archive.Bundle:
    result = pipeline.build(
        [patch],
        kernel=kernel,
        local=PackagesProvider(packages) if packages else None,
        output=out / "proc_version.rlp",
        workdir=out / "stages",
    )
    return archive.read(result.bundle_path)


def same(one: archive.Bundle, other: archive.Bundle) -> None:
    """The same functions at the same places, on the same evidence, for the same image."""
    assert one.manifest.objects == other.manifest.objects
    assert one.match == other.match and one.match["units"][0]["functions"]
    assert one.manifest.kernel.build_id == other.manifest.kernel.build_id


def forget_tree(packages: Path) -> None:
    """Removes the prepared source of packages that no other run has."""
    remove_tree(prepare(PackagesProvider(packages).fetch(), NullMonitor()).root)


@pytest.mark.vm
def test_ubuntu_packages_build_test_and_match(
    command: Command, ubuntu: Path, patch: Path, from_debian: archive.Bundle, folder: Path
) -> None:
    out = folder / "from-ubuntu"
    same(built(patch, out, packages=ubuntu), from_debian)
    check = folder / "check"
    check.write_text(CHECK)
    words = ("--from-packages", ubuntu, "--json")
    tested = command("test", out / "proc_version.rlp", "--check", check, *words)
    assert tested.code == 0 and json.loads(tested.out)["verdict"] == "passed", tested
    orig = next((out / "stages").rglob("*.orig.o"), None) or next((out / "stages").rglob("*.o"))
    matched = command("match", orig, *words)
    assert json.loads(matched.out)["functions"], matched
    inspected = json.loads(command("inspect", out / "proc_version.rlp", "--json").out)
    assert inspected["verdict"] == "passed"


@RPMBUILD
def test_a_source_rpm_is_built_with_its_patches(
    fedora: Path, patch: Path, from_debian: archive.Bundle, folder: Path
) -> None:
    # without the patch the tarball's function is not what the image ships
    same(built(patch, folder / "from-fedora", packages=fedora), from_debian)
    forget_tree(fedora)


@RPMBUILD
def test_a_tree_in_two_packages_is_one_source(suse: Path, packer: Packer) -> None:
    source = PackagesProvider(suse).fetch().source
    assert isinstance(source, SourceTree)
    for name in ("Makefile", "init/main.c", "scripts/Kconfig.include", "fs/proc/version.c"):
        assert (source.path / name).read_bytes() == (packer.source / name).read_bytes()


@pytest.mark.soak
@RPMBUILD
def test_a_tree_in_two_packages_is_built_from(
    suse: Path, patch: Path, from_debian: archive.Bundle, folder: Path
) -> None:
    same(built(patch, folder / "from-suse", packages=suse), from_debian)
    forget_tree(suse)


def test_kernels_lists_what_is_there(
    command: Command, ubuntu: Path, stock_kernel: KernelFiles
) -> None:
    listed = json.loads(command("kernels", "--from-packages", ubuntu, "--json").out)["kernels"]
    (kernel,) = listed
    assert kernel["release"] == stock_kernel.release and kernel["buildable"]
    assert kernel["version"] == stock_kernel.version and "given" in kernel["states"]


def test_modules_of_several_packages_are_one_directory(ubuntu: Path) -> None:
    modules = PackagesProvider(ubuntu).fetch().modules
    assert modules is not None
    names = {path.name for path in modules.rglob("*.ko.zst")}
    assert {"fuse.ko.zst", "isofs.ko.zst"} <= names


# --- directories --------------------------------------------------------------------------


@pytest.fixture
def root(stock_kernel: KernelFiles, packer: Packer, tmp_path: Path) -> Path:
    """A directory like the root of a system, with the tarball of the source beside it."""
    release = stock_kernel.release
    shutil.copyfile(stock_kernel.image, _made(tmp_path / f"root/boot/vmlinuz-{release}"))
    shutil.copyfile(stock_kernel.config, tmp_path / f"root/boot/config-{release}")
    packer.modules(tmp_path / "root", repackage.MODULES, "", bytes)
    packer.headers(tmp_path / "root", f"usr/src/linux-headers-{release}")
    (tmp_path / "linux.tar.xz").symlink_to(stock_kernel.source.path)
    return tmp_path / "root"


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def test_directories_do_as_well(root: Path, stock_kernel: KernelFiles) -> None:
    files = PackagesProvider(root.parent).fetch()
    assert (files.release, files.version) == (stock_kernel.release, "")
    assert files.image.parent == root / "boot" and files.compiler == stock_kernel.compiler
    assert files.source.path == root.parent / "linux.tar.xz"


Refusal = tuple[int, tuple[str, ...]]


def _replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _clang(root: Path, kernel: KernelFiles) -> Refusal:
    config = root / f"boot/config-{kernel.release}"
    _replaced(config, kernel.compiler_text, "clang version 18.1.8 (Fedora 18.1.8-1.fc41)")
    return 2, ("clang version 18.1.8", "gcc")


def _other_config(root: Path, kernel: KernelFiles) -> Refusal:
    config = root / f"boot/config-{kernel.release}"
    _replaced(config, kernel.compiler_text, "gcc (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)")
    return 4, ("config-", "Red Hat 14.2.1-3", kernel.compiler_text)


def _other_headers(root: Path, kernel: KernelFiles) -> Refusal:
    symvers = root / f"usr/src/linux-headers-{kernel.release}/Module.symvers"
    lines = symvers.read_text().splitlines()
    changed = [f"0x00000001{x[10:]}" if "\tmodule_layout\t" in x else x for x in lines]
    symvers.unlink()  # it is a link
    symvers.write_text("\n".join(changed))
    return 4, ("Module.symvers", "0x00000001", "module_layout")


def _no_image(root: Path, kernel: KernelFiles) -> Refusal:
    (root / f"boot/vmlinuz-{kernel.release}").unlink()
    return 6, ("no kernel image", kernel.release)


def _other_source(root: Path, kernel: KernelFiles) -> Refusal:
    config = root / f"boot/config-{kernel.release}"
    _replaced(config, f"# Linux/x86 {kernel.version.partition('-')[0]} ", "# Linux/x86 6.1.1 ")
    return 4, ("linux.tar.xz", kernel.version.partition("-")[0], "6.1.1")


def _cut_image(root: Path, kernel: KernelFiles) -> Refusal:
    image = root / f"boot/vmlinuz-{kernel.release}"
    image.write_bytes(image.read_bytes()[:4_000_000])
    return 4, ("vmlinuz", "cut short")


def _not_x86(root: Path, kernel: KernelFiles) -> Refusal:
    (root / f"boot/vmlinuz-{kernel.release}").write_bytes(b"MZ\0\0" * 4096)
    return 4, ("vmlinuz", "not a bzImage")


@pytest.mark.parametrize(
    "spoil",
    [_clang, _other_config, _other_headers, _no_image, _other_source, _cut_image, _not_x86],
)
def test_parts_that_do_not_belong_together_are_refused(
    command: Command,
    root: Path,
    stock_kernel: KernelFiles,
    patch: Path,
    spoil: Callable[[Path, KernelFiles], Refusal],
) -> None:
    code, fragments = spoil(root, stock_kernel)
    output = root.parent / "out.rlp"
    ended = command("build", patch, "--from-packages", root.parent, "-o", output)
    ended.refused(code, *fragments)
    assert not output.exists()


# --- packages that will not do ------------------------------------------------------------


def _linked(source: Path, target: Path, *without: str) -> Path:
    """Another folder with the same packages, but for those whose name begins so."""
    target.mkdir()
    for path in source.iterdir():
        if not path.name.startswith(without):
            (target / path.name).symlink_to(path)
    return target


def test_missing_headers_are_named(
    command: Command, ubuntu: Path, patch: Path, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    some = _linked(ubuntu, tmp_path / "some", f"linux-headers-{stock_kernel.release}")
    ended = command("build", patch, "--from-packages", some).refused(6, "no Module.symvers")
    assert f"add linux-headers-{stock_kernel.release}" in ended.err


def test_source_of_another_build_is_not_taken(
    command: Command, ubuntu: Path, patch: Path, tmp_path: Path
) -> None:
    some = _linked(ubuntu, tmp_path / "some", "linux-source")
    made = tmp_path / "root/usr/src/linux-source-6.1.0/linux.tar.xz"
    _made(made).write_bytes(b"not looked at")
    repackage.make_deb(tmp_path / "root", "linux-source-6.1.0", "6.1.999-1", some)
    ended = command("build", patch, "--from-packages", some)
    ended.refused(6, "no source", "6.1.999-1", "another build")
    assert "linux-source-6.1.0" in ended.err.partition("hint")[2]


def test_of_two_kernels_one_is_to_be_named(
    command: Command, ubuntu: Path, patch: Path, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    both = _linked(ubuntu, tmp_path / "both")
    release = stock_kernel.release.encode()
    other = release.replace(b"6.1.0", b"6.1.9")
    blob = stock_kernel.image.read_bytes().replace(release, other, 1)
    _made(tmp_path / f"root/boot/vmlinuz-{stock_kernel.release}").write_bytes(blob)
    repackage.make_deb(tmp_path / "root", f"linux-image-{other.decode()}", "6.1.176-1", both)
    ended = command("build", patch, "--from-packages", both)
    ended.refused(4, "several kernels", stock_kernel.release, other.decode())
    assert "--kernel" in ended.err
    assert PackagesProvider(both).fetch(stock_kernel.release).release == stock_kernel.release
    wrong = command("build", patch, "--from-packages", both, "--kernel", "6.6.6-generic")
    wrong.refused(6, "6.6.6-generic")


def test_packages_of_another_architecture_are_told(
    command: Command, patch: Path, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    shutil.copyfile(stock_kernel.image, _made(tmp_path / "root/boot/vmlinuz-6.8.0-45-generic"))
    (tmp_path / "out").mkdir()
    name = "linux-image-6.8.0-45-generic"
    repackage.make_deb(tmp_path / "root", name, "6.8.0-45.45", tmp_path / "out", "arm64")
    ended = command("build", patch, "--from-packages", tmp_path / "out")
    ended.refused(4, "no kernel image", name, "arm64")


def test_a_damaged_deb_is_named(
    command: Command, ubuntu: Path, patch: Path, stock_kernel: KernelFiles, tmp_path: Path
) -> None:
    some = _linked(ubuntu, tmp_path / "some", "linux-modules-extra")
    whole = next(ubuntu.glob("linux-modules-extra-*.deb"))
    (some / whole.name).write_bytes(whole.read_bytes()[:100_000])
    ended = command("build", patch, "--from-packages", some)
    ended.refused(4, whole.name, "damaged")


@RPMBUILD
@pytest.mark.parametrize("at", ["header", "payload", "end"])
def test_a_damaged_rpm_is_named(
    command: Command, fedora: Path, patch: Path, at: str, tmp_path: Path
) -> None:
    some = _linked(fedora, tmp_path / "some", "kernel-devel")
    whole = next(fedora.glob("kernel-devel-*.rpm"))
    blob = whole.read_bytes()
    place = {"header": 200, "payload": len(blob) // 2, "end": len(blob) - 64}[at]
    rest = b"" if at == "end" else bytes(64) + blob[place + 64 :]
    (some / whole.name).write_bytes(blob[:place] + rest)
    ended = command("build", patch, "--from-packages", some)
    ended.refused(4, whole.name, "damaged")


@RPMBUILD
def test_a_missing_rpm_is_named(
    command: Command, fedora: Path, suse: Path, patch: Path, tmp_path: Path
) -> None:
    without = _linked(fedora, tmp_path / "fedora", "kernel-devel")
    assert PackagesProvider(without).fetch().symvers.name == "symvers"  # kernel-core has it too
    for source, absent, hint in (
        (fedora, "kernel-6", ".src.rpm"),
        (fedora, "kernel-core", "kernel-core (Fedora)"),
        (suse, "kernel-source", "add kernel-source-"),
        (suse, "kernel-default-devel", "-devel-"),  # the flavour is that of the release
    ):
        some = _linked(source, tmp_path / f"{source.name}-{absent}", absent)
        ended = command("build", patch, "--from-packages", some).refused(6)
        assert hint in ended.err, ended.err


def test_an_empty_folder_is_told(command: Command, patch: Path, tmp_path: Path) -> None:
    command("build", patch, "--from-packages", tmp_path).refused(6, "no kernel image")
    command("build", patch, "--from-packages", tmp_path / "none").refused(6, "no directory")
