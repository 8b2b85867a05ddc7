"""Fixtures of tests that build: the command line, and a kernel given by its files."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rebootless.__main__ import main
from rebootless.base.fs import cache_root
from rebootless.compile.tree import Tree
from rebootless.provider.base import KernelFiles

sys.path.insert(0, str(Path(__file__).parent))  # for command_line.py

from command_line import (
    ALTERED,
    Command,
    Ended,
    OwnKernel,
    local_options,
    reduced_source,
)


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Runs the command line in this process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}

    def run(*words: str | Path) -> Ended:
        capfd.readouterr()
        code = main([str(word) for word in words])
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="module")
def own_kernel(
    stock_kernel: KernelFiles, stock_tree: Tree, tmp_path_factory: pytest.TempPathFactory
) -> OwnKernel:
    """A kernel given by --image, --source-dir, --config, --symvers and --modules."""
    folder = tmp_path_factory.mktemp("own")
    source, cache = folder / "source", folder / "cache"
    reduced_source(stock_tree.orig, source)
    altered = source / ALTERED
    text = altered.read_text()
    altered.unlink()  # it is a link
    altered.write_text(text.replace("\tseq_printf(", "\tif (!v)\n\t\treturn 1;\n\tseq_printf(", 1))
    cache.mkdir()
    (cache / "kallsyms").symlink_to(cache_root() / "kallsyms")
    options = local_options(stock_kernel, source_dir=source)
    return OwnKernel(options, cache, {"REBOOTLESS_CACHE": str(cache)})
