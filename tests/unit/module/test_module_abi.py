"""struct module has to be laid out as in the modules that the kernel ships."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest

from rebootless.base.errors import MismatchError
from rebootless.elf.constants import Reloc
from rebootless.elf.model import ElfFile
from rebootless.elf.reader import parse
from rebootless.elf.writer import OutObject, OutReloc, OutSection, OutSymbol, serialize
from rebootless.kernel.modules import ModuleImage
from rebootless.module.abi import SECTION, check_abi, module_layout


def module(size: int, **fields: int) -> ElfFile:
    section = OutSection(SECTION, flags=3, data=bytes(size))
    symbols = [OutSymbol(name, binding=1) for name in fields]
    section.relocs = [
        OutReloc(offset, int(Reloc.R64), symbol, 0)
        for symbol, offset in zip(symbols, fields.values(), strict=True)
    ]
    return parse(serialize(OutObject([section], symbols)), name="m.ko")


def shipped(elf: ElfFile) -> ModuleImage:
    return ModuleImage(Path("m.ko"), "m", elf, "", "", MappingProxyType({}))


OURS = module(896, init_module=312, cleanup_module=840)


def test_the_same_layout_is_fine() -> None:
    assert module_layout(OURS) == (896, {"init_module": 312, "cleanup_module": 840})
    check_abi(OURS, [shipped(OURS)])
    check_abi(OURS, [])


def test_modules_without_an_exit_prove_nothing() -> None:
    check_abi(OURS, [shipped(module(960, init_module=312)), shipped(OURS)])


@pytest.mark.parametrize(
    "theirs",
    [
        module(960, init_module=312, cleanup_module=840),
        module(896, init_module=312, cleanup_module=856),
    ],
)
def test_another_layout_is_named(theirs: ElfFile) -> None:
    with pytest.raises(MismatchError, match=r"shipped module m: 896 bytes.*there"):
        check_abi(OURS, [shipped(module(896, init_module=312)), shipped(theirs)])
