"""Which kernels a build takes, by their configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from rebootless.base.errors import RefusedError
from rebootless.pipeline.building import check_supported
from rebootless.pipeline.kernel import ShippedKernel
from rebootless.provider.base import KernelFiles, SourceTree


def kernel(folder: Path, config: str) -> ShippedKernel:
    path = folder / "config"
    path.write_text(config)
    files = KernelFiles("6.99.0", "", path, path, path, None, SourceTree(folder), "gcc", "gcc 12")
    return ShippedKernel(files)


@pytest.mark.parametrize("option", ["LTO", "CFI_CLANG", "CFI"])
def test_kernels_whose_objects_lack_something(option: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=rf"6\.99\.0 .* with CONFIG_{option} "):
        check_supported(kernel(tmp_path, f"CONFIG_X86_64=y\nCONFIG_{option}=y\n"))
    check_supported(kernel(tmp_path, f"CONFIG_X86_64=y\n# CONFIG_{option} is not set\n"))
