"""Where the image is that a running kernel was booted from."""

from __future__ import annotations

from pathlib import Path

from ..base.errors import NotFoundError
from ..base.fs import cache_root
from ..provider.installed import installed_kernel


def find_files(running: str, image: Path | None, modules: Path | None) -> tuple[Path, Path | None]:
    """The image and the modules of a release; what is given wins. Raises NotFoundError."""
    installed = installed_kernel(running)
    cached = cache_root() / "kernels" / running / "image"
    image = image or installed.image
    if image is None and (cached / "vmlinuz").is_file():
        image = cached / "vmlinuz"
    if image is None:
        raise NotFoundError(
            f"the image of {running} is not installed and not in the cache",
            hint=f"`rebootless kernels fetch {running}` gets it, or give it with --image",
        )
    modules = modules or installed.modules
    if modules is None and (cached / "lib/modules" / running).is_dir():
        modules = cached / "lib/modules" / running
    return image, modules
