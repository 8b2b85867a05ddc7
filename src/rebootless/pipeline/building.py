"""From patch files to a verified bundle."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace as replaced
from pathlib import Path

from ..base.collector import seldom_collected
from ..base.errors import NoChangeError, PatchInputError, RefusedError
from ..base.events import Monitor, NullMonitor, RecordingMonitor, stage
from ..base.fs import cache_root, os_failure
from ..base.words import counted
from ..base.workdir import Workdir
from ..bundle import archive, naming
from ..compile.tree import Tree, prepare
from ..compile.unit import UnitPair
from ..diff import Delta
from ..diff.delta import NO_FENTRY, NO_FENTRY_INFORMATION, KernelRef
from ..elf.model import ElfFile
from ..elf.reader import read as read_elf
from ..match import Status, match_unit
from ..module.emit import EmittedUnit, emit
from ..module.features import glue_symbols, merge_states, state_findings
from ..module.positions import KernelPositions
from ..module.resolve import VMLINUX, Proof, Resolver
from ..provider.base import GivenKernel, KernelFiles
from . import telling
from .artifact import BuildResult, write_bundle
from .cores import core_for
from .external import ExternalModule
from .inputs import Inputs, compiled, delta_of, read_inputs
from .job import Job, Unit
from .kernel import ShippedKernel, find
from .landing import pointers_into_kernel
from .linking import linked
from .meanwhile import Meanwhile
from .newly_global import exposed_names, taken_names


@seldom_collected()
def build(
    patches: Sequence[Path],
    *,
    kernel: str | None = None,
    local: GivenKernel | None = None,
    name: str | None = None,
    version: str = "1",
    replace: bool = False,
    cves: Sequence[str] = (),
    output: Path | None = None,
    workdir: Path | None = None,
    max_units: int = 60,
    from_source: bool = False,
    suites: Sequence[str] = (),
    external: ExternalModule | None = None,
    monitor: Monitor | None = None,
) -> BuildResult:
    """Builds one live patch from patch files (several are applied in order), or from C files.

    The kernel is `local`, or the release `kernel`, or the running one. With `replace` the patch
    takes the place of all that were applied before it. `name` is the module's, by default
    rebootless_ and the name of the first file. Writes the bundle to `output` (default: NAME.rlp
    here) and a report beside it; both are whole or absent. `from_source` extracts what changes
    into C files, kept beside the bundle, and builds these. With `external` the patch is one of an
    out-of-tree module's own source.

    Raises PatchInputError, CompileError, MismatchError (the build is not what the kernel ships),
    RefusedError (with all refusals), NoChangeError, NotFoundError, ResourceError.
    """
    recorder = RecordingMonitor(monitor or NullMonitor())
    inputs = read_inputs(patches, from_source=from_source, external=external)
    chosen = naming.check_name(name or naming.default_name(inputs.patch.name))
    folder = _kbuild_path(workdir) if workdir else None
    files = find(kernel, local=local, suites=suites, monitor=recorder)
    shipped = ShippedKernel(files)
    check_supported(shipped)
    tree = prepare(files, recorder)
    job = Job(
        chosen,
        version,
        inputs.patch,
        shipped,
        replace,
        tuple(dict.fromkeys([*cves, *inputs.patch.cves])),
        Workdir(folder or _kbuild_path(_default_workdir(chosen, files))),
        recorder,
        tree.toolchain.text,
        {source.name: source.text for source in inputs.written},
        tree,
    )
    output = output or Path(f"{naming.short_name(chosen)}{archive.SUFFIX}")
    return _built(job, inputs, tree, recorder, output, max_units=max_units, from_source=from_source)


def _built(
    job: Job,
    inputs: Inputs,
    tree: Tree,
    recorder: RecordingMonitor,
    output: Path,
    *,
    max_units: int,
    from_source: bool,
) -> BuildResult:
    """The stages in order. What they raise is what `build` does."""
    with job.work.locked(job.monitor), Meanwhile() as meanwhile:
        meanwhile.read_ahead(job)
        job, pairs = compiled(job, inputs, tree, max_units)
        job = replaced(job, pairs=pairs)
        units = matched(job, differing(job, pairs))
        with meanwhile.judging(job, units) as tell:
            if from_source:
                tell()  # nothing is extracted of what is refused
                job, units = _extracted(job, units, tree)
            units = emitted(job, units, pairs)
            explained = meanwhile.explain(job, units)
            module = linked(job, units, tree)
            core = core_for(tree, recorder)
        telling.warn_of_unused(job)
        if from_source:
            _keep_sources(job, output)
        return write_bundle(job, units, module, explained.result(), output, recorder, core)


def _extracted(job: Job, units: Sequence[Unit], tree: Tree) -> tuple[Job, list[Unit]]:
    from .from_source import extracted  # late: seldom asked for

    found, texts = extracted(job, units, tree)
    return replaced(job, sources=texts), found


def _keep_sources(job: Job, output: Path) -> None:
    from .from_source import keep_beside

    keep_beside(output, job.sources)


def _default_workdir(name: str, files: KernelFiles) -> Path:
    return cache_root() / "work" / f"{name}-{files.release}"


def _kbuild_path(folder: Path) -> Path:
    """The absolute path of a folder that is there now.

    Raises PatchInputError for one that make cannot name, ResourceError or NotFoundError for one
    that cannot be made.
    """
    path = folder.absolute()
    if re.search(r"[\s:#%$\\]", str(path)):
        raise PatchInputError(
            f"make cannot work in '{path}': the path has a space or a special character",
            hint="choose another folder with --workdir, or set REBOOTLESS_CACHE",
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise os_failure("make the work folder", path, exc) from exc
    return path


def differing(job: Job, pairs: Sequence[UnitPair]) -> list[Unit]:
    """The units whose objects differ. Raises NoChangeError or RefusedError."""
    found: list[Unit] = []
    with stage(job.monitor, "diff", f"Comparing {counted(len(pairs), 'object pair')}") as report:
        for pair in pairs:
            orig, patched = read_elf(pair.orig), read_elf(pair.patched)
            _check_objtool(job, pair.source, orig)
            delta = delta_of(job, pair, orig, patched)
            delta = _without_fentries(delta)
            if not delta.is_empty:
                found.append(Unit(pair, orig, patched, delta))
        changed = sum(len(u.delta.changed) for u in found)
        report.result = f"{counted(changed, 'function')} changed"
        if len(pairs) > 1:
            report.result += f" in {len(found)} of {len(pairs)} units"
    if not found:
        raise NoChangeError(
            "the patch changes no code: the objects are the same before and after",
            hint="comments, line numbers and unused code need no live patch",
        )
    refused = [f for u in found for f in u.delta.refused]
    refused += state_findings(merge_states(u.delta.states for u in found))
    telling.refuse(job, refused)
    for unit in found:
        telling.warn(job, unit.delta.warnings)
    if not any(u.delta.changed or u.delta.callbacks for u in found):
        raise NoChangeError(
            "the patch only adds code that nothing in the running kernel calls",
            hint="patch a function that uses it",
        )
    return found


def check_supported(kernel: ShippedKernel) -> None:
    """Refuses kernels of which a unit's object does not have all that its patch needs.

    With LTO a unit's object has no machine code yet. With clang's CFI a call through a pointer
    checks what stands before the function, which a symbol of its own (`__cfi_NAME`) covers.
    """
    reasons = {
        "LTO": "units have machine code only when the whole kernel is linked",
        "CFI_CLANG": "calls through pointers check marks before functions",
        "CFI": "calls through pointers check marks before functions",
    }
    for option, reason in reasons.items():
        if kernel.config.enabled(option):
            raise RefusedError(
                f"the kernel {kernel.files.release} is not supported yet: with CONFIG_{option} "
                f"{reason}",
                hint="Debian's 6.1 and 6.12 kernels are supported",
            )


def _check_objtool(job: Job, unit: str, orig: ElfFile) -> None:
    """The same by what it leads to: the kernel unwinds by ORC, and code comes without ORC data."""
    has_code = any(s.is_exec and s.size for s in orig.sections)
    has_orc = ".orc_unwind_ip" in orig.section_by_name
    if job.kernel.config.enabled("UNWINDER_ORC") and has_code and not has_orc:
        raise RefusedError(
            f"{unit} was built without ORC unwind data, which {job.kernel.files.release} needs: "
            "objtool did not run on it",
            hint="Debian's 6.1 and 6.12 kernels are supported",
        )


def _without_fentries(delta: Delta) -> Delta:
    """Without what the object alone says of fentries: safety/preflight asks the shipped kernel."""
    kept = [
        tuple(f for f in findings if f.code not in (NO_FENTRY, NO_FENTRY_INFORMATION))
        for findings in (delta.refused, delta.warnings)
    ]
    return replaced(delta, refused=kept[0], warnings=kept[1])


def matched(job: Job, units: Sequence[Unit]) -> list[Unit]:
    """Proves every changed function against the shipped code. Raises MismatchError."""
    with stage(job.monitor, "match", "Proving the build against the shipped kernel") as report:
        found = []
        for unit in units:
            shipped = job.kernel.shipped(unit.pair.module)
            match = match_unit(unit.orig, shipped)
            changed = (*unit.delta.changed, *unit.delta.carried)
            match.require({change.name for change in changed}, _originals(unit.delta))
            found.append(replaced(unit, match=match))
        functions = [f for u in found if u.match for f in u.match.functions]
        good = sum(f.status is Status.MATCHED for f in functions)
        report.result = f"{good} of {len(functions)} functions identical"
    return found


def _originals(delta: Delta) -> set[int]:
    """The symbols of the original object that the patch refers to."""
    targets = (reloc.target for piece in delta.pieces for reloc in piece.relocs)
    refs = (t for t in targets if isinstance(t, KernelRef))
    return {ref.orig_symbol for ref in refs if ref.orig_symbol is not None}


def emitted(
    job: Job, units: Sequence[Unit], pairs: Sequence[UnitPair], first: int = 0
) -> list[Unit]:
    """Resolves every reference and writes the units' objects. Raises RefusedError.

    The units are numbered from `first`, so that objects of several builds go into one module.
    """
    telling.refuse(job, [f for u in units for f in taken_names(u, _positions(job, u))])
    exposed = functools.cache(lambda: exposed_names(pairs))  # seldom asked for
    siblings = frozenset(
        symbol.name
        for unit in units
        for piece in unit.delta.pieces
        for symbol in piece.symbols
        if symbol.is_global
    )
    siblings |= glue_symbols(job.kernel.has_livepatch)
    with stage(job.monitor, "resolve", "Resolving symbols"):
        found = [
            replaced(u, emitted=_emit(job, u, n, siblings, lambda name: name in exposed()))
            for n, u in enumerate(units, first)
        ]
    telling.refuse(job, [f for u in found if u.emitted for f in u.emitted.refused])
    telling.refuse(job, pointers_into_kernel(job, found))
    for unit in found:
        if unit.emitted:
            telling.warn(job, unit.emitted.warnings)
    return found


def _positions(job: Job, unit: Unit) -> KernelPositions:
    kernel, owner = job.kernel, unit.pair.module
    return KernelPositions(
        kernel.symbols, lambda: kernel.module(owner) if owner != VMLINUX else None
    )


def _emit(
    job: Job,
    unit: Unit,
    number: int,
    siblings: frozenset[str],
    is_exposed: Callable[[str], bool],
) -> EmittedUnit:
    assert unit.match is not None
    owner = unit.pair.module
    proofs = {
        index: Proof(p.name, p.sympos, p.offset)
        for index, p in unit.match.proven.items()
        if p.sympos is not None and not p.external
    }
    positions = _positions(job, unit)
    resolver = Resolver(
        owner,
        job.kernel.exports,
        siblings,
        proofs,
        positions,
        read_only=positions.read_only,
        is_exposed=is_exposed,
        livepatch=job.kernel.has_livepatch,
        module_read_only=job.kernel.module_read_only,
    )
    return emit(unit.delta, resolver, number)
