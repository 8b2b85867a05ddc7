"""A user's own files: each mistake is told apart. Real kernel files where they are cached."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebootless.base.errors import NotFoundError, PatchInputError
from rebootless.base.fs import cache_root
from rebootless.provider.base import SourceTree
from rebootless.provider.local import LocalProvider, tree_version

from .conftest import CONFIG, SYMVERS

MAKEFILE = "# SPDX\nVERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 192\nEXTRAVERSION =\nNAME = Curry\n"


@pytest.fixture
def image() -> Path:
    """A real image of the 6.1 series out of the cache."""
    found = sorted((cache_root() / "kernels").glob("6.1.0-*/image/vmlinuz"))
    if not found:
        pytest.skip("no 6.1 kernel is cached (rebootless kernels fetch): local files not tested")
    return found[0]


@pytest.fixture
def files(tmp_path: Path, image: Path) -> LocalProvider:
    tree = tmp_path / "linux"
    (tree / "scripts").mkdir(parents=True)
    (tree / "Makefile").write_text(MAKEFILE)
    (tree / "scripts/Kconfig.include").write_text("")
    (tmp_path / "config").write_text(CONFIG)
    (tmp_path / "Module.symvers").write_text(SYMVERS)
    return LocalProvider(tree, tmp_path / "config", image, tmp_path / "Module.symvers")


def test_files_that_belong_together(files: LocalProvider, image: Path) -> None:
    found = files.fetch()
    assert found.release == image.parent.parent.name
    assert isinstance(found.source, SourceTree)
    assert found.compiler == "gcc-12"
    assert files.list()[0].release == found.release


def test_release_must_be_that_of_the_image(files: LocalProvider) -> None:
    with pytest.raises(PatchInputError, match=r"not 1\.2\.3"):
        files.fetch("1.2.3")


def test_tree_of_another_series(files: LocalProvider) -> None:
    (files.source / "Makefile").write_text(MAKEFILE.replace("= 1\n", "= 12\n"))
    with pytest.raises(PatchInputError, match=r"Linux 6\.12\.192"):
        files.fetch()


def test_directory_that_is_no_kernel_tree(files: LocalProvider) -> None:
    (files.source / "scripts/Kconfig.include").unlink()
    with pytest.raises(NotFoundError, match="not a kernel source tree"):
        files.fetch()


def test_config_without_compiler(files: LocalProvider) -> None:
    files.config.write_text("CONFIG_LIVEPATCH=y\n")
    with pytest.raises(NotFoundError, match="CC_VERSION_TEXT"):
        files.fetch()


def test_config_that_is_none(files: LocalProvider) -> None:
    files.config.write_text("hello\n")
    with pytest.raises(PatchInputError, match="not a kernel configuration"):
        files.fetch()


def test_symvers_that_is_none(files: LocalProvider) -> None:
    files.symvers.write_text("hello\n")
    with pytest.raises(PatchInputError, match=r"not a Module\.symvers"):
        files.fetch()


def test_foreign_modules(files: LocalProvider, tmp_path: Path, image: Path) -> None:
    modules = tmp_path / "lib/modules/1.2.3"
    (modules / "kernel").mkdir(parents=True)
    with pytest.raises(PatchInputError, match=r"the modules are of 1\.2\.3"):
        LocalProvider(files.source, files.config, image, files.symvers, modules).fetch()
    with pytest.raises(NotFoundError, match="no kernel modules"):
        LocalProvider(files.source, files.config, image, files.symvers, tmp_path).fetch()


def test_missing_image_names_the_option(tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path, tmp_path, tmp_path / "nope", tmp_path)
    with pytest.raises(NotFoundError, match="no kernel image") as caught:
        provider.fetch()
    assert "--image" in (caught.value.hint or "")


def test_version_of_a_tree() -> None:
    assert tree_version(MAKEFILE) == "6.1.192"
    assert tree_version("all:\n") == ""
