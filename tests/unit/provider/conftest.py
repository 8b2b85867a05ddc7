"""A small but real package archive on disk: .debs by dpkg-deb, lists as apt wants them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import pytest

from rebootless.provider.apt import AptArchive
from rebootless.provider.debian import DebianProvider
from rebootless.provider.sources import Source

CONFIG = 'CONFIG_LIVEPATCH=y\nCONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0"\n'
SYMVERS = "0x12345678\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n"


def make_tarball(path: Path, files: dict[str, bytes], top: str = "linux-source-9.9") -> Path:
    """A .tar.xz with `files` under `top`, as a source package carries it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:xz", format=tarfile.GNU_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    return path


def make_deb(directory: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """Builds a package with `files` in it."""
    tree = directory / f"{name}.tree"
    shutil.rmtree(tree, ignore_errors=True)
    for path, data in files.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    control = tree / "DEBIAN/control"
    control.parent.mkdir(parents=True, exist_ok=True)
    control.write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        "Maintainer: Test <test@example.org>\nDescription: test\n"
    )
    directory.mkdir(parents=True, exist_ok=True)
    deb = directory / f"{name}_{version}_amd64.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Zxz", "-b", tree, deb], check=True, capture_output=True
    )
    shutil.rmtree(tree)
    return deb


@dataclass
class Archive:
    """One address with suites; `publish` writes the lists of what was added so far."""

    root: Path
    stanzas: dict[str, list[str]] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        return f"file:{self.root}"

    def source(self, suite: str) -> Source:
        return Source(self.uri, suite, ("main",), (), (("Trusted", "yes"),))

    def add(self, suite: str, name: str, version: str, files: dict[str, bytes]) -> Path:
        deb = make_deb(self.root / "pool", name, version, files)
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        self.stanzas.setdefault(suite, []).append(
            f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
            f"Maintainer: Test <test@example.org>\nFilename: pool/{deb.name}\n"
            f"Size: {deb.stat().st_size}\nSHA256: {digest}\nDescription: test\n"
        )
        return deb

    def add_kernel(
        self,
        suite: str,
        release: str,
        version: str,
        source: dict[str, bytes],
        *,
        split: bool = False,
    ) -> None:
        modules = f"usr/lib/modules/{release}" if split else f"lib/modules/{release}"
        image = {
            (f"{modules}/vmlinuz" if split else f"boot/vmlinuz-{release}"): b"image "
            + version.encode(),
            (f"{modules}/config" if split else f"boot/config-{release}"): CONFIG.encode(),
            f"usr/share/doc/linux-image-{release}/copyright": b"text",
        }
        module = {f"{modules}/kernel/fs/x.ko": b"module"}
        if split:
            self.add(suite, f"linux-image-{release}", version, {})
            self.add(suite, f"linux-binary-{release}", version, image)
            self.add(suite, f"linux-modules-{release}", version, module)
        else:
            self.add(suite, f"linux-image-{release}", version, {**image, **module})
        headers = f"usr/src/linux-headers-{release}"
        self.add(
            suite,
            f"linux-headers-{release}",
            version,
            {f"{headers}/Module.symvers": SYMVERS.encode(), f"{headers}/Makefile": b"all:\n"},
        )
        if source:
            tarball = make_tarball(self.root / "scratch.tar.xz", source)
            path = "usr/src/linux-source-9.9.tar.xz"
            self.add(suite, "linux-source-9.9", version, {path: tarball.read_bytes()})

    def publish(self) -> None:
        for suite, stanzas in self.stanzas.items():
            directory = self.root / "dists" / suite
            packages = directory / "main/binary-amd64/Packages"
            packages.parent.mkdir(parents=True, exist_ok=True)
            packages.write_text("\n".join(stanzas))
            data = packages.read_bytes()
            (directory / "Release").write_text(
                f"Origin: Test\nSuite: {suite}\nCodename: {suite}\nArchitectures: amd64\n"
                "Components: main\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n"
                f" {hashlib.sha256(data).hexdigest()} {len(data)} main/binary-amd64/Packages\n"
            )


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An archive with one kernel, 9.9.0-1-cloud-amd64, in the suite "stable"."""
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed: the provider of Debian kernels is not tested")
    found = Archive(tmp_path / "archive")
    found.add_kernel("stable", "9.9.0-1-cloud-amd64", "9.9.1-1", {"fs/a.c": b"int a;\n"})
    found.publish()
    return found


@pytest.fixture
def provider(archive: Archive, tmp_path: Path) -> DebianProvider:
    """A provider with an empty cache, over `archive` and an empty machine."""
    return make_provider(archive, tmp_path)


def make_provider(archive: Archive, tmp_path: Path, *more: Source) -> DebianProvider:
    cache = tmp_path / "cache"
    apt = AptArchive(cache / "apt", machine_sources=(archive.source("stable"), *more))
    machine = tmp_path / "machine"
    machine.mkdir(exist_ok=True)
    return DebianProvider(cache=cache, archive=apt, machine_root=machine)
