"""The provider against the distribution's own archive. Needs the network; kernels are discovered.

The cache is the user's own for what is large and already there (sources), else a temporary one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from rebootless.base.errors import NotFoundError, ResourceError
from rebootless.base.fs import cache_root
from rebootless.kernel import config, image, symvers
from rebootless.provider.apt import AptArchive
from rebootless.provider.debian import DebianProvider
from rebootless.provider.updates import find_small_update

pytestmark = pytest.mark.archive


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> DebianProvider:
    """A provider with a cache of this test run."""
    if shutil.which("apt-get") is None:
        pytest.skip("apt is not installed")
    provider = DebianProvider(cache=tmp_path_factory.mktemp("cache"))
    try:
        provider.list()
    except ResourceError as exc:
        pytest.skip(f"the archive cannot be reached: {exc.message}")
    return provider


def newest_cloud(provider: DebianProvider) -> str:
    found = [k for k in provider.list() if k.buildable and k.release.endswith("-cloud-amd64")]
    assert found, "the archive offers no cloud kernel with source"
    return found[-1].release


def test_list_is_fast_when_warm(shared: DebianProvider) -> None:
    again = DebianProvider(cache=shared.cache)
    start = time.monotonic()
    found = again.list()
    assert time.monotonic() - start < 2
    assert {"amd64", "cloud-amd64", "rt-amd64"} <= {
        k.release.split("-", 2)[-1]
        if k.release.startswith("6.1.0")
        else k.release.split("-", 1)[-1]
        for k in found
    }


def test_image_and_headers_of_a_cloud_kernel(shared: DebianProvider) -> None:
    release = newest_cloud(shared)
    (kernel,) = [k for k in shared.offered() if k.release == release][-1:]
    own = cache_root() / "sources" / kernel.version
    if own.is_dir():
        shutil.copytree(own, shared.cache / "sources" / kernel.version, copy_function=os.link)
        files = shared.fetch(release)
        assert (files.release, files.version) == (release, kernel.version)
        shipped, options, exports = files.image, files.config, files.symvers
        assert files.modules is not None and any(files.modules.rglob("*.ko*"))
        assert files.compiler_text.startswith(files.compiler)
    else:
        monitor = _Quiet()
        shared._fetch_image(kernel, monitor, lambda: False)
        shared._fetch_headers(kernel, monitor, lambda: False)
        root = shared.cache / "kernels" / release
        shipped, options, exports = (
            root / "image/vmlinuz",
            root / "image/config",
            root / "headers/Module.symvers",
        )
    assert image.load(shipped).release == release
    assert config.parse(options.read_text()).enabled("LIVEPATCH")
    assert symvers.parse(exports.read_text())["_printk"].owner == "vmlinux"


class _Quiet:
    def emit(self, event: object) -> None:
        pass


def test_vanished_package(shared: DebianProvider, tmp_path: Path) -> None:
    package = shared.archive.packages()[0]
    gone = replace(package, uri=package.uri.replace(package.version.split("-")[0], "0.0.0", 1))
    gone = replace(gone, uri=gone.uri + ".gone")
    with pytest.raises(NotFoundError, match=package.name) as caught:
        shared.archive.download([gone], tmp_path)
    assert "--refresh" in (caught.value.hint or "")


def test_wrong_content_is_refused(shared: DebianProvider, tmp_path: Path) -> None:
    small = min((p for p in shared.archive.packages() if p.size > 1000), key=lambda p: p.size)
    with pytest.raises(ResourceError, match="signed list"):
        shared.archive.download([replace(small, sha256="0" * 64)], tmp_path)
    assert not list(tmp_path.glob("*.deb"))


def test_suite_that_does_not_exist(shared: DebianProvider) -> None:
    with pytest.raises(NotFoundError, match="no source offers the suite 'no-such-suite'"):
        shared.archive.add_suite("no-such-suite")


def test_without_network_old_lists_serve(
    shared: DebianProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    again = AptArchive(shared.archive.root)
    assert again.packages(refresh=True) == shared.archive.packages()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_download_leaves_nothing(
    shared: DebianProvider, tmp_path: Path, number: signal.Signals
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(shared.cache / "apt", cache / "apt")
    code = (
        "import sys; from rebootless.provider.debian import DebianProvider;"
        "DebianProvider().fetch(sys.argv[1])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, newest_cloud(shared)],
        env={**os.environ, "REBOOTLESS_CACHE": str(cache)},
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while not list(cache.rglob("*.filling/*.deb")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode != 0
    assert not list((cache / "sources").glob("[0-9]*"))
    if number == signal.SIGINT:
        assert not list(cache.rglob("*.filling"))
        assert not list(cache.rglob("*.deb"))


def test_real_small_update() -> None:
    """Slow: downloads two sources (280 MB) unless they are cached."""
    provider = DebianProvider()
    found = find_small_update(provider, series=None)
    if found is None:
        pytest.skip("no update of the archive is small at present")
    assert found.files and found.diff.startswith(b"--- a/")
    assert found.diff.count(b"\n--- a/") + 1 >= len(found.files) - found.diff.count(b"/dev/null")
    assert found.release.endswith("-cloud-amd64")
    assert find_small_update(provider) == found
