"""A bundle in QEMU, on the kernel that it is for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..base.errors import NotFoundError, WrongKernelError
from ..base.events import Monitor, NullMonitor
from ..base.fs import read_text
from ..bundle import archive
from ..bundle.manifest import Manifest
from ..engine.base import AUTO
from ..engine.machine import Machine
from ..engine.restored import Comparison
from ..kernel.image import load as load_image
from ..kernel.modules import find_module, load_module, module_name
from ..lab.plan import Scenario
from ..lab.report import TestReport
from ..lab.scenario import run
from ..module.resolve import VMLINUX
from ..provider.base import GivenKernel, KernelFiles
from .comparing import compare
from .external import INSTALLED
from .kernel import find
from .running import wanted_of


def test(
    bundle: Path,
    *,
    check: Path | None = None,
    expect_before: str = "fail",
    workload: bool = True,
    engine: str = AUTO,
    verify: bool = True,
    modules: Sequence[Path] = (),
    local: GivenKernel | None = None,
    monitor: Monitor | None = None,
) -> TestReport:
    """Boots the bundle's kernel in QEMU, applies the bundle under load, and undoes it.

    `check` is a shell script that must fail before (unless `expect_before` is "pass"), pass while
    the patch is applied, and after the undo do as before. `engine` is 'auto' or a name. With
    `verify` all code is compared with the shipped image after the undo. The report becomes the
    bundle's test.log; the guest's console is kept beside the bundle. A failed test is a report with
    the verdict 'failed', not an exception. `modules` are files of out-of-tree modules that it
    patches (default: those in lib/modules/RELEASE). Raises BundleError, NotFoundError,
    WrongKernelError.
    """
    monitor = monitor or NullMonitor()
    content = archive.read(bundle)
    files = find(content.manifest.kernel.release, local=local, monitor=monitor)
    scenario = scenario_of(
        content,
        files,
        check=read_text(check) if check else "",
        fails_without=expect_before == "fail",
        workload=workload,
        engine=engine,
        verify=verify,
        more_modules=_external_modules(content.manifest, files, modules),
    )
    return run_and_record(scenario, bundle, content, monitor)


def run_and_record(
    scenario: Scenario, bundle: Path, content: archive.Bundle, monitor: Monitor
) -> TestReport:
    """Runs a test; its report becomes the test.log of `bundle`, the console is kept beside it."""
    report = run(scenario, bundle.with_suffix(".console.log"), monitor)
    archive.write(archive.with_test_log(content, report.text()), bundle)
    return report


def scenario_of(
    content: archive.Bundle,
    kernel: KernelFiles,
    *,
    check: str = "",
    fails_without: bool = True,
    workload: bool = True,
    late: bool = False,
    engine: str = AUTO,
    verify: bool = False,
    more_modules: tuple[Path, ...] = (),
    extra_modules: tuple[str, ...] = (),
    extra_files: Mapping[str, tuple[bytes, int]] | None = None,
) -> Scenario:
    """The test of a bundle; modules that it patches are loaded before it, or `late`.

    `more_modules` are files of out-of-tree modules; `extra_modules` are loaded before, and
    `extra_files` (path -> content and mode) are there, for the check.

    Raises WrongKernelError when `kernel` is another build of the kernel.
    """
    manifest = content.manifest
    build_id = load_image(kernel.image).build_id
    if build_id != manifest.kernel.build_id:
        raise WrongKernelError(
            f"{kernel.image} has build-id {build_id}, and {manifest.name} is for "
            f"{manifest.kernel.build_id} ({manifest.kernel.release})"
        )
    modules = tuple(o.name for o in manifest.objects if o.name != VMLINUX)
    return Scenario(
        kernel=kernel.image,
        patches=(content.modules[manifest.name],),
        modules_dir=kernel.modules,
        more_modules=more_modules,
        check=check,
        fails_before=fails_without,
        fails_after=fails_without,
        load_before=(*extra_modules, *(() if late else modules)),
        load_late=modules if late else (),
        workload=workload,
        wanted=wanted_of(manifest),
        engine=engine,
        core=content.core,
        compare=_comparison(kernel) if verify else None,
        files=extra_files or {},
    )


def _comparison(kernel: KernelFiles) -> Callable[[Machine], Comparison]:
    """Compares a guest with the kernel's own files."""
    return lambda machine: compare(
        machine, NullMonitor(), image=kernel.image, modules=kernel.modules
    )


def _external_modules(
    manifest: Manifest, kernel: KernelFiles, given: Sequence[Path]
) -> tuple[Path, ...]:
    """The files of the modules that the bundle patches, where the kernel's package lacks them.

    Raises WrongKernelError for a file that is another build of the module, NotFoundError.
    """
    wanted = {o.name: o.build_id for o in manifest.objects if o.name != VMLINUX}
    found = []
    for path in given:
        module = load_module(path)
        if module.name not in wanted or module.build_id != wanted[module.name]:
            raise WrongKernelError(
                f"{path} is not the build of the module that {manifest.name} patches",
                hint="give the file that `build` was given",
            )
        found.append(path)
    have = {module_name(path) for path in found}
    for name in wanted.keys() - have:
        if kernel.modules is None or find_module(kernel.modules, name) is None:
            here = INSTALLED / kernel.release
            installed = find_module(here, name) if here.is_dir() else None
            if installed is None:
                raise NotFoundError(
                    f"{manifest.name} patches the module '{name}', which {kernel.release} does not "
                    "come with",
                    hint="--module FILE.ko says where the file is that the kernel loads",
                )
            found.append(installed)
    return tuple(found)
