"""Verifies a running kernel: reads what is needed, and leaves the judgement to `compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ..base.errors import ElfError, ResourceError, WrongKernelError
from ..engine import text
from ..engine.machine import Machine, build_id, module_build_id
from ..kernel import kaslr
from ..kernel.image import KernelImage
from ..kernel.kallsyms import KERNEL_BASE
from ..kernel.modules import ModuleImage
from ..kernel.symbols import SymbolIndex
from . import constants, live, modules
from .code import Code, of_kernel
from .compare import Verdict, compare
from .layouts import layouts
from .live import Live
from .region import Region
from .tables import Tables

LOOKS = 3  # at code that differs: it may be changing right now
EXPORT = "__ksymtab_"  # what the symbol of an export's entry begins with
PAUSE = 0.3  # seconds between looks


@dataclass(frozen=True)
class Skipped:
    """A loaded module whose code was not compared."""

    object: str
    reason: str


class Examiner:
    """One running kernel and the image that it was booted from.

    Raises WrongKernelError when it is another kernel, ResourceError when its memory may not be
    read or its addresses are hidden.
    """

    def __init__(self, machine: Machine, image: KernelImage, symbols: SymbolIndex) -> None:
        self.machine = machine
        running = build_id(machine)
        if running != image.build_id:
            raise WrongKernelError(
                f"the kernel of {machine.name} has the build-id {running or '(none)'}, and "
                f"{image.path} is {image.release} with {image.build_id}",
                hint="give the image that was booted with --image",
            )
        self.memory = live.memory_of(machine)
        self.symbols = symbols
        self.shift = live.shift_of(machine, symbols.addresses("_stext")[0])
        self.code = of_kernel(image, symbols, kaslr.relocations(image), self.shift)
        self.tables = Tables(self.code, layouts(image))

    def kernel(self) -> Verdict:
        """Compares the kernel proper."""
        return self._judge(self.code, self.tables)

    def loaded(self) -> tuple[str, ...]:
        """The names of the loaded modules."""
        return tuple(sorted(name for _, _, name in self._facts.modules))

    def module(self, name: str, image: ModuleImage | None) -> Verdict | Skipped:
        """Compares a loaded module with its file; None is for one that the kernel does not ship."""
        if image is None:
            return Skipped(name, "not shipped with the kernel")
        if image.build_id and module_build_id(self.machine, name) != image.build_id:
            return Skipped(name, f"loaded from another build than {image.path}")
        sections = self._sections(name)
        if not sections:
            return Skipped(name, "the kernel does not tell where its sections are")
        try:
            own = self._modules.get(name, {})
            code = modules.load(image, sections, own, self._resolve)
        except ElfError as exc:
            return Skipped(name, exc.message)
        return self._judge(code, Tables(code, self.tables.layouts))

    # --- one object -----------------------------------------------------------------------

    def _judge(self, code: Code, tables: Tables) -> Verdict:
        """Compares; what differs is looked at again, and counts if it does each time."""
        verdict = self._look(code, tables)
        for _ in range(LOOKS - 1):
            if not verdict.differences:
                break
            self.machine.sleep(PAUSE)
            self.__dict__.pop("_facts", None)
            again = self._look(code, tables)
            before = {(d.address, d.found) for d in verdict.differences}
            lasting = tuple(d for d in again.differences if (d.address, d.found) in before)
            verdict = replace(again, differences=lasting)
        return verdict

    def _look(self, code: Code, tables: Tables) -> Verdict:
        regions = self._regions(code)
        return compare(code, tables, regions, self._of(code, tables, regions))

    def _regions(self, code: Code) -> list[Region]:
        sections = [s for s in code.sections if s.stays and len(s.data)]
        blobs = self.memory.read([(s.address, len(s.data)) for s in sections])
        found = []
        for section, blob in zip(sections, blobs, strict=True):
            if blob is None:
                raise ResourceError(
                    f"the memory of {self.machine.name} at {section.address:#x} ({code.name}, "
                    f"section {section.name}) cannot be read"
                )
            found.append(Region(section.address, section.data, np.frombuffer(blob, np.uint8)))
        return found

    def _of(self, code: Code, tables: Tables, regions: Sequence[Region]) -> Live:
        """The facts that this object's code depends on."""
        facts = self._facts
        if code is not self.code:
            wanted = live.keys_of(tables, facts.static_keys) | constants.variables(tables)
            words = {**facts.words, **live.words(self.memory, wanted - facts.words.keys())}
            facts = replace(facts, words=words)
        rows = retpolines(regions, tables)
        thunks = live.far_thunks(self.memory, rows, facts.indirect_thunks)
        return replace(facts, indirect_thunks={**facts.indirect_thunks, **thunks})

    # --- what the kernel tells ------------------------------------------------------------

    @cached_property
    def _facts(self) -> Live:
        more = constants.variables(self.tables)
        return live.read(self.machine, self.memory, self.tables, self._foreign, more)

    @cached_property
    def _foreign(self) -> Sequence[str]:
        """The lines of kallsyms that are not of the kernel proper."""
        lines = self.machine.read_bytes("/proc/modules") or b""
        names = [line.split()[0].decode() for line in lines.splitlines()]
        owners = [live.FTRACE, live.KPROBES, live.BPF, *(f"[{name}]" for name in names)]
        return self.machine.matching_lines(text.KALLSYMS, owners)

    @cached_property
    def _modules(self) -> Mapping[str, Mapping[str, int]]:
        """The symbols of each module; of several of one name the first."""
        found: dict[str, dict[str, int]] = {}
        for line in self._foreign:
            fields = line.split()
            owned = found.setdefault(fields[-1].strip("[]"), {})
            owned.setdefault(fields[2], int(fields[0], 16))
        return found

    @cached_property
    def _exported(self) -> Mapping[str, int]:
        """What modules may refer to: global symbols of the kernel, exported ones of modules."""
        table = self.symbols.table
        found = {}
        for symbols in self._modules.values():
            for name, address in symbols.items():
                if EXPORT + name in symbols:
                    found[name] = address
        upper = np.nonzero((table.types >= ord("A")) & (table.types <= ord("Z")))[0]
        for index in upper.tolist():
            address = int(table.addresses[index])
            found[table.names[index]] = address + (self.shift if address >= KERNEL_BASE else 0)
        return found

    def _resolve(self, name: str) -> int | None:
        return self._exported.get(name)

    def _sections(self, name: str) -> Mapping[str, int]:
        return self._all_sections.get(name, {})

    @cached_property
    def _all_sections(self) -> Mapping[str, Mapping[str, int]]:
        """Where the sections of each module are; nothing where the kernel hides that."""
        texts = self.machine.read_many(
            ["/sys/module/*/sections/.*", "/sys/module/*/sections/[!.]*"]
        )
        found: dict[str, dict[str, int]] = {}
        for path, value in texts.items():
            module, _, section = path.removeprefix("/sys/module/").split("/", 2)
            if value.strip() and (address := int(value, 16)):
                found.setdefault(module, {})[section] = address
        return found


def retpolines(regions: Sequence[Region], tables: Tables) -> list[tuple[int, bytes]]:
    """The address and the bytes of each retpoline site."""
    places = tables.places(".retpoline_sites")
    found = []
    for region in regions:
        for at in region.offsets(places[region.inside(places, 6)]).tolist():
            found.append((region.address + at, region.found[at : at + 6].tobytes()))
    return found
