"""The provider against a real (small, local) archive: apt, dpkg-deb and tar do their part."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rebootless.base import events
from rebootless.base.errors import CommandError, NotFoundError, ResourceError
from rebootless.provider import deb
from rebootless.provider.base import KernelState, SourceTarball
from rebootless.provider.debian import DebianProvider
from rebootless.provider.sources import Source

from .conftest import CONFIG, Archive, make_deb, make_provider

RELEASE = "9.9.0-1-cloud-amd64"


class Recorder:
    def __init__(self) -> None:
        self.events: list[events.Event] = []

    def emit(self, event: events.Event) -> None:
        self.events.append(event)

    @property
    def warnings(self) -> list[str]:
        return [e.text for e in self.events if isinstance(e, events.Warned)]


def test_fetch_gives_everything_and_leaves_no_packages(provider: DebianProvider) -> None:
    recorder = Recorder()
    files = provider.fetch(RELEASE, recorder)
    assert (files.release, files.version) == (RELEASE, "9.9.1-1")
    assert files.image.read_bytes() == b"image 9.9.1-1"
    assert files.symvers.read_text().startswith("0x12345678\tprintk")
    assert files.modules is not None and (files.modules / "kernel/fs/x.ko").is_file()
    assert files.modules.parts[-3:] == ("lib", "modules", RELEASE)
    assert isinstance(files.source, SourceTarball)
    assert files.source.path.name == "linux-source-9.9.tar.xz"
    assert files.compiler == "gcc-12"
    assert not list(provider.cache.rglob("*.deb"))
    assert not list(provider.cache.rglob("*.filling"))
    stages = {e.name for e in recorder.events if isinstance(e, events.StageFinished)}
    assert stages == {"update-lists", "fetch-image", "fetch-headers", "fetch-source"}


def test_cached_kernel_needs_no_archive(
    provider: DebianProvider, archive: Archive, tmp_path: Path
) -> None:
    first = provider.fetch(RELEASE)
    archive.root.rename(tmp_path / "gone")
    recorder = Recorder()
    again = make_provider(archive, tmp_path)
    assert again.fetch(RELEASE, recorder) == first
    assert recorder.events == []
    (info,) = again.list(recorder, refresh=True)
    assert KernelState.CACHED in info.states and info.buildable


def test_list_tells_what_can_be_built(archive: Archive, tmp_path: Path) -> None:
    archive.add_kernel("stable", "9.9.0-2-cloud-amd64", "9.9.2-1", {})  # its source is gone
    archive.publish()
    provider = make_provider(archive, tmp_path)
    found = {k.release: k for k in provider.list()}
    assert found[RELEASE].buildable and found[RELEASE].origin == "stable"
    assert not found["9.9.0-2-cloud-amd64"].buildable
    with pytest.raises(NotFoundError, match="no longer its source"):
        provider.fetch("9.9.0-2-cloud-amd64")


def test_split_packages_come_together(archive: Archive, tmp_path: Path) -> None:
    release = "9.9.3+deb13-cloud-amd64"
    archive.add_kernel("stable", release, "9.9.3-1", {"a": b"1"}, split=True)
    archive.publish()
    files = make_provider(archive, tmp_path).fetch(release)
    assert files.image.read_bytes() == b"image 9.9.3-1"
    assert files.modules is not None and (files.modules / "kernel/fs/x.ko").is_file()


def test_unknown_release_names_neighbours(provider: DebianProvider) -> None:
    with pytest.raises(NotFoundError, match=r"9\.9\.0-7-cloud-amd64") as caught:
        provider.fetch("9.9.0-7-cloud-amd64")
    assert RELEASE in (caught.value.hint or "")


def test_vanished_package_is_named(
    provider: DebianProvider, archive: Archive, tmp_path: Path
) -> None:
    provider.list()
    next((archive.root / "pool").glob("linux-headers*")).unlink()
    with pytest.raises((NotFoundError, ResourceError), match=f"linux-headers-{RELEASE}"):
        provider.fetch(RELEASE)
    assert not (provider.cache / "kernels" / RELEASE / "headers").exists()


def test_tampered_package_is_refused(provider: DebianProvider, archive: Archive) -> None:
    provider.list()
    package = next((archive.root / "pool").glob("linux-source*"))
    data = bytearray(package.read_bytes())
    data[-1] ^= 1
    package.write_bytes(data)
    with pytest.raises(ResourceError, match=r"linux-source-9\.9"):
        provider.fetch(RELEASE)
    assert not (provider.cache / "sources" / "9.9.1-1").exists()


def test_too_little_space_is_told_before(
    provider: DebianProvider, archive: Archive, tmp_path: Path
) -> None:
    provider.list()
    huge = [replace(p, installed_size=1 << 60) for p in provider.archive.packages()]
    with pytest.raises(ResourceError, match="MiB are needed in") as caught:
        provider.archive.download(huge, tmp_path)
    assert "REBOOTLESS_CACHE" in (caught.value.hint or "")


def test_lost_lists_are_read_again(
    provider: DebianProvider, archive: Archive, tmp_path: Path
) -> None:
    provider.list()
    shutil.rmtree(provider.cache / "apt/lists")
    assert [k.release for k in make_provider(archive, tmp_path).list()] == [RELEASE]


def test_third_party_without_kernels_is_left_alone(archive: Archive, tmp_path: Path) -> None:
    other = Archive(tmp_path / "other")
    other.add("nodistro", "tool", "1", {"usr/bin/tool": b"x"})
    other.publish()
    provider = make_provider(archive, tmp_path, other.source("nodistro"))
    assert [k.release for k in provider.list()] == [RELEASE]
    rendered = provider.cache / "apt/sources.list.d/all.sources"
    assert str(other.root) in rendered.read_text()
    provider.list(refresh=True)
    again = make_provider(archive, tmp_path, other.source("nodistro"))
    recorder = Recorder()
    again.list(recorder)
    assert recorder.events == []  # the lists are fresh, and dropping a source ages nothing


def test_failing_third_party_is_a_warning(archive: Archive, tmp_path: Path) -> None:
    broken = Source("http://127.0.0.1:9/debian", "stable", ("main",))
    provider = make_provider(archive, tmp_path, broken)
    recorder = Recorder()
    assert [k.release for k in provider.list(recorder)] == [RELEASE]
    assert any("127.0.0.1:9" in w for w in recorder.warnings)


def test_no_network_names_the_source(archive: Archive, tmp_path: Path) -> None:
    provider = make_provider(archive, tmp_path)
    provider.archive = type(provider.archive)(
        tmp_path / "apt2", machine_sources=[Source("http://127.0.0.1:9/debian", "sid", ("main",))]
    )
    with pytest.raises(ResourceError, match=r"127\.0\.0\.1:9/debian sid: .*connect") as caught:
        provider.list()
    assert "proxy" in (caught.value.hint or "")


def test_other_suite_can_be_asked_for(archive: Archive, tmp_path: Path) -> None:
    archive.add_kernel("testing", "9.10.0-1-cloud-amd64", "9.10.1-1", {"a": b"1"})
    archive.publish()
    provider = make_provider(archive, tmp_path)
    assert len(provider.list()) == 1
    provider.archive.add_suite("testing")
    assert len(provider.list()) == 2
    assert len(make_provider(archive, tmp_path).list()) == 2  # remembered
    with pytest.raises(NotFoundError, match="'nosuch'"):
        provider.archive.add_suite("nosuch")
    assert len(provider.list()) == 2


def test_installed_kernel_is_used_from_the_machine(archive: Archive, tmp_path: Path) -> None:
    provider = make_provider(archive, tmp_path)
    machine = tmp_path / "machine"
    (machine / "boot").mkdir()
    (machine / f"boot/vmlinuz-{RELEASE}").write_bytes(b"the machine's")
    (machine / f"lib/modules/{RELEASE}/kernel").mkdir(parents=True)
    (machine / f"boot/config-{RELEASE}").write_text(CONFIG)
    (info,) = provider.list()
    assert info.states == {KernelState.INSTALLED, KernelState.ARCHIVE}
    (machine / "var/lib/dpkg").mkdir(parents=True)
    (machine / "var/lib/dpkg/status").write_text(
        f"Package: linux-image-{RELEASE}\nStatus: install ok installed\nVersion: 9.9.1-1\n"
        "Architecture: amd64\nMaintainer: Test <test@example.org>\nDescription: test\n"
    )
    files = provider.fetch(RELEASE)
    assert files.image.read_bytes() == b"the machine's"
    assert files.modules == machine / f"lib/modules/{RELEASE}"
    assert files.symvers.is_relative_to(provider.cache)
    assert not (provider.cache / "kernels" / RELEASE / "image").exists()
    assert provider.fetch(RELEASE) == files


def _fill_and_die(archive: Archive, tmp_path: Path) -> None:
    provider = make_provider(archive, tmp_path)
    real = deb.extract

    def extract_then_die(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)  # type: ignore[arg-type]
        os.kill(os.getpid(), signal.SIGKILL)

    deb.extract = extract_then_die  # type: ignore[assignment]
    provider.fetch_source("9.9.1-1")


def test_killed_while_unpacking_leaves_nothing_that_counts(
    provider: DebianProvider, archive: Archive, tmp_path: Path
) -> None:
    provider.list()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_fill_and_die, args=(archive, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (provider.cache / "sources/9.9.1-1").exists()
    assert provider.fetch(RELEASE).image.is_file()
    assert not list(provider.cache.rglob("*.filling"))


def test_cancelled_unpacking_removes_what_it_made(tmp_path: Path) -> None:
    package = make_deb(tmp_path, "big", "1", {f"usr/f{i}": os.urandom(200_000) for i in range(8)})
    target = tmp_path / "out"
    target.mkdir()
    stop = threading.Event()
    stop.set()
    with pytest.raises(ResourceError, match="given up"):
        deb.extract(package, target, cancelled=stop.is_set)
    left = {p for p in Path("/proc").glob("[0-9]*") if _command(p).endswith(str(target))}
    assert not left


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_text().rstrip("\0")
    except OSError:
        return ""


def test_damaged_package_is_an_error(tmp_path: Path) -> None:
    package = make_deb(tmp_path, "x", "1", {"usr/f": os.urandom(100_000)})
    package.write_bytes(package.read_bytes()[:50_000])
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(CommandError, match="cannot unpack"):
        deb.extract(package, target)


def _fetch(archive: Archive, tmp_path: Path, queue: multiprocessing.Queue[object]) -> None:
    recorder = Recorder()
    files = make_provider(archive, tmp_path).fetch(RELEASE, recorder)
    fetched = [e.name for e in recorder.events if isinstance(e, events.StageStarted)]
    queue.put((files, fetched))


def test_two_processes_share_the_cache(archive: Archive, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[object] = context.Queue()
    processes = [context.Process(target=_fetch, args=(archive, tmp_path, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=30) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len({r[0] for r in results}) == 1  # type: ignore[index]
    stages = sorted(name for r in results for name in r[1])  # type: ignore[index]
    assert stages == ["fetch-headers", "fetch-image", "fetch-source", "update-lists"]


def test_listing_again_is_fast(provider: DebianProvider, archive: Archive, tmp_path: Path) -> None:
    provider.list()
    start = time.monotonic()
    make_provider(archive, tmp_path).list()
    assert time.monotonic() - start < 1
