"""Do the parts of a kernel belong together? What they say of themselves is compared.

image and configuration      the image's `Linux version` line names the compiler
Module.symvers and modules   the CRCs that modules were linked against (modversions)
source and configuration     the version in the Makefile, and in the configuration's first lines
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice

from ...base.errors import PatchInputError
from ...elf.model import ElfFile
from ...kernel import config as kernel_config
from ...kernel import image as kernel_image
from ...kernel.modules import load_module, module_files
from ...kernel.symvers import parse as parse_symvers
from .choose import Chosen
from .parts import Part

_HEADER = re.compile(r"^# Linux/\S+ (\d+\.\d+(?:\.\d+)?)\S* Kernel Configuration", re.MULTILINE)
_MODULES_READ = 3  # each names tens of symbols
_ENTRY, _CRC = 64, 8  # bytes of a struct modversion_info; its CRC is an unsigned long


def compiler_text(config: str) -> str:
    """CONFIG_CC_VERSION_TEXT, "" where there is none."""
    return kernel_config.parse(config).get("CC_VERSION_TEXT") or ""


def image_and_config(image: Part, config: Part, compiler: str) -> None:
    """Raises PatchInputError when the image was built by another compiler than configured."""
    banner = kernel_image.load(image.path).banner
    if f"({compiler}" not in banner:
        raise PatchInputError(
            f"{config} names the compiler '{compiler}', and {image} says '{banner}'",
            hint="image and configuration are of different builds: give packages of one build",
        )


def symvers_and_modules(symvers: Part, text: str, modules: Sequence[Part]) -> None:
    """Raises PatchInputError when modules were linked against other CRCs than `text` has.

    Says nothing of kernels without modversions, and of symbols that are not in `text`.
    """
    exports = parse_symvers(text)
    for folder in modules:
        for path in islice(module_files(folder.path), _MODULES_READ):
            module = load_module(path)
            for name, crc in crcs(module.elf).items():
                export = exports.get(name)
                if export is not None and export.crc and export.crc != crc:
                    raise PatchInputError(
                        f"{symvers} has {export.crc:#010x} for '{name}', and {path.name} of "
                        f"{folder.root.origin} was linked against {crc:#010x}",
                        hint="headers and modules are of different builds: give packages of one",
                    )


def crcs(module: ElfFile) -> dict[str, int]:
    """The CRCs that a module wants, by symbol (section __versions, struct modversion_info)."""
    section = module.section_by_name.get("__versions")
    data = bytes(section.data) if section is not None else b""
    entries = (data[at : at + _ENTRY] for at in range(0, len(data), _ENTRY))
    return {
        e[_CRC:].partition(b"\0")[0].decode(): int.from_bytes(e[:_CRC], "little") for e in entries
    }


def source_and_config(version: str, chosen: Chosen, config: str, usual: str) -> None:
    """Raises PatchInputError when the source is of another version than was configured."""
    match = _HEADER.search(config)
    if match is not None and version and version != match[1]:
        raise PatchInputError(
            f"{chosen.source.title} is Linux {version}, and {chosen.release} was configured from "
            f"{match[1]}",
            hint=f"give the source of this build: {usual}",
        )
