"""Kernels: listing, fetching, and the shipped code of one as later stages see it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..base.errors import NotFoundError
from ..base.events import Monitor, NullMonitor
from ..base.fs import cache_root, read_text
from ..kernel.config import Config
from ..kernel.config import parse as parse_config
from ..kernel.image import KernelImage
from ..kernel.image import load as load_image
from ..kernel.kallsyms import load_or_decode
from ..kernel.modules import ModuleImage, find_module, load_module, module_files
from ..kernel.symbols import SymbolIndex
from ..kernel.symvers import Exports
from ..kernel.symvers import parse as parse_symvers
from ..match import Shipped, ShippedModule, ShippedVmlinux
from ..module.resolve import VMLINUX
from ..provider.apt import AptArchive
from ..provider.base import GivenKernel, KernelFiles, KernelInfo
from ..provider.debian import DebianProvider


@dataclass(frozen=True)
class ShippedKernel:
    """One kernel as it is shipped: image, symbols, exports and modules, each read when needed.

    `modules` are out-of-tree ones by name; `more_symvers` are the exports of such. `types` is
    filled by whoever reads them (layouts.py).
    """

    files: KernelFiles
    modules: Mapping[str, ModuleImage] = field(default_factory=dict, repr=False)
    more_symvers: tuple[Path, ...] = ()
    _modules: dict[str, ModuleImage] = field(default_factory=dict, init=False, repr=False)
    _shipped: dict[str, Shipped] = field(default_factory=dict, init=False, repr=False)
    types: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def image(self) -> KernelImage:
        """The decompressed image. Raises NotFoundError if it is of another release."""
        image = load_image(self.files.image)
        if image.release != self.files.release:
            raise NotFoundError(
                f"{self.files.image} is the image of {image.release}, not {self.files.release}"
            )
        return image

    @cached_property
    def symbols(self) -> SymbolIndex:
        """The kernel's symbols, decoded once and kept in the cache."""
        path = cache_root() / "kallsyms" / f"{self.image.build_id}.npz"
        return SymbolIndex(load_or_decode(self.image, path))

    @cached_property
    def config(self) -> Config:
        """The configuration that the kernel was built with."""
        return parse_config(read_text(self.files.config))

    @property
    def has_livepatch(self) -> bool:
        """Whether its loader knows livepatch relocations and its own engine can apply patches."""
        return self.config.enabled("LIVEPATCH")

    @property
    def has_ftrace(self) -> bool:
        """Whether functions begin with a place that ftrace can redirect."""
        return self.config.enabled("DYNAMIC_FTRACE")

    @cached_property
    def exports(self) -> Exports:
        """What kernel and modules export."""
        tables = (self.files.symvers, *self.more_symvers)
        return parse_symvers("\n".join(read_text(path) for path in tables))

    def read_ahead(self) -> None:
        """Reads what every build needs; what fails will fail again where it is needed."""
        _ = self.image, self.symbols, self.exports

    def module(self, name: str) -> ModuleImage:
        """A shipped module by name. Raises NotFoundError when the kernel has none of it."""
        if name in self.modules:
            return self.modules[name]
        if name not in self._modules:
            folder = self.files.modules
            path = find_module(folder, name) if folder else None
            if path is None:
                raise NotFoundError(
                    f"the kernel {self.files.release} ships no module '{name}'",
                    hint="what is built in belongs to vmlinux; for a kernel of your own, --modules "
                    "says where its modules are",
                )
            self._modules[name] = load_module(path)
        return self._modules[name]

    def forget(self, most: int) -> None:
        """Drops what was read of modules once there are more than `most`, for a long run."""
        if len(self._modules) > most:
            self._modules.clear()
            for facts in (self._shipped, self.types):
                for name in facts.keys() - {VMLINUX}:
                    del facts[name]

    def module_read_only(self, module: str, symbol: str) -> bool:
        """Whether a module's symbol may be read-only once it is loaded: so if it cannot be told."""
        try:
            return self.module(module).is_read_only(symbol)
        except NotFoundError:
            return True

    def some_modules(self) -> Iterator[ModuleImage]:
        """The shipped modules, each read when it is asked for."""
        if self.files.modules is not None:
            yield from map(load_module, module_files(self.files.modules))

    def shipped(self, owner: str) -> Shipped:
        """The shipped code of vmlinux or of a module, for run-pre matching."""
        if owner not in self._shipped:
            if owner == VMLINUX:
                self._shipped[owner] = ShippedVmlinux(self.image, self.symbols)
            else:
                self._shipped[owner] = ShippedModule(self.module(owner))
        return self._shipped[owner]


def provider(suites: Sequence[str], monitor: Monitor) -> DebianProvider:
    """The Debian provider, with further `suites` of the archives added."""
    archive = AptArchive()
    for suite in suites:
        archive.add_suite(suite, monitor)
    return DebianProvider(archive=archive)


def kernels(
    *,
    local: GivenKernel | None = None,
    suites: Sequence[str] = (),
    refresh: bool = False,
    monitor: Monitor | None = None,
) -> tuple[KernelInfo, ...]:
    """Every kernel that is running, installed, cached or in the archive, oldest first.

    With `local` only those that the user gives.

    `suites` adds further suites of the archives that the machine's apt knows. `refresh` reads
    their package lists anew, also when they are recent.
    """
    monitor = monitor or NullMonitor()
    if local is not None:
        return local.list(monitor)
    return provider(suites, monitor).list(monitor, refresh=refresh)


def fetch(
    release: str,
    *,
    suites: Sequence[str] = (),
    refresh: bool = False,
    monitor: Monitor | None = None,
) -> KernelFiles:
    """Downloads and verifies all that a build for `release` needs; quick when it is cached.

    `refresh` reads the archive's package lists anew before. Raises NotFoundError when the archive
    lacks a part of it, ResourceError for network and disk.
    """
    monitor = monitor or NullMonitor()
    chosen = provider(suites, monitor)
    if refresh:
        chosen.offered(monitor, refresh=True)
    return chosen.fetch(release, monitor)


def find(
    kernel: str | None,
    *,
    local: GivenKernel | None = None,
    suites: Sequence[str] = (),
    monitor: Monitor | None = None,
) -> KernelFiles:
    """The files of a kernel: one that the user gives, or that of the given or running release."""
    if local is not None:
        return local.fetch(kernel, monitor)
    return fetch(kernel or os.uname().release, suites=suites, monitor=monitor)
