"""A bundle in QEMU, on the kernel that it is for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..base.errors import WrongKernelError
from ..base.events import Monitor, NullMonitor
from ..base.fs import read_text
from ..bundle import archive
from ..kernel.image import load as load_image
from ..lab.report import TestReport
from ..lab.scenario import Scenario, run
from ..module.resolve import VMLINUX
from ..provider.base import KernelFiles
from ..provider.local import LocalProvider
from .kernel import find
from .running import wanted_of


def test(
    bundle: Path,
    *,
    check: Path | None = None,
    expect_before: str = "fail",
    workload: bool = True,
    local: LocalProvider | None = None,
    monitor: Monitor | None = None,
) -> TestReport:
    """Boots the bundle's kernel in QEMU, applies the bundle under load, and undoes it.

    `check` is a shell script that must fail before (unless `expect_before` is "pass"), pass while
    the patch is applied, and after the undo do as before. The report becomes the bundle's
    test.log; the guest's console is kept beside the bundle. A failed test is a report with the
    verdict 'failed', not an exception. Raises BundleError, NotFoundError, WrongKernelError.
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
    extra_modules: tuple[str, ...] = (),
    extra_files: Mapping[str, tuple[bytes, int]] | None = None,
) -> Scenario:
    """The test of a bundle; modules that it patches are loaded before it, or `late`.

    `extra_modules` are loaded before, and `extra_files` (path -> content and mode) are there, for
    the check.

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
        check=check,
        fails_before=fails_without,
        fails_after=fails_without,
        load_before=(*extra_modules, *(() if late else modules)),
        load_late=modules if late else (),
        workload=workload,
        wanted=wanted_of(manifest),
        files=extra_files or {},
    )
