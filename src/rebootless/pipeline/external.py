"""Live patches of out-of-tree modules: which installed files they are proven against."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..base.errors import NotFoundError, PatchInputError
from ..compile import external
from ..compile.external import ModuleSource
from ..compile.tree import Tree
from ..compile.unit import UnitPair
from ..kernel.modules import SUFFIXES, ModuleImage, find_module, load_module, normal_name
from .job import Job
from .kernel import ShippedKernel

INSTALLED = Path("/lib/modules")


@dataclass(frozen=True)
class ExternalModule:
    """What `build` is told of out-of-tree modules.

    `source` is their source's directory, `modules` are names or files of installed ones (a name is
    looked up in lib/modules/RELEASE), `symvers` what the modules export that they depend on.
    """

    source: Path
    modules: tuple[str, ...] = ()
    symvers: tuple[Path, ...] = ()


def compile_external(
    job: Job, tree: Tree, module: ExternalModule, *, max_units: int
) -> tuple[Job, tuple[UnitPair, ...]]:
    """The pairs of the touched units, and the job with a kernel that has the modules.

    Raises what `compile.external` does, NotFoundError when an installed module is not found, and
    PatchInputError for one of another name or another kernel.
    """
    given = [_given(job.kernel, name) for name in module.modules]
    for path in module.symvers:
        if not path.is_file():
            raise NotFoundError(
                f"no Module.symvers at {path}", hint="`make M=DIRECTORY modules` leaves it there"
            )
    source = ModuleSource(module.source, module.symvers)
    built = external.build_module(tree, source, job.patch, job.work, job.monitor)
    images = {image.name: image for image in given}
    for name, image in images.items():
        if name not in built:
            raise PatchInputError(
                f"{image.path} is the module '{name}', and {module.source} builds "
                f"{', '.join(sorted(built))}",
                hint="give the installed file of the module that the source is of",
            )
    touched = {file.path for file in job.patch.files}
    for name, sources in built.items():
        if name not in images and (len(built) == 1 or sources & touched):
            images[name] = _installed(job.kernel, name)
    places = Counter(p for name, i in images.items() for p in i.directories(built[name]))
    place = places.most_common(1)[0][0] if places else str(module.source.absolute())
    pairs = external.build_external_pairs(
        tree, source, job.patch, job.work, job.monitor, place=place, max_units=max_units
    )
    for name in {pair.module for pair in pairs} - images.keys():
        images[name] = _installed(job.kernel, name)
    kernel = replace(
        job.kernel, modules=images, more_symvers=(external.exports(job.work), *module.symvers)
    )
    return replace(job, kernel=kernel), pairs


def _given(kernel: ShippedKernel, name: str) -> ModuleImage:
    if "/" in name or name.endswith(SUFFIXES):
        if not Path(name).is_file():
            raise NotFoundError(f"no module at {name}", hint="--module is the installed file")
        return _checked(kernel, load_module(Path(name)))
    return _installed(kernel, normal_name(name))


def _installed(kernel: ShippedKernel, name: str) -> ModuleImage:
    folders = tuple(_folders(kernel))
    for folder in folders:
        path = find_module(folder, name)
        if path is not None:
            return _checked(kernel, load_module(path))
    searched = " or ".join(str(folder) for folder in folders) or "any directory of modules"
    raise NotFoundError(
        f"the module '{name}' is not installed in {searched}",
        hint="--module FILE.ko says where the file is that the kernel loads",
    )


def _folders(kernel: ShippedKernel) -> Iterable[Path]:
    """lib/modules/RELEASE of this machine, where out-of-tree modules are, then of the package."""
    here = INSTALLED / kernel.files.release
    found: Sequence[Path | None] = (here if here.is_dir() else None, kernel.files.modules)
    return dict.fromkeys(folder for folder in found if folder is not None)


def _checked(kernel: ShippedKernel, image: ModuleImage) -> ModuleImage:
    release = image.vermagic.partition(" ")[0]
    if release != kernel.files.release:
        raise PatchInputError(
            f"{image.path} is built for {release or 'no kernel'}, not for {kernel.files.release}",
            hint="give the file that this kernel loads, or another --kernel",
        )
    return image
