"""The source-level way: what changes is extracted into one C file, which is built like any other.

The object pair says which functions change and which static variables are the kernel's; run-pre
matching says where these are. So the C file replaces the same functions as the object way would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as replaced
from pathlib import Path, PurePosixPath

from ..base.errors import CompileError, PatchInputError, RefusedError
from ..base.events import NullMonitor, stage
from ..base.fs import atomic_write, read_bytes
from ..base.workdir import Workdir
from ..bundle import naming
from ..compile.inplace import build_in_place
from ..compile.preprocess import command_line_macros, preprocess
from ..compile.tree import Tree
from ..compile.unit import UnitPair
from ..diff.delta import Delta, Finding, PieceKind
from ..diff.handwritten import handwritten
from ..diff.kept import KeptStatics
from ..diff.names import is_special_static, local_name
from ..elf.constants import Binding, SectionFlag, SymbolType
from ..elf.model import ElfFile
from ..elf.reader import read as read_elf
from ..extract.closure import Wanted, extract
from ..extract.render import Cover, render
from ..extract.statics import Outside
from ..extract.toplevel import Preprocessed, split
from ..match import UnitMatch
from ..patch import csource
from .job import Job, Unit

FOLDER = "from-source"
_KINDS = (SymbolType.FUNC, SymbolType.OBJECT)
HINT = "without --from-source the object files are compared, and nothing is extracted"


def extracted(job: Job, units: Sequence[Unit], tree: Tree) -> tuple[list[Unit], dict[str, bytes]]:
    """The units with the objects of the extracted C files, and these files by name.

    Raises RefusedError naming what cannot be extracted, CompileError.
    """
    with stage(job.monitor, "extract", "Extracting the changed functions") as report:
        sources = [u.pair.source for u in units]
        texts = preprocess(tree, job.patch, sources, NullMonitor())
        split_units = {source: split(text) for source, text in texts.items()}
        pairs, written = _built(job, units, tree, split_units)
        lines = sum(source.text.count(b"\n") for source in written)
        report.result = f"{lines} lines of C"
    found = []
    for unit, pair in zip(units, pairs, strict=True):
        made = read_elf(pair.patched)
        delta = handwritten(unit.orig, made, unit.pair.module)
        _check_same(unit, delta)
        found.append(replaced(unit, pair=pair, patched=made, delta=_with_reasons(delta, unit)))
    return found, {source.name: source.text for source in written}


def _built(
    job: Job, units: Sequence[Unit], tree: Tree, texts: Mapping[str, Preprocessed]
) -> tuple[tuple[UnitPair, ...], list[csource.CSource]]:
    """The compiled C files. When types prove to be too incomplete, once more with all of them."""
    work = Workdir(job.work.root / FOLDER)
    quiet = NullMonitor()
    written = [_written(job, u, texts[u.pair.source], units) for u in units]
    try:
        return build_in_place(tree, written, work, quiet), written
    except CompileError:
        written = [_written(job, u, texts[u.pair.source], units, whole_types=True) for u in units]
    try:
        return build_in_place(tree, written, work, quiet), written
    except CompileError as exc:
        for source in written:
            atomic_write(work.root / source.name, source.text)
        raise CompileError(
            f"the extracted code does not compile: {exc.message}",
            hint=f"it is in {work.root}; {HINT}",
        ) from exc


def keep_beside(output: Path, sources: Mapping[str, bytes]) -> None:
    """Writes the C files beside the bundle. Raises PatchInputError rather than lose an edited one.

    Nothing is written then.
    """
    for name, text in sources.items():
        path = output.with_name(name)
        if path.exists() and read_bytes(path) != text:
            raise PatchInputError(
                f"{path} exists and is not what would be extracted: it may have been edited",
                hint=f"build it as it is ('rebootless build {path}'), or move it away",
            )
    for name, text in sources.items():
        atomic_write(output.with_name(name), text)


def _written(
    job: Job, unit: Unit, text: Preprocessed, units: Sequence[Unit], *, whole_types: bool = False
) -> csource.CSource:
    """The C file of one unit."""
    wanted = _wanted(unit)
    name = naming.short_name(job.name)
    if len(units) > 1:
        name += f"-{PurePosixPath(unit.pair.source).stem}"
    title = job.patch.title or job.patch.name
    release = job.kernel.files.release
    source = unit.pair.source
    assert job.tree is not None
    macros = command_line_macros(job.tree, source)
    cover = Cover(f"{name}.c", title, source, unit.pair.module, release, macros)
    try:
        found = extract(text, wanted, whole_types=whole_types)
    except RefusedError as exc:
        if exc.refusals:
            raise
        raise _refused("not-extractable", unit.pair.source, exc.message) from exc
    return csource.parse(render(text, found, wanted.replaced, cover).encode(), cover.name)


def _wanted(unit: Unit) -> Wanted:
    """What to extract of a unit: from the Delta what changes, from the match what stays where."""
    assert unit.match is not None
    changes = (*unit.delta.changed, *unit.delta.carried)
    for change in changes:
        if "." in change.name:
            raise _refused(
                "not-extractable",
                change.name,
                f"the compiler has changed how '{change.name}' is called, and need not do the "
                "same to extracted code",
            )
    kept = KeptStatics(unit.orig, unit.patched, [change.name for change in changes])
    return wanted_of(
        unit.orig,
        unit.match,
        kept,
        tuple(c.name for c in unit.delta.changed),
        frozenset(c.name for c in unit.delta.carried),
    )


def wanted_of(
    orig: ElfFile,
    match: UnitMatch,
    kept: KeptStatics,
    replaced: tuple[str, ...],
    carried: frozenset[str] = frozenset(),
) -> Wanted:
    """What to extract: the functions `replaced`, and what of the unit stays in the kernel where.

    Its `local` raises RefusedError for a static variable that cannot be told or located.
    """
    table = orig.symbols

    def outside_of(symbol: int) -> Outside | None:
        size = int(table.size[symbol])
        if table.binding[symbol] != Binding.LOCAL:  # found by its name, as other units find it
            return Outside(table.names[symbol], 0, size, is_private=False)
        known = match.proven.get(symbol)
        if known is None or known.sympos is None or known.offset or known.external:
            return None
        return Outside(known.name, known.sympos, size, is_private=True)

    def local(function: str, name: str) -> Outside | None:
        return _local(kept, outside_of, function, name)

    outside = {
        table.names[i]: found
        for i in range(len(table))
        if int(table.type[i]) in _KINDS and int(table.shndx[i])
        if (found := outside_of(i)) is not None
    }
    return Wanted(replaced, carried, outside, local)


def _local(
    kept: KeptStatics,
    outside_of: Callable[[int], Outside | None],
    function: str,
    name: str,
) -> Outside | None:
    """The kernel's variable that a static one of a function is; None for a new one."""
    symbols = kept.find(function, name)
    if len(symbols) > 1:
        raise _refused(
            "ambiguous-static-local",
            name,
            f"which of several static variables '{name}' the one in {function}() is cannot be "
            "told in the source",
        )
    symbol = next(iter(symbols), None)
    if symbol is None:
        return None
    found = outside_of(symbol)
    if found is None:
        raise _refused(
            "unproven-symbol",
            name,
            f"the static variable '{name}' of {function}() could not be located in the shipped "
            "kernel",
        )
    return found


def _check_same(unit: Unit, delta: Delta) -> None:
    """Raises RefusedError unless the C file replaces what the object way does, and no state."""
    before = {change.name for change in unit.delta.changed}
    after = {change.name for change in delta.changed}
    for name in sorted(before ^ after):
        raise _refused("not-extractable", name, f"only one of both ways replaces '{name}'")
    if copied := sorted(_state(delta) - _state(unit.delta)):
        raise _refused(
            "state-copied",
            copied[0],
            f"the extracted code would have a variable '{copied[0]}' of its own, while the kernel "
            "goes on with another",
        )


def _state(delta: Delta) -> set[str]:
    """The variables that a patch brings along, but for those that macros make."""
    return {
        local_name(symbol.name) or symbol.name
        for piece in delta.pieces
        if piece.kind is PieceKind.DATA and piece.flags & SectionFlag.WRITE
        for symbol in piece.symbols
        if not is_special_static(symbol.name, piece.section)
    }


def _with_reasons(delta: Delta, unit: Unit) -> Delta:
    """The changed functions with the reasons that the comparison of the objects gave."""
    reasons = {change.name: change.reason for change in unit.delta.changed}
    changed = tuple(replaced(c, reason=reasons[c.name]) for c in delta.changed)
    return replaced(delta, changed=changed, warnings=(*unit.delta.warnings, *delta.warnings))


def _refused(code: str, symbol: str, message: str) -> RefusedError:
    finding = Finding(code, symbol, message)
    return RefusedError(
        f"the change cannot be extracted as source:\n  [{code}] {message}",
        hint=HINT,
        refusals=[finding],
    )
